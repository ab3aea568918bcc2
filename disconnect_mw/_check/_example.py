"""Makes the least that a schema of an OpenAPI document allows, and has jsonschema judge it."""

from __future__ import annotations

import math
from typing import Any

_DEPTH = 20

_OF_FORMAT = {
    "date": "2024-01-01",
    "date-time": "2024-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "check@example.com",
    "hostname": "example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uri": "http://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_TEXT = "check"


class NoExample(Exception):
    """Why there is none."""


def resolved(document: Any, thing: Any) -> Any:
    """Return what a reference within the document stands for; `{}` for one that leads nowhere."""
    for _ in range(_DEPTH):
        reference = thing.get("$ref") if isinstance(thing, dict) else None
        if not isinstance(reference, str):
            break
        thing = document
        for step in reference.removeprefix("#/").split("/"):
            thing = thing.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(thing, dict) else None
    return thing if isinstance(thing, dict) else {}


def make(document: Any, schema: Any) -> Any:
    """Return an example.

    Raises `NoExample` where none is found that the schema allows (a pattern, a recursion), `ImportError` without
    jsonschema.
    """
    judge = _judge_of(document)
    value = _least(document, schema, 0)
    whole = {**schema, **{key: document[key] for key in ("components", "definitions", "$defs") if key in document}}
    try:
        problem = next(judge(whole).iter_errors(value), None)
    except Exception as error:  # a reference that leads nowhere, a keyword with a wrong value
        raise NoExample(f"its schema is broken ({type(error).__name__})") from None
    if problem is not None:
        raise NoExample(f"none was found that its schema allows ({problem.message[:80]})")
    return value


def _judge_of(document: Any) -> Any:
    """The validator for the document's version: OpenAPI 3.0 has the words of JSON Schema's draft 4."""
    try:
        import jsonschema  # type: ignore[import-untyped]  # it has no types
    except ImportError as missing:
        raise ImportError(
            "examples for an OpenAPI document need jsonschema: pip install 'disconnect-mw[check]'"
        ) from missing
    is_old = str(document.get("openapi", "")).startswith("3.0")
    return jsonschema.Draft4Validator if is_old else jsonschema.Draft202012Validator


def _least(document: Any, schema: Any, depth: int) -> Any:
    if depth > _DEPTH:
        raise NoExample("its schema contains itself")
    schema = resolved(document, schema)
    for key in ("const", "default", "example"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            choices = [one for one in schema[key] if resolved(document, one).get("type") != "null"] or schema[key]
            rest = {name: value for name, value in schema.items() if name != key}
            return _least(document, _merged(document, [rest, choices[0]]), depth + 1)
    if schema.get("allOf"):
        rest = {name: value for name, value in schema.items() if name != "allOf"}
        return _least(document, _merged(document, [rest, *schema["allOf"]]), depth + 1)
    return _of_type(document, schema, depth)


def _merged(document: Any, schemas: list[Any]) -> dict[str, Any]:
    """One schema for all; where two say different things the later one counts, and the judge has the last word."""
    found: dict[str, Any] = {}
    for schema in schemas:
        for key, value in resolved(document, schema).items():
            if key == "properties":
                found[key] = {**found.get(key, {}), **value}
            elif key == "required":
                found[key] = [*found.get(key, []), *value]
            else:
                found[key] = value
    return found


def _of_type(document: Any, schema: Any, depth: int) -> Any:
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    match kind:
        case "object":
            properties = schema.get("properties", {})
            return {name: _least(document, properties.get(name, {}), depth + 1) for name in schema.get("required", ())}
        case "array":
            return [_least(document, schema.get("items", {}), depth + 1) for _ in range(schema.get("minItems", 0))]
        case "integer" | "number":
            return _number(schema, kind == "integer")
        case "boolean":
            return False
        case "null":
            return None
    text = _OF_FORMAT.get(schema.get("format", ""), _TEXT).ljust(schema.get("minLength", 0), "x")
    return text[: schema.get("maxLength", len(text))]


def _number(schema: Any, is_whole: bool) -> int | float:
    """The number nearest to 1 within the bounds."""
    step = schema.get("multipleOf", 1 if is_whole else 0) or 0
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    margin = step or 1
    # In OpenAPI 3.0 they are booleans beside the bounds.
    if above is not None and above is not False:
        low = max(low, (low if above is True else above) + margin)
    if below is not None and below is not False:
        high = min(high, (high if below is True else below) - margin)
    value = min(max(step or 1, low), high)
    if step:
        value = math.ceil(value / step) * step
    return int(value) if is_whole else value
