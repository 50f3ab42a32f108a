"""What `GET /openapi.json` gives: the interface, with errors, streams and reports in their forms."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ..answers.report import report_schema

__all__ = ["ERRORS", "REPORT_REPLY", "STREAM_REPLY", "describe"]

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ERROR_REPLY: dict[str, Any] = {
    "description": "An error, in OpenAI's form.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": _ERROR_REPLY, "5XX": _ERROR_REPLY}
"""What every route may answer."""

_TEXT = {"type": "string"}
_EVENT = {"type": "object", "required": ["data"], "properties": {"event": _TEXT, "data": _TEXT}}
_EVENTS = {"text/event-stream": {"schema": _EVENT}}
_REPORT = {"application/json": {"schema": {"$ref": "#/components/schemas/Report"}}}
STREAM_REPLY: dict[int | str, dict[str, Any]] = {200: {"description": "The reply.", "content": _EVENTS}}
"""Of a route that streams where it is asked to."""
REPORT_REPLY: dict[int | str, dict[str, Any]] = {
    200: {"description": "The report of an answer.", "content": {**_REPORT, **_EVENTS}}
}
"""Of a route that gives the report of an answer."""


def describe(app: FastAPI) -> dict[str, Any]:
    """The description of an application, made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        schemas["Error"] = _ERROR
        schemas |= _report_schemas()
        app.openapi_schema = made
    return app.openapi_schema


def _report_schemas() -> dict[str, Any]:
    """The schema of a report, its parts under names of their own. A server's replies say more."""
    report = report_schema()
    parts = report.pop("$defs", {})
    for name in ("$schema", "$id"):
        report.pop(name, None)
    report["additionalProperties"] = True
    return {"Report": _moved(report)} | {f"Report{name}": _moved(part) for name, part in parts.items()}


def _moved(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_moved(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: one.replace("#/$defs/", "#/components/schemas/Report") if name == "$ref" else _moved(one)
        for name, one in schema.items()
    }
