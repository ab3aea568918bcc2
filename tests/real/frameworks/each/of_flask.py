"""The Flask app of both adapters."""

from __future__ import annotations

from flask import Flask, Response, request

from .work import ran, work_in_thread

flask = Flask(__name__)


@flask.teardown_request
def _teardown(exception: BaseException | None) -> None:
    ran("teardown_request")


@flask.get("/before/<variant>/<run>")
@flask.get("/bug/<variant>/<run>")
def before(variant: str, run: str) -> str:
    return "".join(work_in_thread())


@flask.get("/stream/<variant>/<run>")
@flask.get("/bug_stream/<variant>/<run>")
def stream(variant: str, run: str) -> Response:
    return Response(work_in_thread())


@flask.post("/upload/<variant>/<run>")
def upload(variant: str, run: str) -> str:
    request.get_data()
    return "".join(work_in_thread())


@flask.post("/form/<variant>/<run>")
def form(variant: str, run: str) -> str:
    request.files["file"].read()
    return "".join(work_in_thread())
