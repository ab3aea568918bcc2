"""The routes that `disconnect-mw check` tries: of an OpenAPI document with example bodies, and of the app's table."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from disconnect_mw._check._example import NoExample, make, resolved
from disconnect_mw._check._routes import Found, Route, read_document, routes_of_app, routes_of_document


def routes(operations: Any, *, is_unsafe: bool = True, **parts: Any) -> Found:
    return routes_of_document({"paths": {"/a": operations}, **parts}, is_unsafe=is_unsafe, headers=(("x", "1"),))


def body(schema: Any, kind: str = "application/json", **parts: Any) -> Route:
    content = {kind: {"schema": schema}}
    found = routes({"post": {"requestBody": {"content": content}}}, **parts)
    assert found.left_out == []
    (route,) = found.routes
    return route


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"<html>", "is not JSON"),
        (b"[]", 'has no "paths"'),
        (b'{"paths": []}', 'has no "paths"'),
    ],
)
def test_a_broken_document_is_told(text: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_document(text)


def test_routes_that_write_need_to_be_asked_for() -> None:
    document = {"paths": {"/a": {"get": {}, "post": {}, "x-note": "no operation"}, "/b": {"delete": {}}, "/c": None}}
    safe = routes_of_document(read_document(json.dumps(document).encode()), is_unsafe=False, headers=())
    assert [route.title for route in safe.routes] == ["GET /a"]
    assert safe.left_out == [
        "2 routes that write are not tried (POST, PUT, PATCH, DELETE): --unsafe tries them, and they do write"
    ]
    assert safe.paths == {"/a", "/b", "/c"}
    unsafe = routes_of_document(document, is_unsafe=True, headers=())
    assert [route.title for route in unsafe.routes] == ["GET /a", "POST /a", "DELETE /b"]
    one = routes_of_document({"paths": {"/a": {"post": {}}}}, is_unsafe=False, headers=())
    assert one.left_out[0].startswith("1 route that writes is not tried")


def test_parameters_get_examples() -> None:
    parameters = [
        {"name": "id", "in": "path", "schema": {"type": "string"}},
        {"name": "q", "in": "query", "required": True, "schema": {"type": "integer", "minimum": 7}},
        {"name": "page", "in": "query", "schema": {"type": "integer"}},
        {"name": "X-Key", "in": "header", "required": True, "example": "secret"},
        {"name": "c", "in": "cookie", "required": True, "schema": {"default": "d"}},
    ]
    document = {"paths": {"/a/{id}": {"parameters": parameters[:1], "get": {"parameters": parameters[1:]}}}}
    (route,) = routes_of_document(document, is_unsafe=False, headers=(("x", "1"),)).routes
    assert (route.path, route.template) == ("/a/check?q=7", "/a/{id}")
    assert route.headers == (("x", "1"), ("X-Key", "secret"))


def test_a_parameter_that_is_not_described_leaves_the_route_out() -> None:
    document = {"paths": {"/a/{id}": {"get": {}}, "/b/{id}": {"get": {"parameters": [{"name": "id", "in": "path"}]}}}}
    found = routes_of_document(document, is_unsafe=False, headers=())
    assert found.routes == []
    assert found.left_out == [
        "GET /a/{id} is not tried: a parameter of its path is not described; name it by --path and --data",
        "GET /b/{id} is not tried: the document does not describe the parameter 'id'; name it by --path and --data",
    ]


@pytest.mark.parametrize(
    "described",
    [
        {"example": {"a": 1}},
        {"examples": {"one": {"value": {"a": 1}}}},
        {"examples": {"one": {"$ref": "#/components/examples/one"}}},
        {"schema": {"examples": [{"a": 1}]}},
        {"schema": {"default": {"a": 1}}},
    ],
)
def test_the_document_s_own_examples_come_first(described: Any) -> None:
    components = {"examples": {"one": {"value": {"a": 1}}}}
    operation = {"requestBody": {"content": {"application/json": described}}}
    (route,) = routes({"post": operation}, components=components).routes
    assert json.loads(route.body or b"") == {"a": 1}
    assert ("content-type", "application/json") in route.headers


def test_bodies_of_each_content_type() -> None:
    text = {"type": "object", "required": ["a", "n"], "properties": {"a": {"type": "string"}, "n": {"type": "integer"}}}
    assert body(text, "application/x-www-form-urlencoded").body == b"a=check&n=1"
    assert (body(text, "text/csv").body or b"").startswith(b"disconnect-mw check\n")
    assert json.loads(body(text, "application/vnd.api+json").body or b"") == {"a": "check", "n": 1}
    file = {"$ref": "#/components/schemas/F"}
    schemas = {
        "F": {"type": "object", "required": ["f", "a"], "properties": {"f": {"format": "binary"}, "a": {"const": 3}}}
    }
    form = body(file, "multipart/form-data", components={"schemas": schemas})
    kind = dict(form.headers)["content-type"]
    boundary = kind.partition("boundary=")[2].encode()
    assert form.body is not None and form.body.startswith(b"--" + boundary) and form.body.endswith(b"--\r\n")
    assert b'name="f"; filename="f.txt"\r\nContent-Type: text/plain' in form.body
    assert b'name="a"\r\n\r\n3\r\n' in form.body


def test_a_form_that_is_no_object_leaves_the_route_out() -> None:
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        found = routes({"post": {"requestBody": {"content": {kind: {"schema": {"type": "string"}}}}}})
        assert found.routes == []
        (sentence,) = found.left_out
        assert sentence.startswith("POST /a is not tried: its body is a form, and described as no object; name it by ")


def test_a_body_that_cannot_be_made_up_leaves_the_route_out() -> None:
    operation = {"requestBody": {"content": {"application/json": {"schema": {"type": "string", "pattern": "^z+$"}}}}}
    found = routes({"post": operation})
    assert found.routes == []
    assert found.left_out[0].startswith("POST /a is not tried: of its body there is no example, and none was found")
    assert found.left_out[0].endswith("; name it by --path and --data")


def test_routes_of_the_app_s_own_table() -> None:
    listed = [
        {"path": "/known", "methods": ["GET"], "is_websocket": False},
        {"path": "/page", "methods": ["GET", "HEAD"], "is_websocket": False},
        {"path": "/save", "methods": ["POST"], "is_websocket": False},
        {"path": "/ws", "methods": [], "is_websocket": True},
        {"path": "/ws/{id}", "methods": [], "is_websocket": True},
        {"path": "/page/{id}", "methods": ["GET"], "is_websocket": False},
    ]
    found = routes_of_app(listed, (("x", "1"),), {"/known"})
    assert [(route.title, route.headers) for route in found.routes] == [
        ("GET /page", (("x", "1"),)),
        ("WS /ws", (("x", "1"),)),
    ]
    assert found.left_out == [
        "/ws/{id} is not tried, since it has parameters: name it by --websocket",
        "/page/{id} is not tried, since it has parameters: name it by --path",
    ]


DOCUMENT = {
    "components": {
        "schemas": {
            "Node": {
                "type": "object",
                "required": ["next"],
                "properties": {"next": {"$ref": "#/components/schemas/Node"}},
            },
            "Name": {"type": "string", "minLength": 9},
            "Odd~1/": {"const": 5},
        }
    }
}


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        ({"const": 3}, 3),
        ({"default": "d", "type": "string"}, "d"),
        ({"example": "e"}, "e"),
        ({"enum": ["a", "b"]}, "a"),
        ({"examples": [1, 2]}, 1),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, False),
        ({"oneOf": [{"type": "null"}]}, None),
        ({"anyOf": [{"properties": {"a": {}}, "required": ["a"]}], "properties": {"b": {}}}, {"a": "check"}),
        ({"oneOf": [{"required": ["a"]}], "properties": {"a": {}}, "required": ["b"]}, {"b": "check", "a": "check"}),
        ({"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "null"}}}]}, {"a": None}),
        ({"type": ["null", "integer"]}, 1),
        ({"type": ["null"]}, None),
        ({"type": "array", "items": {"type": "integer"}}, []),
        ({"type": "array", "minItems": 2, "items": {"type": "integer"}}, [1, 1]),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "maximum": -5}, -5),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "integer", "exclusiveMaximum": 1}, 0),
        ({"type": "integer", "minimum": 5, "multipleOf": 4}, 8),
        ({"type": "number", "exclusiveMinimum": 0}, 1),
        ({"type": "number", "multipleOf": 0.5}, 0.5),
        ({"type": "string", "format": "uuid"}, "00000000-0000-4000-8000-000000000000"),
        ({"type": "string", "maxLength": 2}, "ch"),
        ({"type": "string", "minLength": 7}, "checkxx"),
        ({"$ref": "#/components/schemas/Name"}, "checkxxxx"),
        ({"$ref": "#/components/schemas/Odd~01~1"}, 5),
        ({}, "check"),
    ],
)  # fmt: skip
def test_the_least_that_a_schema_allows(schema: Any, example: Any) -> None:
    assert make(DOCUMENT, schema) == example


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"$ref": "#/components/schemas/Node"}, "contains itself"),
        ({"type": "string", "pattern": "^z+$"}, "none was found that its schema allows"),
        ({"$ref": "#/components/schemas/None"}, "its schema is broken"),
    ],
)
def test_what_has_no_example_is_told(schema: Any, told: str) -> None:
    with pytest.raises(NoExample, match=told):
        make(DOCUMENT, schema)


def test_examples_need_a_library_which_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(
        ImportError, match=r"examples for an OpenAPI document need jsonschema: pip install 'disconnect-mw\[check\]'"
    ):
        make({}, {"type": "integer"})


def test_openapi_3_0_has_booleans_for_exclusive_bounds() -> None:
    document = {"openapi": "3.0.3"}
    assert make(document, {"type": "integer", "minimum": 1, "exclusiveMinimum": True}) == 2
    assert make(document, {"type": "integer", "maximum": 1, "exclusiveMaximum": True}) == 0
    assert make(document, {"type": "integer", "minimum": 1, "exclusiveMinimum": False}) == 1


def test_odd_documents() -> None:
    assert body({"const": 1}, "application/xml").body == b"1"
    found = routes(
        {"post": {"requestBody": {"content": {"application/json": {"example": None, "schema": {"const": 1}}}}}}
    )
    assert found.routes[0].body == b"1"
    circle = {"components": {"a": {"$ref": "#/components/a"}}}
    assert "$ref" in resolved(circle, {"$ref": "#/components/a"})
