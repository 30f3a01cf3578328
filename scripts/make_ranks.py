"""Packs OpenAI's byte-pair ranks into the files that ``tierllm.cost.tokens`` counts with.

Run: ``python scripts/make_ranks.py DIRECTORY``. The directory holds the official files, either
under their own names (``o200k_base.tiktoken``, ``cl100k_base.tiktoken``; published at
https://openaipublic.blob.core.windows.net/encodings/) or under those of tiktoken's cache (the SHA-1
of that address). The wheel of ``llama-index-core`` carries identical ones in
``llama_index/core/_static/tiktoken_cache``.

Each file must have the SHA-256 that tiktoken states in ``tiktoken_ext/openai_public.py``, or nothing
is written. The packed form: zlib over every token in the order of its rank, each as one byte of
length and its bytes. The same zlib makes the same files.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zlib
from pathlib import Path

PLACE = Path(__file__).parents[1] / "src" / "tierllm" / "cost" / "tokens"
ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
OFFICIAL_SHA256 = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}


def official(directory: Path, name: str) -> bytes:
    """The official file, wherever it lies in ``directory``, once its checksum has been seen to agree."""
    cached = hashlib.sha1(ADDRESS.format(name).encode(), usedforsecurity=False).hexdigest()
    for path in (directory / f"{name}.tiktoken", directory / cached):
        if path.is_file():
            raw = path.read_bytes()
            found = hashlib.sha256(raw).hexdigest()
            if found != OFFICIAL_SHA256[name]:
                raise SystemExit(f"{path}: SHA-256 {found} is not the official {OFFICIAL_SHA256[name]}")
            return raw
    raise SystemExit(f"no {name}.tiktoken and no {cached} in {directory}")


def packed(raw: bytes) -> bytes:
    """The ranks without what can be told from their order."""
    out = bytearray()
    for rank, line in enumerate(raw.splitlines()):
        token64, number = line.split()
        token = base64.b64decode(token64)
        if int(number) != rank or not 0 < len(token) < 256:
            raise SystemExit(f"line {rank + 1} does not fit the packed form")
        out.append(len(token))
        out += token
    return zlib.compress(bytes(out), 9)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for name in OFFICIAL_SHA256:
        data = packed(official(Path(sys.argv[1]), name))
        (PLACE / f"{name}.bin").write_bytes(data)
        print(f"{name}.bin: {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
