"""The requests that an app's OpenAPI document describes, with the least that its schemas allow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from .._clients import HTTPClient

DOCUMENTS = ("/openapi.json", "/schema/openapi.json", "/api/openapi.json")
"""Where it is: FastAPI, BlackSheep and Quart-Schema; Litestar; django-ninja."""

_READING = ("get", "head", "options")
_WRITING = ("post", "put", "patch", "delete")

_OCTETS = b"disconnect_mw.testing\n" * 100

_KINDS = ("application/json", "multipart/form-data", "application/x-www-form-urlencoded")
"""Of bodies, the preferred first."""

_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "reader@example.com",
    "hostname": "example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uri": "http://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


class _NoExample(Exception):
    pass


def requests_of(document: Any, unsafe: bool) -> Iterator[HTTPClient | str]:
    """Yield a client for each operation, or a sentence that says why there is none."""
    for template, item in document["paths"].items():
        for method in (*_READING, *_WRITING):
            operation = item.get(method) if isinstance(item, dict) else None
            if not isinstance(operation, dict):
                continue
            title = f"{method.upper()} {template}"
            if method in _WRITING and not unsafe:
                yield f"{title} may write: it is tried with unsafe=True"
                continue
            try:
                yield _Operation(document, item, operation).client(method.upper(), template)
            except _NoExample as reason:
                yield f"{title}: {reason}, so name it in paths"


class _Operation:
    def __init__(self, document: Any, item: Any, operation: Any) -> None:
        self._document = document
        self._parameters = [
            self._resolve(one) for one in (*item.get("parameters", ()), *operation.get("parameters", ()))
        ]
        self._body = self._resolve(operation.get("requestBody") or {})

    def client(self, method: str, template: str) -> HTTPClient:
        path, query, headers = template, [], []
        for parameter in self._parameters:
            name, place = str(parameter.get("name")), parameter.get("in")
            if place == "path":
                path = path.replace(f"{{{name}}}", quote(_text(self._example(parameter, name)) or "x", safe=""))
            elif place == "query" and parameter.get("required"):
                query.append((name, _text(self._example(parameter, name))))
            elif place == "header" and parameter.get("required"):
                headers.append((name, _text(self._example(parameter, name))))
        if "{" in path:
            raise _NoExample("a parameter of its path is not described")
        body = b""
        if self._body.get("content"):
            kind, body = self._make_body(self._body["content"])
            headers.append(("content-type", kind))
        return HTTPClient(f"{path}?{urlencode(query)}" if query else path, method=method, headers=headers, body=body)

    def _make_body(self, content: dict[str, Any]) -> tuple[str, bytes]:
        """Return a content type and a body of it."""
        kind = next(one for one in (*_KINDS, *content) if one in content)
        if not kind.endswith(("json", "form-data", "urlencoded")):
            return kind, _OCTETS
        value = self._example(content[kind], "its body")
        if kind.endswith("json"):
            return kind, json.dumps(value).encode()
        if not isinstance(value, dict):
            raise _NoExample("a form that is no object")
        if kind.endswith("urlencoded"):
            return kind, urlencode([(name, _text(one)) for name, one in value.items()]).encode()
        return self._make_multipart(content[kind], value)

    def _make_multipart(self, described: Any, value: dict[str, Any]) -> tuple[str, bytes]:
        boundary, parts = "disconnect-mw-testing", []
        properties = self._resolve(described.get("schema")).get("properties", {})
        for name, one in value.items():
            schema = self._resolve(properties.get(name))
            is_file = schema.get("format") == "binary" or "contentMediaType" in schema
            file = f'; filename="{name}.txt"\r\nContent-Type: text/plain' if is_file else ""
            text = _OCTETS.decode() if is_file else _text(one)
            parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n{text}\r\n')
        return f"multipart/form-data; boundary={boundary}", f"{''.join(parts)}--{boundary}--\r\n".encode()

    def _resolve(self, thing: Any) -> Any:
        """Return what a reference within the document stands for."""
        for _ in range(20):
            reference = thing.get("$ref") if isinstance(thing, dict) else None
            if not isinstance(reference, str):
                break
            thing = self._document
            for step in reference.removeprefix("#/").split("/"):
                thing = thing.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(thing, dict) else None
        return thing if isinstance(thing, dict) else {}

    def _example(self, described: Any, what: str) -> Any:
        if "example" in described:
            return described["example"]
        examples = described.get("examples")
        if isinstance(examples, dict) and examples:
            return self._resolve(next(iter(examples.values()))).get("value")
        return self._least(described.get("schema"), what)

    def _least(self, schema: Any, what: str, depth: int = 0) -> Any:
        """Return the least that a schema allows."""
        schema = self._resolve(schema)
        if depth > 20:
            raise _NoExample(f"the schema of {what} has no end")
        for key in ("example", "const", "default"):
            if key in schema:
                return schema[key]
        for key in ("examples", "enum"):
            if isinstance(schema.get(key), list) and schema[key]:
                return schema[key][0]
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return self._least(schema[key][0], what, depth + 1)
        if schema.get("allOf"):
            parts = [self._least(part, what, depth + 1) for part in schema["allOf"]]
            whole = self._least({**schema, "allOf": []}, what, depth + 1)
            objects = [part for part in (*parts, whole) if isinstance(part, dict)]
            return {name: value for part in objects for name, value in part.items()} if objects else parts[0]
        return self._least_of_kind(schema, what, depth)

    def _least_of_kind(self, schema: Any, what: str, depth: int) -> Any:
        kind = schema.get("type")
        kind = kind[0] if isinstance(kind, list) else kind
        if kind == "object" or "properties" in schema:
            properties = schema.get("properties", {})
            return {name: self._least(properties.get(name), name, depth + 1) for name in schema.get("required", ())}
        if kind == "array":
            return [self._least(schema.get("items"), what, depth + 1) for _ in range(schema.get("minItems", 0))]
        if kind in ("integer", "number"):
            least = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
            step = schema.get("multipleOf")
            return least if not step else step * -(-least // step)
        if kind == "boolean":
            return False
        if kind == "null":
            return None
        if "pattern" in schema:
            raise _NoExample(f"no example of {what} can be made from a pattern")
        return _FORMATS.get(schema.get("format", ""), "x" * max(1, schema.get("minLength", 1)))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
