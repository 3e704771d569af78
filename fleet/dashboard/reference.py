"""The API's reference as one page, generated from its OpenAPI description, without external assets."""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import Any

STYLE = """
.r-route { padding:12px 16px; border-bottom:1px solid var(--line); } .r-route:last-child { border-bottom:0; }
.r-route p { margin:4px 0 0; color:var(--soft); }
.r-route table { margin-top:8px; border-collapse:collapse; width:100%; table-layout:fixed; }
.r-route td { padding:2px 16px 2px 0; vertical-align:top; overflow-wrap:anywhere; }
.r-route td:last-child { color:var(--soft); width:55%; }
.r-route td:nth-child(2) { width:18%; }
.r-verb { display:inline-block; min-width:64px; font-weight:650; color:var(--accent); }
.r-link { color:var(--accent); text-decoration:underline; }
h2 { text-transform:capitalize; }
"""
AREAS = {"ca": "certificate authority"}
VERBS = ("get", "post", "put", "patch", "delete", "head")


def reference(schema: dict[str, Any]) -> str:
    """HTML with every route of an OpenAPI 3.1 description, by the first part of its path."""
    routes = [
        (_area(path), path, verb, route)
        for path, verbs in sorted(schema["paths"].items(), key=lambda item: (_area(item[0]), item[0]))
        for verb, route in verbs.items()
        if verb in VERBS
    ]
    about = escape(schema["info"].get("description", ""))
    found = [
        f'<p class="e-soft" style="margin:0">{about} Programs read <a class="r-link" href="/api/v1/openapi.json">'
        'openapi.json</a>; they send an access token as <code class="e-mono">Authorization: Bearer …</code>.</p>'
    ]
    for area, group in groupby(routes, key=lambda item: item[0]):
        rows = "".join(_route(schema, path, verb, route) for _area_, path, verb, route in group)
        found.append(f'<section class="e-card flush"><h2>{escape(area)}</h2>{rows}</section>')
    return "".join(found)


def _area(path: str) -> str:
    pieces = [piece for piece in path.removeprefix("/api/v1").split("/") if piece]
    return AREAS.get(pieces[0], pieces[0].replace("-", " ")) if path.startswith("/api/v1/") else "server"


def _route(schema: dict[str, Any], path: str, verb: str, route: dict[str, Any]) -> str:
    rows = [
        (item["name"], item["in"] + (", needed" if item.get("required") else ""), _words(item))
        for item in route.get("parameters", [])
    ]
    for content in route.get("requestBody", {}).get("content", {}).values():
        body = _resolve(schema, content.get("schema", {}))
        needed = body.get("required", [])
        rows += [
            (name, "body, needed" if name in needed else "body", _words(field | {"schema": field}))
            for name, field in body.get("properties", {}).items()
        ]
    cells = "".join(
        f'<tr><td class="e-mono">{escape(name)}</td><td class="e-faint e-small">{escape(place)}</td>'
        f"<td>{escape(words)}</td></tr>"
        for name, place, words in rows
    )
    text = escape(route.get("description", "") or route.get("summary", "")).replace("`", "")
    return (
        f'<div class="r-route"><span class="r-verb">{verb.upper()}</span><b class="e-mono">{escape(path)}</b>'
        f"<p>{text}</p>{f'<table>{cells}</table>' if cells else ''}</div>"
    )


def _words(item: dict[str, Any]) -> str:
    schema = item.get("schema", {})
    kinds = [schema, *schema.get("anyOf", [])]
    found = [kind.get("type") or _name(kind) for kind in kinds if kind.get("type") or "$ref" in kind]
    words = [" or ".join(dict.fromkeys(found))]
    default = schema.get("default")
    words += [
        f"default {default!r}" if default not in (None, "", [], {}) else "",
        item.get("description", ""),
    ]
    return "; ".join(str(word) for word in words if word).replace("`", "")


def _name(schema: dict[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _resolve(schema: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in item:
        return item
    found: dict[str, Any] = schema["components"]["schemas"][_name(item)]
    return found
