"""Quart: a view, a stream."""

from __future__ import annotations

from quart import Quart, Response, request

from .work import install, steps

quart = Quart(__name__)


@quart.route("/quart-view/<variant>/<run>")
async def view(variant: str, run: str) -> str:
    async for _ in steps(request.scope):
        pass
    return "done"


@quart.route("/quart-stream/<variant>/<run>")
async def stream(variant: str, run: str) -> Response:
    return Response(steps(request.scope))


for _name in ("quart-view", "quart-stream"):
    install(_name, quart)
