"""The records of `disconnect_mw.testing.servers` and the servers that are installed here: the same."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from disconnect_mw.testing import Answers, HTTPServerBehaviour, Raises, Server, WebSocketServerBehaviour, servers

from .. import IS_FULL
from .behaviour import (
    NOT_CALLED,
    Proof,
    as_on,
    difference,
    impatient,
    play_in_memory,
    prove,
    records_of,
    scripts_for,
    to_prove,
)
from .scripts import MESSAGES, SCRIPTS, UPLOAD_CUT, WAYS
from .setups import INSTALLED, VERSIONS, Setup, setups_of
from .test_servers import PLAYED, why_not

SERVERS_AT_ONCE = 5
"""They wait for the most part."""

PROVEN = [setup for setup in dict.fromkeys(map(to_prove, PLAYED)) if setup is not None and why_not(setup) is None]
if not IS_FULL:  # nor anycorn, which is as Hypercorn, nor granian's second runtime mode
    PROVEN = [setup for setup in PROVEN if setup.server != "anycorn" and setup.worker != "mt"]


@pytest.fixture(scope="module", autouse=True)
def proofs(request: pytest.FixtureRequest) -> Iterator[dict[Setup, Future[Proof]]]:
    chosen = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    setups = [params["proven"] for params in chosen if "proven" in params]
    with ThreadPoolExecutor(SERVERS_AT_ONCE) as threads:
        yield {setup: threads.submit(prove, sys.executable, setup) for setup in setups}


def test_a_release_without_a_record_is_compared_with_the_newest_and_that_is_said() -> None:
    setup = Setup("uvicorn", INSTALLED, "asyncio", "h11", "wsproto")
    assert records_of(setup, "0.34.3") == ([servers.UVICORN_0_34_3_WSPROTO], "")
    found, word = records_of(setup, "0.99.1")
    assert found == [servers.UVICORN_0_54_0_WSPROTO]
    assert word == "uvicorn 0.99.1 has no record of its own: compared with the newest, uvicorn-0.54.0-wsproto"
    assert records_of(Setup("hypercorn", INSTALLED), "0.18.0")[0] == [
        servers.HYPERCORN_0_18_0,
        servers.HYPERCORN_0_18_0_HTTP2,
    ]


def test_every_record_of_a_server_is_proven() -> None:
    setups = [
        setup for server, versions in VERSIONS.items() for version in versions for setup in setups_of(server, version)
    ]
    proven = set()
    for setup in filter(None, map(to_prove, setups)):
        records, word = records_of(setup, setup.version)
        assert not word
        proven.update(records)
    assert proven == {record for record in servers.ALL if not str(record).startswith("spec-")}


def test_a_difference_names_server_script_and_line() -> None:
    script = SCRIPTS[1]
    told = difference(servers.DAPHNE_4_2_3, script, ("a", "b", "c"), ("a", "x"))
    assert told.splitlines() == [
        f"daphne-4.2.3: {script}: differs in line 2",
        "    a",
        "  ! b   -- the record has: x",
        "  ! c   -- the record has: (nothing)",
    ]


# Every field of a record is proven: were it another, some script would go another way.

OSERROR = Raises(OSError)
ALL_RAISE = Answers(OSERROR, OSERROR, OSERROR, OSERROR, OSERROR, OSERROR)

HTTP_VARIATIONS: dict[str, tuple[Server, Any]] = {
    "spec_version": (servers.UVICORN_0_54_0, "2.4"),
    "extensions": (servers.UVICORN_0_54_0, ("http.response.push",)),
    "drops_unread": (servers.GUNICORN_27_0_1, False),
    "blocked_send": (servers.UVICORN_0_54_0, "blocks"),
    "stays_blocked": (servers.GUNICORN_27_0_1, True),
    "half_close": (servers.UVICORN_0_54_0, "delivers"),
    "cancels_after": (servers.DAPHNE_4_2_3, 0.1),
    "http_version": (servers.UVICORN_0_54_0, "2"),
    "send": (servers.UVICORN_0_54_0, OSERROR),
    "buffer_size": (servers.HYPERCORN_0_18_0_HTTP2, 65536),
    "send_after_reset": (servers.HYPERCORN_0_18_0_HTTP2, None),
    "disconnect_comes": (servers.UVICORN_0_54_0, "after a send"),
    "disconnects": (servers.UVICORN_0_54_0, 2),
    "disconnects_of_cut_upload": (servers.GRANIAN_1_7_6, 1),
    "wakes_all": (servers.UVICORN_0_54_0, False),
    "read_ahead": (servers.UVICORN_0_54_0, None),
    "buffers_upload": (servers.UVICORN_0_54_0, True),
    "disconnect_after_end": (servers.UVICORN_0_54_0, False),
    "send_after_end": (servers.UVICORN_0_54_0, "silent"),
    "false_disconnect": (servers.UVICORN_0_54_0, True),
}

WEBSOCKET_VARIATIONS: dict[str, tuple[Server, Any]] = {
    "spec_version": (servers.UVICORN_0_54_0, "2.3"),
    "extensions": (servers.GUNICORN_27_0_1, ("websocket.http.response",)),
    "drops_unread": (servers.UVICORN_0_54_0, True),
    "blocked_send": (servers.UVICORN_0_54_0, "blocks"),
    "stays_blocked": (servers.UVICORN_0_34_3_WSPROTO, False),
    "half_close": (servers.UVICORN_0_54_0, "delivers"),
    "cancels_after": (servers.DAPHNE_4_2_3, 0.1),
    "lost": (servers.UVICORN_0_54_0, ALL_RAISE),
    "closed": (servers.GUNICORN_27_0_1, None),
    "received": (servers.UVICORN_0_54_0, None),
    "before_accept": (servers.UVICORN_0_54_0, ALL_RAISE),
    "after_end": (servers.UVICORN_0_54_0, ALL_RAISE),
    "after_refusal": (servers.GUNICORN_27_0_1, None),
    "unread_hides_disconnect": (servers.UVICORN_0_54_0_WSPROTO, False),
    "second_reader": (servers.UVICORN_0_54_0, "waits"),
    "sends_until_noticed": (servers.UVICORN_0_54_0, 1),
    "codes_of_loss": (servers.UVICORN_0_54_0, (1000,)),
    "codes_of_reset": (servers.UVICORN_0_54_0, (1000,)),
    "codes_of_close": (servers.UVICORN_0_54_0, (1000,)),
    "codes_before_accept": (servers.UVICORN_0_54_0, (1000,)),
    "codes_after_end": (servers.UVICORN_0_54_0, (1000,)),
    "codes_after_refusal": (servers.UVICORN_0_54_0, (1000,)),
    "codes_after_denial": (servers.UVICORN_0_54_0, (1000,)),
    "late_close_code": (servers.UVICORN_0_34_3_WSPROTO, None),
    "late_refusal_codes": (servers.UVICORN_0_13_4_WSPROTO, None),
    "then": (servers.UVICORN_0_54_0, "waits"),
    "receive_before_accept": (servers.UVICORN_0_54_0, "waits"),
    "gives_reason": (servers.UVICORN_0_54_0, False),
}

VARIATIONS = [
    *(pytest.param("http", name, id=f"http-{name}") for name in HTTP_VARIATIONS),
    *(pytest.param("websocket", name, id=f"websocket-{name}") for name in WEBSOCKET_VARIATIONS),
]


def test_every_field_of_a_record_is_varied_below() -> None:
    assert set(HTTP_VARIATIONS) == {field.name for field in dataclasses.fields(HTTPServerBehaviour)}
    assert set(WEBSOCKET_VARIATIONS) == {field.name for field in dataclasses.fields(WebSocketServerBehaviour)}


@pytest.mark.parametrize(("protocol", "name"), VARIATIONS)
def test_a_record_that_drifts_in_one_field_fails(protocol: str, name: str) -> None:
    record, value = (HTTP_VARIATIONS if protocol == "http" else WEBSOCKET_VARIATIONS)[name]
    behaviour = dataclasses.replace(getattr(record, protocol), **{name: value})
    drifted = dataclasses.replace(record, **{protocol: behaviour})
    lingers = name == "cancels_after"
    scripts = [
        script
        for script in scripts_for(drifted)
        if script.protocol == protocol and ("linger" in script.words) == lingers
    ]
    assert play_in_memory(drifted, scripts, 0.2) != play_in_memory(record, scripts, 0.2)


def test_the_servers_own_cancellation_is_looked_for_when_it_is_told_to_come_soon() -> None:
    record = servers.GUNICORN_27_0_1
    scripts = scripts_for(record, is_impatient=True)
    assert [script.protocol for script in scripts] == ["http", "websocket"]
    assert [lines[-1] for lines in play_in_memory(impatient(record), scripts)] == ["linger: cancelled"] * 2


def test_a_python_that_does_not_pause_leaves_gunicorn_unblocked() -> None:
    record = servers.GUNICORN_27_0_1
    for python in ((3, 12, 0), (3, 12, 8), (3, 13, 1)):
        assert as_on(record, python).http.blocked_send == "never blocks"
    for python in ((3, 11, 9), (3, 12, 9), (3, 13, 2), (3, 14, 0)):
        assert as_on(record, python) is record
    assert as_on(servers.UVICORN_0_54_0, (3, 12, 1)) is servers.UVICORN_0_54_0


def test_daphne_does_not_call_an_app_for_a_cut_upload() -> None:
    script = next(script for script in SCRIPTS if script.client == UPLOAD_CUT)
    assert play_in_memory(servers.DAPHNE_4_2_3, [script]) == [NOT_CALLED]


def test_every_word_of_a_script_means_something() -> None:
    known = {*MESSAGES, *WAYS, "receive", "receive+", "body", "some", "pour", "join", "pause", "much", "linger"}
    known |= {"got", "scope"}
    assert {word for script in SCRIPTS for word in script.words} <= known
    assert len({str(script) for script in SCRIPTS}) > 80


# Last, because they have begun before all others.


@pytest.mark.parametrize("proven", PROVEN, ids=str)
def test_a_record_gives_what_its_server_gives(proofs: dict[Setup, Future[Proof]], proven: Setup) -> None:
    proof = proofs[proven].result()
    assert proof.is_good, str(proof)
