"""`GET /docs`: a list of all paths; `GET /v1`: the addresses of the API.

FastAPI's own documentation page loads its scripts from another server. This page needs no scripts.
"""

from html import escape
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response

from wkv.serve.service import Service

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>wkv: paths of the server</title>
<h1>Paths of the server</h1>
<p>The API is compatible with OpenAI's. <a href="/openapi.json">openapi.json</a> describes the
fields of all requests and responses; API tools can import it.
<a href="/">The chat page</a> uses the same API.</p>
<table>
<tr><th scope="col">Method</th><th scope="col">Path</th><th scope="col">Purpose</th></tr>
{rows}
</table>
</html>
"""

ROW = "<tr><td>{method}</td><td><code>{path}</code></td><td>{purpose}</td></tr>"

HEADERS = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/docs", include_in_schema=False)
    async def documentation(http: HttpRequest) -> Response:
        """Return a page that lists all paths."""
        document = await run_in_threadpool(http.app.openapi)
        return HTMLResponse(_page(document), headers=HEADERS)

    @router.get("/v1", include_in_schema=False)
    async def start() -> Response:
        """Return the name of the model, and where to go on."""
        addresses = {"models": "/v1/models", "documentation": "/docs", "openapi": "/openapi.json"}
        return JSONResponse({"object": "api", "model": service.settings.name, **addresses})

    return router


def _page(document: dict[str, Any]) -> str:
    rows = [
        ROW.format(
            method=method.upper(),
            path=escape(path),
            purpose=escape(operation.get("description", "").partition("\n")[0]),
        )
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    return PAGE.replace("{rows}", "\n".join(rows))
