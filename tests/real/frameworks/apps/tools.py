"""Each framework among Sentry, tracing and metrics, with the middleware inside of them, outside, both, or not there.

Sentry's own integration of a framework stands where it puts itself: around the app, but in Django's case around its
handler, and in Falcon's nowhere. What each tool tells is an event of its run.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import django  # type: ignore[import-untyped]  # it has no types
import falcon.asgi
import litestar
import quart
import sentry_sdk
from django.conf import settings  # type: ignore[import-untyped]  # it has no types
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from litestar.logging import LoggingConfig
from litestar.middleware import DefineMiddleware
from litestar.plugins.prometheus import PrometheusConfig
from litestar.response import Stream
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import REGISTRY
from prometheus_fastapi_instrumentator.middleware import PrometheusInstrumentatorMiddleware
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.transport import Transport
from servers import serve  # type: ignore[import-not-found]  # a package of its own in the server's process
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette_exporter import PrometheusMiddleware

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe import sentry

from ..sizes import POSITIONS, TOOL_SITUATIONS

settings.configure(ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, ROOT_URLCONF=sys.modules[__name__], SECRET_KEY="tests")
django.setup()

from django.core.handlers.asgi import ASGIHandler  # type: ignore[import-untyped]  # noqa: E402  # after the settings
from django.http import HttpResponse, StreamingHttpResponse  # type: ignore[import-untyped]  # noqa: E402
from django.urls import path  # type: ignore[import-untyped]  # noqa: E402

__all__ = ["app"]

SECONDS_PER_TICK = 0.02
TICKS_UNTIL_IT_LEAVES = 5
"""The client. They take longer than the 75 ms after which the middleware has checked for the first time."""

TICKS_AT_MOST = 60

Wrap = Callable[[Any], Any]


def _run_of(path: str) -> str:
    return path.rpartition("/")[2]


# The tools


class _Telling(Transport):
    """Tells the test of each transaction."""

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            if item.type == "transaction":
                event: Any = item.payload.json
                serve.emit(run=_run_of(event["request"]["url"]), transaction=event["contexts"]["trace"].get("status"))


def _before_send(event: Any, hint: Any) -> Any:
    exception = hint["exc_info"][1] if "exc_info" in hint else None
    if exception is not None and hint.get("log_record") is None:
        is_kept = sentry.before_send(event, hint) is not None
        serve.emit(run=_run_of(event["request"]["url"]), captured=serve.named(exception), is_kept=is_kept)
    return None


class _Exporter(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        for span in spans:
            self._tell(span)
        return SpanExportResult.SUCCESS

    @staticmethod
    def _tell(span: ReadableSpan) -> None:
        if span.kind is trace.SpanKind.SERVER:
            attributes: Any = span.attributes
            run = _run_of(attributes.get("http.target") or attributes["url.path"])
            status = attributes.get("http.status_code") or attributes.get("http.response.status_code")
            serve.emit(run=run, span=span.status.status_code.name, status=status)


sentry_sdk.init(dsn="http://key@localhost/1", transport=_Telling(), before_send=_before_send, traces_sample_rate=1.0)
_provider = TracerProvider(shutdown_on_exit=False)
_provider.add_span_processor(SimpleSpanProcessor(_Exporter()))


def _traced(app: Any) -> Any:
    return OpenTelemetryMiddleware(app, tracer_provider=_provider, meter_provider=metrics.NoOpMeterProvider())


def _count(info: Any) -> None:
    run = _run_of(info.request.url.path)
    serve.emit(run=run, counted_by="prometheus-fastapi-instrumentator", counted_as=info.modified_status)


_COUNTERS = {"starlette_requests_total": "starlette_exporter", "litestar_requests_total": "Litestar"}


async def _counted(scope: Any, receive: Any, send: Any) -> None:
    """Tell of what is in Prometheus' registry."""
    samples = [sample for metric in REGISTRY.collect() for sample in metric.samples if sample.name in _COUNTERS]
    for sample in samples:
        run, status = _run_of(sample.labels["path"]), sample.labels["status_code"]
        serve.emit(run=run, counted_by=_COUNTERS[sample.name], counted_as=status)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


serve.APPS["counted", "-"] = _counted

# The work, and where the middleware stands


async def _ticks(scope: Any) -> AsyncIterator[bytes]:
    for number in range(TICKS_AT_MOST):
        if number == TICKS_UNTIL_IT_LEAVES:
            scope["tests.play"].ready("working")
        await asyncio.sleep(SECONDS_PER_TICK)
        yield b"tick\n"


async def _work(scope: Any) -> None:
    async for _ in _ticks(scope):
        pass


def _positions(situation: str) -> dict[str, tuple[Wrap, Wrap]]:
    """What wraps the app inside of the tools, and outside of them."""

    def install(app: Any) -> Any:
        return DisconnectMiddleware(app, policy="mute" if situation == "upload" else "cancel")

    def leave(app: Any) -> Any:
        return app

    return dict(zip(POSITIONS, [(leave, leave), (install, leave), (leave, install), (install, install)], strict=True))


def _play(framework: str, make: Callable[[str, Wrap], Any]) -> None:
    """Have the server play the app in each position; `make` puts what it is given inside of the tools."""
    for situation in TOOL_SITUATIONS:
        for position, (inside, outside) in _positions(situation).items():
            serve.APPS[f"{framework}-{situation}", position] = outside(make(situation, inside))


# Starlette, FastAPI


async def _before_of_starlette(request: Request) -> Response:
    await _work(request.scope)
    return PlainTextResponse("done")


async def _stream_of_starlette(request: Request) -> Response:
    return StreamingResponse(_ticks(request.scope))


async def _upload_of_starlette(request: Request) -> Response:
    request.scope["tests.play"].ready("working")
    return PlainTextResponse(str(len(await request.body())))


_ENDPOINTS = {"before": _before_of_starlette, "stream": _stream_of_starlette, "upload": _upload_of_starlette}


def _make_starlette(situation: str, inside: Wrap) -> Any:
    return Starlette(
        routes=[Route("/{app}/{variant}/{run}", _ENDPOINTS[situation], methods=["GET", "POST"])],
        middleware=[
            Middleware(_traced),
            Middleware(
                PrometheusInstrumentatorMiddleware,
                instrumentations=[_count],
                should_group_status_codes=False,
            ),
            Middleware(PrometheusMiddleware, group_paths=False),
            Middleware(inside),
        ],
    )


def _make_fastapi(situation: str, inside: Wrap) -> Any:
    """With its own telemetry."""
    api = FastAPI(telemetry={"tracer_provider": _provider, "metrics": False, "logs": False})
    api.api_route("/{app}/{variant}/{run}", methods=["GET", "POST"])(_ENDPOINTS[situation])
    api.add_middleware(inside)
    return api


# Django


async def before(request: Any, **names: str) -> Any:
    await _work(request.scope)
    return HttpResponse("done")


async def stream(request: Any, **names: str) -> Any:
    return StreamingHttpResponse(_ticks(request.scope))


async def upload(request: Any, **names: str) -> Any:
    return HttpResponse(str(len(request.body)))


urlpatterns = [path(f"django-{view.__name__}/<variant>/<run>", view) for view in (before, stream, upload)]


def _make_django(situation: str, inside: Wrap) -> Any:
    return _traced(inside(ASGIHandler()))


# Quart


async def _before_of_quart(**names: str) -> str:
    await _work(quart.request.scope)
    return "done"


async def _stream_of_quart(**names: str) -> quart.Response:
    return quart.Response(_ticks(quart.request.scope))


async def _upload_of_quart(**names: str) -> str:
    quart.request.scope["tests.play"].ready("working")  # type: ignore[typeddict-item]  # it is ours
    return str(len(await quart.request.get_data()))


_VIEWS: dict[str, Any] = {"before": _before_of_quart, "stream": _stream_of_quart, "upload": _upload_of_quart}


def _make_quart(situation: str, inside: Wrap) -> Any:
    made = quart.Quart(__name__)
    made.add_url_rule("/<app>/<variant>/<run>", view_func=_VIEWS[situation], methods=["GET", "POST"])
    made.asgi_app = _traced(inside(made.asgi_app))  # type: ignore[method-assign]  # as Quart documents it
    return made


# Litestar

_WHERE = "/{app_:str}/{variant:str}/{run:str}"


@litestar.get(_WHERE)
async def _before_of_litestar(request: litestar.Request[Any, Any, Any]) -> str:
    await _work(request.scope)
    return "done"


@litestar.get(_WHERE)
async def _stream_of_litestar(request: litestar.Request[Any, Any, Any]) -> Stream:
    return Stream(_ticks(request.scope))


@litestar.post(_WHERE)
async def _upload_of_litestar(request: litestar.Request[Any, Any, Any]) -> int:
    request.scope["tests.play"].ready("working")  # type: ignore[typeddict-item]  # it is ours
    return len(await request.body())


_HANDLERS: dict[str, Any] = {
    "before": _before_of_litestar,
    "stream": _stream_of_litestar,
    "upload": _upload_of_litestar,
}


def _make_litestar(situation: str, inside: Wrap) -> Any:
    return litestar.Litestar(
        [_HANDLERS[situation]],
        middleware=[DefineMiddleware(_traced), PrometheusConfig().middleware, DefineMiddleware(inside)],
        logging_config=LoggingConfig(log_exceptions="always", configure_root_logger=False),
    )


# Falcon


class _Resource:
    def __init__(self, situation: str) -> None:
        self._situation = situation

    async def on_get(self, req: Any, resp: Any, **names: str) -> None:
        if self._situation == "stream":
            resp.stream = _ticks(req.scope)
        else:
            await _work(req.scope)

    async def on_post(self, req: Any, resp: Any, **names: str) -> None:
        req.scope["tests.play"].ready("working")
        resp.text = str(len(await req.stream.read()))


def _make_falcon(situation: str, inside: Wrap) -> Any:
    api: Any = falcon.asgi.App()
    api.add_route("/{app}/{variant}/{run}", _Resource(situation))
    return SentryAsgiMiddleware(_traced(inside(api)), asgi_version=3)


_play("starlette", _make_starlette)
_play("fastapi", _make_fastapi)
_play("django", _make_django)
_play("quart", _make_quart)
_play("litestar", _make_litestar)
_play("falcon", _make_falcon)

app = serve.app
