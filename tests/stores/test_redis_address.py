"""Addresses of Redis that no call could use are refused ahead of all calls."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tierllm import ConfigError
from tierllm.caching import RedisLayer
from tierllm.stores import RedisStore
from tierllm.stores.redis_address import check_address

GOOD = (
    "redis://",
    "redis://h",
    "redis://:verysecret@h:6380/3",
    "redis://h?db=3&protocol=3&client_name=a&max_connections=9&socket_timeout=0.5&socket_keepalive=yes",
    "rediss://h/0?ssl_ca_certs=/x&ssl_cert_reqs=none&ssl_check_hostname=no",
    "unix:///run/redis.sock?db=2",
)
BAD = (
    "",
    "verysecret@h",
    "http://verysecret@h",
    "redis://verysecret@h:99999",
    "redis://verysecret@h/x",
    "redis://verysecret@h/1/2",
    "redis://verysecret@h?db=-1",
    "redis://h?verysecret=1",
    "redis://h?retry=verysecret",
    "redis://h?decode_responses=true",
)
MISFITS = (
    "redis://h?ssl_ca_certs=verysecret",
    "unix:///verysecret?socket_keepalive=1",
    "redis://h?max_connections=verysecret",
    "redis://h?protocol=9",
    "rediss://h?ssl_cert_reqs=verysecret",
)
"""Their names are good: only the package can tell that such a connection does not take them."""


@pytest.mark.parametrize("url", GOOD)
def test_what_can_be_called(url: str) -> None:
    check_address(url)
    RedisLayer(url).close()


@pytest.mark.parametrize("make", [RedisLayer, RedisStore])
@pytest.mark.parametrize("url", [*BAD, *MISFITS])
def test_what_cannot_is_refused_ahead_and_never_quoted(url: str, make: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match=r"^should ") as told:
        check_address(url)
    with pytest.raises(ConfigError, match=f"{make.__name__}: the url should ") as refused:
        make(url)
    assert str(refused.value).endswith(str(told.value))
    assert "verysecret" not in str(refused.value)


def test_without_the_package_what_can_be_seen_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    for url in (*GOOD, *MISFITS):
        check_address(url)
    for url in BAD:
        with pytest.raises(ValueError, match=r"^should "):
            check_address(url)
