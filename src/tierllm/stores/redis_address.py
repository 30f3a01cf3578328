"""Addresses of Redis, looked at ahead of all calls: each of them would fail of a wrong one."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qsl, urlsplit

from ..errors import ConfigError

if TYPE_CHECKING:
    import redis

__all__ = ["check_address", "load_redis", "pool_of"]

OPTIONS = frozenset(
    {"db", "protocol", "client_name", "username", "password", "max_connections", "health_check_interval"}
    | {"socket_timeout", "socket_connect_timeout", "socket_keepalive"}
    | {"ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data"}
    | {"ssl_check_hostname", "ssl_min_version", "ssl_ciphers"}
)
"""What may stand behind the question mark. The package takes others as well, texts that it cannot use."""

MISFIT = (
    "should have no other options than such a connection takes, with values that fit: "
    "ssl_ca_certs, say, goes with rediss://"
)


def load_redis() -> ModuleType:
    """The ``redis`` package, imported when first needed."""
    try:
        return import_module("redis")
    except ImportError as exc:
        raise ConfigError('the redis package is not installed: pip install "tierllm[redis]"') from exc


def check_address(url: str) -> None:
    """Raise ``ValueError``, which does not quote it, where ``url`` is no address that can be called."""
    try:
        sdk = load_redis()
    except ConfigError:  # whoever calls is told
        _check(url)
    else:
        pool_of(url, sdk)


def pool_of(url: str, sdk: ModuleType) -> redis.ConnectionPool:
    """Connections to ``url``, none of them open. Raises ``ValueError`` like ``check_address``."""
    _check(url)
    try:
        pool = cast("redis.ConnectionPool", sdk.ConnectionPool.from_url(url))
        kind, settings = pool.connection_class, pool.connection_kwargs
        for connection in (kind, getattr(import_module("redis.asyncio"), kind.__name__)):
            connection(**settings)  # opens nothing; what it does not take would be found by each call
    except Exception:  # of any kind, and it may quote a password
        raise ValueError(MISFIT) from None
    return pool


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True)
        good = url.startswith(("redis://", "rediss://", "unix://")) and parts.port != 0
    except ValueError:  # such as a port that there is not
        good, options = False, []
    if good:
        number = "0" if parts.scheme == "unix" else parts.path.strip("/") or "0"
        numbers = [number, *(value for name, value in options if name == "db")]
        good = all(each.isascii() and each.isdigit() for each in numbers)
    if not good:
        raise ValueError(
            "should be an address such as redis://localhost:6379/0, rediss://… (TLS) or unix:///path"
        )
    if not OPTIONS.issuperset(name for name, _ in options):
        raise ValueError(MISFIT)
