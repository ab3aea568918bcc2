"""What to try: the routes that are named, or those of the app's OpenAPI document, with example bodies.

`disconnect_mw.testing.check` takes those of the document from here as well.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from ._example import NoExample, make, resolved

WRITING_METHODS = ("POST", "PUT", "PATCH", "DELETE")
_METHODS = ("GET", *WRITING_METHODS)
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")

DOCUMENTS = ("/openapi.json", "/schema/openapi.json", "/api/openapi.json", "/docs/openapi.json")
"""Where frameworks serve their OpenAPI document: FastAPI, BlackSheep and Quart-Schema; Litestar; django-ninja."""


@dataclasses.dataclass(frozen=True)
class Route:
    """One request to try. `path` has the query string; `template` is for people, and for patterns."""

    protocol: str  # "http" or "websocket"
    method: str
    path: str
    template: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    say: tuple[str, ...] = ()  # what the client of a WebSocket sends
    label: str = ""  # what tells it from others of the path, or what it was recognised as
    is_mcp: bool = False  # each client begins a session of its own first

    @property
    def title(self) -> str:
        label = f" ({self.label})" if self.label else ""
        return f"{'WS' if self.protocol == 'websocket' else self.method} {self.template}{label}"


@dataclasses.dataclass
class Found:
    """The routes that were found, and one sentence for each that is left out."""

    routes: list[Route] = dataclasses.field(default_factory=list)
    left_out: list[str] = dataclasses.field(default_factory=list)
    paths: set[str] = dataclasses.field(default_factory=set)  # of the document, those that are left out included


def read_document(text: bytes) -> Any:
    """Return the OpenAPI document. Raises `ValueError`, with a sentence, for one that is broken."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the OpenAPI document is not JSON ({error})") from None
    if not isinstance(document, dict) or not isinstance(document.get("paths"), dict):
        raise ValueError('the OpenAPI document has no "paths"')
    return document


def routes_of_document(
    document: Any,
    *,
    is_unsafe: bool,
    headers: tuple[tuple[str, str], ...] = (),
    unsafe: str = "--unsafe",
    named_by: str = "--path and --data",
) -> Found:
    """Return a request for each operation of the document; of those that write only where `is_unsafe`.

    `unsafe` and `named_by` are what a user is told to write for what is left out.
    """
    found = Found()
    writing = 0
    for template, operations in document["paths"].items():
        found.paths.add(template)
        for method in _METHODS:
            operation = operations.get(method.lower()) if isinstance(operations, dict) else None
            if not isinstance(operation, dict):
                continue
            if method in WRITING_METHODS and not is_unsafe:
                writing += 1
                continue
            try:
                found.routes.append(_request(document, method, template, operations, operation, headers))
            except NoExample as reason:
                found.left_out.append(f"{method} {template} is not tried: {reason}; name it by {named_by}")
    if writing:
        routes = "1 route that writes is" if writing == 1 else f"{writing} routes that write are"
        found.left_out.append(f"{routes} not tried (POST, PUT, PATCH, DELETE): {unsafe} tries them, and they do write")
    return found


def routes_of_app(listed: list[dict[str, Any]], headers: tuple[tuple[str, str], ...], known: set[str]) -> Found:
    """Return requests for the routes that the app's own table has: WebSockets, and what a document does not have."""
    found = Found()
    for entry in listed:
        path = entry["path"]
        if path in known or (not entry["is_websocket"] and "GET" not in entry["methods"]):
            continue
        if "{" in path:
            kind = "--websocket" if entry["is_websocket"] else "--path"
            found.left_out.append(f"{path} is not tried, since it has parameters: name it by {kind}")
            continue
        protocol = "websocket" if entry["is_websocket"] else "http"
        found.routes.append(Route(protocol, "GET", path, path, headers))
    return found


def _request(
    document: Any, method: str, template: str, path_item: Any, operation: Any, headers: tuple[tuple[str, str], ...]
) -> Route:
    path, query, more = template, [], list(headers)
    parameters = [
        resolved(document, one) for one in (*path_item.get("parameters", ()), *operation.get("parameters", ()))
    ]
    for parameter in parameters:
        place, name = parameter.get("in"), parameter.get("name", "")
        if place != "path" and not parameter.get("required"):
            continue
        value = _example_of(document, parameter, f"the parameter {name!r}", is_text=place == "path")
        if place == "path":
            path = path.replace(f"{{{name}}}", quote(_text(value), safe=""))
        elif place == "query":
            query.append((name, _text(value)))
        elif place == "header":
            more.append((name, _text(value)))
    if "{" in path:
        raise NoExample("a parameter of its path is not described")
    body = None
    content = resolved(document, operation.get("requestBody") or {}).get("content") or {}
    if method in WRITING_METHODS and content:
        kind, body = _body(document, content)
        more.append(("content-type", kind))
    target = f"{path}?{urlencode(query)}" if query else path
    return Route("http", method, target, template, tuple(more), body)


def _body(document: Any, content: dict[str, Any]) -> tuple[str, bytes]:
    """Return the content type and an example of a request body."""
    kind = next(kind for kind in ("application/json", *_FORMS, *content) if kind in content)
    described = content[kind] if isinstance(content[kind], dict) else {}
    if kind == "application/octet-stream" or kind.startswith("text/"):
        return kind, b"disconnect-mw check\n" * 50
    value = _example_of(document, described, "its body")
    if kind in _FORMS and not isinstance(value, dict):
        raise NoExample("its body is a form, and described as no object")
    if kind == "application/x-www-form-urlencoded":
        return kind, urlencode({name: _text(one) for name, one in value.items()}).encode()
    if kind == "multipart/form-data":
        return _multipart(document, described, value)
    return kind, json.dumps(value).encode()


def _multipart(document: Any, described: Any, value: Any) -> tuple[str, bytes]:
    schema = resolved(document, described.get("schema") or {})
    boundary = secrets.token_hex(16)
    parts = []
    for name, one in value.items():
        field = resolved(document, schema.get("properties", {}).get(name, {}))
        is_file = field.get("format") == "binary" or "contentMediaType" in field
        file = f'; filename="{name}.txt"\r\nContent-Type: text/plain' if is_file else ""
        text = "disconnect-mw check\n" * 50 if is_file else _text(one)
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n{text}\r\n')
    return f"multipart/form-data; boundary={boundary}", f"{''.join(parts)}--{boundary}--\r\n".encode()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _examples_in(document: Any, described: Any) -> Iterator[Any]:
    """Yield what the document itself gives as examples, the most specific first."""
    schema = resolved(document, described.get("schema") or {})
    for holder in (described, schema):
        if "example" in holder:
            yield holder["example"]
        examples = holder.get("examples")
        if isinstance(examples, dict):
            yield from (resolved(document, one).get("value") for one in examples.values())
        elif isinstance(examples, list):
            yield from examples
    if "default" in schema:
        yield schema["default"]


def _example_of(document: Any, described: Any, what: str, *, is_text: bool = False) -> Any:
    """Return an example of what is described: the document's own, else the least that its schema allows."""
    examples = [example for example in _examples_in(document, described) if example is not None]
    if examples:
        return examples[0]
    schema = described.get("schema")
    if not isinstance(schema, dict):
        raise NoExample(f"the document does not describe {what}")
    least = {**resolved(document, schema), "minLength": 1} if is_text else schema
    try:
        return make(document, least)
    except NoExample as reason:
        raise NoExample(f"of {what} there is no example, and {reason}") from None
