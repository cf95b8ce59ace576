"""The API's own OpenAPI document, and `/docs`, written from it for people; nothing is fetched from elsewhere."""

import json
from html import escape
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

router = APIRouter(include_in_schema=False)

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h2 { margin: 2rem 0 .5rem; text-transform: capitalize; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; padding: .4rem .7rem; }
summary { cursor: pointer; } summary b { display: inline-block; min-width: 4.5rem; }
code, pre { font: 14px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { background: var(--soft); border-radius: .3rem; overflow-x: auto; padding: .5rem; white-space: pre-wrap; }
table { border-collapse: collapse; } td { padding: .15rem .8rem .15rem 0; vertical-align: top; }
"""


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    return HTMLResponse(_kept(request).page, headers={"Content-Security-Policy": _POLICY})


@router.get("/openapi.json")
async def document(request: Request) -> Response:
    return Response(_kept(request).document, media_type="application/json")


class Written(NamedTuple):
    """The bytes of both. They are asked for without a token, and what they say is settled when the app is made."""

    document: bytes
    page: bytes


def _kept(request: Request) -> Written:
    state = request.app.state
    if state.written is None:
        found = request.app.openapi()
        state.written = Written(bytes(JSONResponse(found).body), page(found).encode())
    kept: Written = state.written
    return kept


def page(document: dict[str, Any]) -> str:
    """The whole document as one page; every text in it is escaped."""
    by_tag: dict[str, list[str]] = {tag["name"]: [] for tag in document.get("tags", [])}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            shown = _operation(document, method.upper(), path, operation)
            by_tag.setdefault((operation.get("tags") or ["other"])[0], []).append(shown)
    words = {tag["name"]: tag.get("description", "") for tag in document.get("tags", [])}
    sections = [
        f"<h2>{escape(name)}</h2><p>{escape(words.get(name, ''))}</p>{''.join(shown)}"
        for name, shown in by_tag.items()
        if shown
    ]
    info = document["info"]
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style>"
    )
    intro = (
        f"<h1>{escape(info['title'])} API <small>{escape(info['version'])}</small></h1><p>{escape(info['description'])}"
        " The same for programs: <a href='openapi.json'>openapi.json</a>.</p>"
    )
    return f"<!doctype html><html lang=en><head>{head}</head><body>{intro}{''.join(sections)}</body></html>"


def _operation(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<p>{escape(operation.get('description', ''))}</p>"]
    if parameters := operation.get("parameters"):
        rows = "".join(
            f"<tr><td><code>{escape(each['name'])}</code><td>{escape(each['in'])}"
            f"<td>{escape(each.get('description', ''))}"
            for each in parameters
        )
        parts.append(f"<table>{rows}</table>")
    for media in operation.get("requestBody", {}).get("content", {}).values():
        parts.append(f"<p>Body</p><pre>{_shape(document, media.get('schema', {}))}</pre>")
    for status, answer in operation.get("responses", {}).items():
        parts.append(f"<p><b>{escape(str(status))}</b> {escape(answer.get('description', ''))}</p>")
        for media in answer.get("content", {}).values():
            codes = media.get("examples")
            if codes:
                parts.append("<p>" + ", ".join(f"<code>{escape(code)}</code>" for code in codes) + "</p>")
            elif media.get("schema"):
                parts.append(f"<pre>{_shape(document, media['schema'])}</pre>")
    title = f"<b>{escape(method)}</b> <code>{escape(path)}</code> {escape(operation.get('summary', ''))}"
    return f"<details><summary>{title}</summary>{''.join(parts)}</details>"


def _shape(document: dict[str, Any], schema: dict[str, Any]) -> str:
    return escape(json.dumps(_outline(document, schema, 0), indent=2, ensure_ascii=False))


def _outline(document: dict[str, Any], schema: dict[str, Any], depth: int) -> Any:
    """A schema as an example-like value: property names with their types."""
    if depth > 5:
        return "..."
    if "$ref" in schema:
        return _outline(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], depth + 1)
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        shown = [_outline(document, choice, depth + 1) for choice in choices]
        words = [each for each in shown if isinstance(each, str)]
        return " | ".join(words) if len(words) == len(shown) else next(e for e in shown if not isinstance(e, str))
    if "properties" in schema:
        return {name: _outline(document, each, depth + 1) for name, each in schema["properties"].items()}
    if schema.get("type") == "array":
        return [_outline(document, schema.get("items", {}), depth + 1)]
    if "enum" in schema:
        return " | ".join(str(each) for each in schema["enum"])
    return str(schema.get("const", schema.get("format", schema.get("type", "anything"))))
