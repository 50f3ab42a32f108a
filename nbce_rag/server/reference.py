"""The interface as a page to read, with a line of curl for each example. It loads nothing from elsewhere."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

__all__ = ["HEADERS", "reference_page"]

HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
"""With these the page is sent."""

_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { border-top: 1px solid #8884; padding-top: 1.5rem; font-size: 1.1rem; }
h2 b { color: #06c; } pre { background: #8881; padding: .8rem; overflow-x: auto; }
td, th { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; }
td { border-top: 1px solid #8883; }
nav a { display: inline-block; margin-right: 1rem; } :root { color-scheme: light dark; }
"""


def reference_page(api: Mapping[str, Any], base: str) -> str:
    """A page of HTML.

    Args:
        api: what `GET /openapi.json` gives.
        base: the server's address, for the lines of curl.
    """
    operations = [
        (verb.upper(), path, one) for path, methods in api["paths"].items() for verb, one in methods.items()
    ]
    links = "".join(f'<a href="#{_anchor(verb, path)}">{escape(path)}</a> ' for verb, path, _ in operations)
    body = "".join(_operation(api, base, verb, path, one) for verb, path, one in operations)
    title = escape(f"{api['info']['title']} {api['info']['version']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1><p>{escape(api['info'].get('description', ''))} "
        f'The same for programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"<nav>{links}</nav>{body}</body></html>\n"
    )


def _operation(api: Mapping[str, Any], base: str, verb: str, path: str, one: Mapping[str, Any]) -> str:
    schema = _body_schema(api, one)
    told = "".join(f"<p>{escape(part)}</p>" for part in one.get("description", "").split("\n\n"))
    examples = (schema or {}).get("examples", [None])
    curls = "".join(f"<pre>{escape(_curl(base, verb, path, example))}</pre>" for example in examples)
    fields = "" if schema is None else _fields(api, schema)
    heading = f'<h2 id="{_anchor(verb, path)}"><b>{verb}</b> {escape(path)}</h2>'
    return f"<section>{heading}{told}{curls}{fields}</section>"


def _body_schema(api: Mapping[str, Any], one: Mapping[str, Any]) -> Mapping[str, Any] | None:
    content = one.get("requestBody", {}).get("content", {}).get("application/json")
    return None if content is None else _resolved(api, content["schema"])


def _resolved(api: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Mapping[str, Any] = api["components"]["schemas"][name] if name else schema
    return found


def _fields(api: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>{' *' if name in required else ''}</td>"
        f"<td>{escape(' | '.join(dict.fromkeys(_types(api, field))))}</td>"
        f"<td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table><tr><th>field</th><th>is</th><th></th></tr>{rows}</table>" if rows else ""


def _types(api: Mapping[str, Any], field: Mapping[str, Any]) -> Iterator[str]:
    if "enum" in field or "const" in field:
        yield from (json.dumps(value) for value in field.get("enum", [field.get("const")]))
    elif "anyOf" in field:
        for part in field["anyOf"]:
            yield from _types(api, part)
    elif "$ref" in field:
        yield f"object ({', '.join(_resolved(api, field).get('properties', {}))})"
    elif field.get("type") == "array":
        yield f"list of {' | '.join(_types(api, field.get('items', {})))}"
    else:
        yield str(field.get("type", "anything"))


def _curl(base: str, verb: str, path: str, body: Any) -> str:
    if body is None:
        return f"curl {base}{path}" if verb == "GET" else f"curl -X {verb} {base}{path}"
    text = json.dumps(body, ensure_ascii=False, indent=1)
    return f"curl {base}{path} -H 'Content-Type: application/json' -d {shlex.quote(text)}"


def _anchor(verb: str, path: str) -> str:
    return escape(f"{verb.lower()}-{path.strip('/').replace('/', '-').translate({123: None, 125: None})}")
