"""The package as a whole: its names, its weight, its shape."""

from __future__ import annotations

import ast
import importlib
import importlib.resources
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import tierllm
import tierllm.testing

SOURCE = Path(tierllm.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))

PUBLIC = [
    "AdaptiveConcurrency",
    "AdaptiveSampling",
    "Admission",
    "Agreement",
    "AllTiersFailedError",
    "Attempt",
    "AuthenticationError",
    "Budget",
    "BudgetExceededError",
    "CacheMissError",
    "Call",
    "CallCancelledError",
    "CallHandle",
    "Cascade",
    "Chunk",
    "CircuitBreaker",
    "CircuitOpenError",
    "ClientClosedError",
    "ClientThrottle",
    "Config",
    "ConfigError",
    "Consent",
    "ContentFilteredError",
    "ContextWindowExceededError",
    "Contract",
    "CostEstimator",
    "DeadlineExceededError",
    "DecisionLog",
    "Deployment",
    "DiskLayer",
    "DiskStore",
    "Estimate",
    "FallbackChain",
    "FormatCheck",
    "Hedge",
    "Hours",
    "InvalidRequestError",
    "LearnedScorer",
    "Load",
    "MalformedResponseError",
    "MemoryLayer",
    "MemoryStore",
    "NotConfirmedError",
    "Objective",
    "Price",
    "PriceBook",
    "ProviderError",
    "ProviderTimeoutError",
    "ProviderUnavailableError",
    "QueuedCall",
    "RateLimit",
    "RateLimitError",
    "RedisLayer",
    "RedisStore",
    "RejectedError",
    "Request",
    "RequestTooLargeError",
    "Response",
    "ResultCache",
    "Retry",
    "RetryBudget",
    "Route",
    "Router",
    "Rule",
    "RuleScorer",
    "Schedule",
    "ServicePlan",
    "Shadow",
    "Shift",
    "Step",
    "StickySessions",
    "StoreUnavailableError",
    "StreamInterruptedError",
    "ThrottledError",
    "Tier",
    "TierLLMError",
    "TieredClient",
    "Timeouts",
    "ToolCall",
    "Trace",
    "UnknownOptionError",
    "Usage",
    "UsageError",
    "UsageLedger",
    "configure",
    "scope",
    "tiered",
]

HEAVY = [
    "asyncio",
    "cachetools",
    "diskcache",
    "genai_prices",
    "httpx",
    "httpx2",
    "openai",
    "pydantic",
    "redis",
    "rich",
    "sqlite3",
    "tenacity",
    "tiktoken",
    "typing_extensions",
    "xllamacpp",
    "zoneinfo",
]


def loaded(code: str) -> set[str]:
    """The top-level modules in memory after ``code`` ran in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


# -- names -----------------------------------------------------------------------


def test_the_public_names() -> None:
    assert tierllm.__all__ == PUBLIC
    assert sorted(tierllm.__all__) == tierllm.__all__


@pytest.mark.parametrize("package", ["tierllm", "tierllm.testing", "tierllm.providers"])
def test_each_name_is_there_and_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(module.__all__) == list(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        assert name in dir(module)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{package}.{name} has no docstring"


def test_import_star() -> None:
    names: dict[str, object] = {}
    exec("from tierllm import *", names)
    assert set(tierllm.__all__) <= set(names)


def test_unknown_names() -> None:
    for module in (tierllm, tierllm.testing):
        with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
            _ = module.Nonsense
    with pytest.raises(ImportError):
        exec("from tierllm import Nonsense")


@pytest.mark.parametrize("package", ["tierllm", "tierllm.testing"])
def test_lazy_names_agree_with_what_type_checkers_see(package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse(inspect.getsource(module))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: step.module
        for block in blocks
        for step in block.body
        if isinstance(step, ast.ImportFrom)
        for alias in step.names
    }
    assert seen == module._HOMES
    assert sorted(module._HOMES) == module.__all__


# -- weight ----------------------------------------------------------------------


def test_importing_loads_nothing_heavy() -> None:
    assert not loaded("import tierllm").intersection(HEAVY)


def test_a_sync_call_loads_nothing_heavy() -> None:
    code = """
from tierllm import Deployment, Tier, TieredClient
from tierllm.testing import FakeProvider
client = TieredClient([Tier("gold", [Deployment("big", FakeProvider())])])
assert client.complete("Hello").text
with client.stream("Hello") as stream:
    assert list(stream)
client.close()
"""
    assert loaded(code).intersection(HEAVY) <= {"typing_extensions"}


# -- shape -----------------------------------------------------------------------


def test_types_ship() -> None:
    assert importlib.resources.files("tierllm").joinpath("py.typed").is_file()


@pytest.mark.parametrize("module", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_module_reads_in_one_sitting(module: Path) -> None:
    lines = module.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 450, f"{len(lines)} lines"


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(module.relative_to(SOURCE))
        for module in MODULES
        if not ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_every_module_can_be_imported_first() -> None:
    """No module needs another to have been imported before it."""
    names = [m.name for m in pkgutil.walk_packages([str(SOURCE)], "tierllm.") if "__main__" not in m.name]
    code = """
import importlib, sys
for name in sys.argv[1:]:
    for loaded in [m for m in sys.modules if m.partition(".")[0] == "tierllm"]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
