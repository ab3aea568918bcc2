"""Which versions of the servers are played: the pinned ones, and older ones."""

from __future__ import annotations

from .pins import pins
from .setups import NEWEST, VERSIONS, Setup


def test_the_last_version_of_each_server_is_the_pinned_one() -> None:
    assert {server: versions[-1] for server, versions in VERSIONS.items()} == {
        server: pins()[server] for server in VERSIONS
    }


def test_a_pinned_server_is_played_with_all_else_as_it_is_pinned() -> None:
    wanted = Setup("uvicorn", VERSIONS["uvicorn"][-1]).requirements()
    assert wanted[0] == f"uvicorn=={pins()['uvicorn']}"
    assert f"starlette=={pins()['starlette']}" in wanted and f"websockets=={pins()['websockets']}" in wanted


def test_an_old_uvicorn_is_played_with_what_it_needs() -> None:
    wanted = Setup("uvicorn", "0.20.0").requirements()
    assert {"uvicorn==0.20.0", "websockets==13.1", "uvloop==0.21.0"} < set(wanted)
    assert f"starlette=={pins()['starlette']}" in wanted


def test_of_the_newest_nothing_is_pinned() -> None:
    for server in VERSIONS:
        wanted = Setup(server, NEWEST).requirements()
        assert wanted[0] == server
        assert not [one for one in wanted if "=" in one]
