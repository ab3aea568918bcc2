"""The MCP Python SDK's server is recognised, and clients leave it in sessions of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from disconnect_mw.__main__ import main

APPS = Path(__file__).parent / "apps"


@pytest.mark.parametrize("app", ["app", "stateless"])
def test_the_sdks_mcp_server_is_recognised(app: str, tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="NOT tested here: the MCP SDK is not in the extra `test`")
    report = tmp_path / "report.json"
    arguments = ("--app-dir", str(APPS), "--server", "uvicorn", "--quick", "--quiet", "--path", "/mcp")
    main(["check", f"mcp_server:{app}", *arguments, "--json", str(report)])
    (server,) = json.loads(report.read_text(encoding="utf-8"))["servers"]
    results = {route["label"]: route for route in server["routes"]}
    assert set(results) == {"listen", "tools/list", "tools/call search"}
    assert not any(route["skipped"] for route in results.values())
    assert server["notes"] == ["1 tool that may write is not called at /mcp: --unsafe calls them, and they do write"]
    played = {
        label: {one["phase"] for one in route["wrapped"]["departures"] if not one["not_played"]}
        for label, route in results.items()
    }
    assert "first bytes" in played["listen"]
    assert {"upload", "first bytes"} <= played["tools/call search"]  # the SDK begins its answer before the tool is done
    # The SDK logs a cut upload before the middleware can act: `observe.logging.install()` is the advice.
    assert {finding["code"] for route in results.values() for finding in route["wrapped"]["findings"]} <= {"traceback"}
    assert all(route["same_for_a_client_that_stays"] for route in results.values())
