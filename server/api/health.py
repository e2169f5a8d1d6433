"""/-/ready, /-/healthy, /-/quit, /-/reload, /metrics and the page at /."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from aiohttp import web

from tsengine.errors import TsengineError

from .. import reload as reloading
from ..config import ConfigError
from ..errors import RequestError

if TYPE_CHECKING:
    from ..state import Server


async def ready(server: Server, request: web.Request) -> web.Response:
    """200 when writes and queries are served, else 503 with the reason."""
    if server.not_ready_reason:
        return web.Response(status=503, text=f"not ready: {server.not_ready_reason}\n")
    return web.Response(text="tsengine is ready.\n")


async def healthy(server: Server, request: web.Request) -> web.Response:
    """200 as long as the process answers."""
    return web.Response(text="tsengine is healthy.\n")


async def quit_server(server: Server, request: web.Request) -> web.Response:
    """Stop as a SIGTERM would; only with ``--web.enable-lifecycle``."""
    if not server.config.enable_lifecycle:
        return _lifecycle_disabled()
    server.stop()
    return web.Response(text="Requesting termination... Goodbye!\n")


async def reload(server: Server, request: web.Request) -> web.Response:
    """Read the configuration file again, as SIGHUP does; 500 with the reason if it is refused."""
    if not server.config.enable_lifecycle:
        return _lifecycle_disabled()
    try:
        plan = await reloading.reload(server)
    except (ConfigError, TsengineError, RequestError, OSError) as error:
        return web.Response(status=500, text=f"failed to reload config: {error}\n")
    return web.Response(text=reloading.describe(plan))


def _lifecycle_disabled() -> web.Response:
    text = "Lifecycle API is not enabled; start the server with --web.enable-lifecycle.\n"
    return web.Response(status=403, text=text)


async def metrics(server: Server, request: web.Request) -> web.Response:
    """Own metrics in the text format, or OpenMetrics when the client prefers it."""
    body, content_type = await server.executor.background(
        server.telemetry.exposition, request.headers.get("Accept", "")
    )
    return web.Response(body=body, headers={"Content-Type": content_type})


_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>tsengine</title>
<style>body{{font:16px/1.5 sans-serif;max-width:44em;margin:2em auto;padding:0 1em}}
code,pre{{background:#eee;padding:.1em .3em}}</style></head>
<body>
<h1>tsengine {version}</h1>
<p>State: {state}. Data source for Grafana (type Prometheus): <code>{url}</code></p>
<ul>
<li><a href="/api/v1/query?query=up">/api/v1/query?query=up</a> an instant query</li>
<li><a href="/api/v1/labels">/api/v1/labels</a> label names</li>
<li><a href="/api/v1/label/__name__/values">/api/v1/label/__name__/values</a> metric names</li>
<li><a href="/api/v1/status/tsdb">/api/v1/status/tsdb</a> what is stored</li>
<li><a href="/api/v1/status/buildinfo">/api/v1/status/buildinfo</a> versions</li>
<li><a href="/metrics">/metrics</a> the server's own metrics</li>
<li><a href="/-/ready">/-/ready</a> readiness</li>
</ul>
<p>To send data from Prometheus, add to prometheus.yml:</p>
<pre>remote_write:
  - url: {url}/api/v1/write</pre>
</body></html>
"""


async def index(server: Server, request: web.Request) -> web.Response:
    """A page that names the useful URLs."""
    page = _PAGE.format(
        version=html.escape(server.version),
        state=html.escape(server.not_ready_reason or "ready"),
        url=html.escape(f"http://{request.host}"),
    )
    return web.Response(text=page, content_type="text/html")
