"""The report as JSON. `report.schema.json` beside this file is its schema."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ._evidence import Departure, Logged, OnServer, Report, Result, Side, Stay

SCHEMA_VERSION = 1


def to_json(report: Report, status: int) -> str:
    """Return the report as JSON, with a newline at its end. `status` is the exit status."""
    document = {
        "schema": SCHEMA_VERSION,
        "disconnect_mw": report.version,
        "app": report.app,
        "middleware": report.options,
        "seconds": round(report.seconds, 3),
        "interrupted": report.is_interrupted,
        "exit_status": status,
        "servers": [_of_server(server) for server in report.servers],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n"


def _of_server(server: OnServer) -> dict[str, Any]:
    return {
        "name": server.name,
        "version": server.version,
        "python": server.facts.get("python"),
        "framework": server.facts.get("framework"),
        "app_has_the_middleware": server.has_own,
        "problem": server.problem,
        "problem_lines": server.lines,
        "notes": server.notes,
        "routes": [_of_result(result) for result in server.results],
        "log_of_no_client": {"bare": _of_log(server.bare_log), "wrapped": _of_log(server.log)},
    }


def _of_result(result: Result) -> dict[str, Any]:
    route = result.route
    return {
        "protocol": route.protocol,
        "method": route.method,
        "path": route.path,
        "template": route.template,
        "skipped": result.is_skipped,
        "same_for_a_client_that_stays": result.is_same,
        "same_how": result.same,
        "bare": _of_side(result.bare, result.bare_findings),
        "wrapped": _of_side(result.wrapped, result.findings),
        "advice": [dataclasses.asdict(advice) for advice in result.advice],
    }


def _of_side(side: Side, findings: Any) -> dict[str, Any]:
    return {
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "stays": [_of_stay(stay) for stay in side.stays],
        "departures": [_of_departure(departure) for departure in side.departures],
        "memory": None if side.memory is None else dataclasses.asdict(side.memory),
        "memory_not_measured": side.no_memory,
    }


def _of_stay(stay: Stay) -> dict[str, Any]:
    return {
        "status": stay.status,
        "content_type": stay.kind or None,
        "bytes": len(stay.body),
        "messages": len(stay.messages),
        "whole": stay.is_whole,
        "seconds": round(stay.seconds, 4),
        "problem": stay.problem,
        "log": _of_log(stay.log),
    }


def _of_departure(departure: Departure) -> dict[str, Any]:
    found = dataclasses.asdict(departure)
    found["log"] = _of_log(departure.log)
    found["files"] = [{"path": path, "bytes": size} for path, size in departure.files]
    found["timeline"] = [{**mark, "at": round(mark["at"], 4)} for mark in found["timeline"]]
    return found


def _of_log(log: list[Logged]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(line) for line in log]
