"""What an application declares invalid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .contents import hash_of
from .notices import name_of

if TYPE_CHECKING:
    from .boards import Boards

__all__ = ["Invalidation"]


class Invalidation:
    """The part of a cache that posts notices on its ``boards``."""

    boards: Boards

    def invalidate(
        self,
        *,
        document: str | None = None,
        tag: str | None = None,
        prefix: str | None = None,
        tenant: str | None = None,
        everything: bool = False,
    ) -> None:
        """From now on, answers that rest on a document, or have a tag, are not served any more.

        ``prefix`` means all documents and tags whose names begin so; ``tenant`` narrows each of them
        to one tenant's answers, and alone means all of those. It holds in all layers and all
        processes that share one; answers that are being made just then are not kept.

        Raises ``ConfigError`` where nothing, or too much, is named, and ``StoreUnavailableError`` where
        a layer cannot be told: then it is told later, as long as this process lives.
        """
        named = {"document": document, "tag": tag, "prefix": prefix}
        given = {kind: value for kind, value in named.items() if value is not None}
        for kind, value in {**given, "tenant": tenant}.items():
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigError(f"cache.invalidate({kind}={value!r}): give a name")
        if len(given) > 1 or (everything and (given or tenant is not None)):
            raise ConfigError(
                "cache.invalidate(...): name one of document, tag, prefix and everything at a time"
            )
        if everything:
            self.boards.post([(name_of("all"), None)])
        elif given:
            ((kind, value),) = given.items()
            self.boards.post([(name_of(kind, value, tenant), None)])  # type: ignore[arg-type]
        elif tenant is not None:
            self.boards.post([(name_of("tenant", tenant), None)])
        else:
            raise ConfigError(
                "cache.invalidate(): name a document, a tag, a prefix, a tenant, or everything=True"
            )

    def changed(self, documents: Mapping[str, str | bytes | int], *, tenant: str | None = None) -> None:
        """These documents now have this content (or hash): answers that rest on another are gone.

        Those that rest on this very content stay. From then on, nothing is kept that rests on another.
        Raises as ``invalidate`` does.
        """
        if not isinstance(documents, Mapping) or not documents:
            raise ConfigError('cache.changed(...): give contents by document, such as {"doc:42": text}')
        if tenant is not None and (not isinstance(tenant, str) or not tenant):
            raise ConfigError(f"cache.changed(tenant={tenant!r}): give a name, or leave it out")
        self.boards.post(
            [
                (name_of("content", name, tenant), hash_of(name, content))
                for name, content in documents.items()
            ]
        )

    async def ainvalidate(
        self,
        *,
        document: str | None = None,
        tag: str | None = None,
        prefix: str | None = None,
        tenant: str | None = None,
        everything: bool = False,
    ) -> None:
        """``invalidate``, off the event loop."""
        import asyncio

        await asyncio.to_thread(
            self.invalidate, document=document, tag=tag, prefix=prefix, tenant=tenant, everything=everything
        )

    async def achanged(
        self, documents: Mapping[str, str | bytes | int], *, tenant: str | None = None
    ) -> None:
        """``changed``, off the event loop."""
        import asyncio

        await asyncio.to_thread(self.changed, documents, tenant=tenant)
