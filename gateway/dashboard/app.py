"""The dashboard as an ASGI application of its own: who may see a page, how it is rendered, and errors as pages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, cast
from urllib.parse import parse_qs, unquote

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.dashboard import PATH, requests, tables, words
from gateway.dashboard.access import Access, Standing, give, local, same_site
from gateway.dashboard.assets import Assets
from gateway.dashboard.keys import keys, listed
from gateway.dashboard.models import models
from gateway.dashboard.overview import TABLES, overview
from gateway.dashboard.page import Page, View
from gateway.dashboard.period import NAMES, address, known
from gateway.dashboard.requests import listing, one
from gateway.dashboard.tables import Table
from gateway.dashboard.tradeoff import tradeoff
from gateway.errors import BadRequest, Forbidden, GatewayError, NotFound, RateLimited, Unauthorized
from gateway.pipeline import Gateway

FORM_BYTES = 4_096

SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""On every answer: nothing comes from elsewhere, nothing goes elsewhere, no other site frames or reads a page."""

ZONE = "gkt_zone"
"""The cookie by which the page's script says the viewer's zone, for nothing but the days of ranges."""

FOR_EVER = "public, max-age=31536000, immutable"

VIEWS: Mapping[str, View] = {
    PATH: View("Overview", overview, TABLES),
    f"{PATH}/requests": View("Requests", listing, {"requests": requests.alone}),
    f"{PATH}/models": View("Models", models),
    f"{PATH}/keys": View("Keys", keys, {"keys": listed}),
    f"{PATH}/tradeoff": View("Trade-off", tradeoff),
}
"""The pages of the menu."""


class Dashboard:
    """The pages over one gateway; an ASGI application for the paths `/dashboard` and below."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._assets = Assets()
        self._access = Access(lambda: gateway.auth, gateway.logouts)
        self._templates = _environment(self._assets)
        menu = [Route(path, partial(self._view, view)) for path, view in VIEWS.items()]
        app = Starlette(
            routes=[
                *menu,
                Route(f"{PATH}/requests/{{request_id:path}}", self._one),
                Route(f"{PATH}/login", self._form, methods=["GET"]),
                Route(f"{PATH}/login", self._login, methods=["POST"]),
                Route(f"{PATH}/logout", self._logout, methods=["POST"]),
                Route(f"{PATH}/assets/{{digest}}/{{name}}", self._asset),
            ],
            exception_handlers={
                Unauthorized: self._ask_for_key,
                GatewayError: self._fault,
                HTTPException: self._http_fault,
                Exception: self._unexpected,
            },
        )
        app.router.redirect_slashes = False
        self._app: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = {name.encode(): value.encode() for name, value in SECURITY.items()}
                known = dict(message["headers"])
                headers |= {} if b"cache-control" in known else {b"cache-control": b"no-store"}
                message["headers"] = [*message["headers"], *headers.items()]
            await send(message)

        await self._app(scope, receive, guarded)

    async def _standing(self, request: Request) -> Standing:
        """Why this request may see pages, found out once. Raises as `Access.standing`."""
        if not hasattr(request.state, "standing"):
            request.state.standing = await self._access.standing(request)
        found: Standing = request.state.standing
        return found

    async def _view(self, view: View, request: Request) -> Response:
        await self._standing(request)
        said = {"zone": _zone(request), **request.query_params}
        if said.get("format") == "csv":
            name = said.get("table") or next(iter(view.tables), "")
            if name in view.tables:
                return await _csv(name, await view.tables[name](self._gateway, said))
        return await self._shown(request, await view.page(self._gateway, said), view.tables)

    async def _one(self, request: Request) -> Response:
        await self._standing(request)
        return await self._shown(request, await one(self._gateway, request.path_params["request_id"]))

    async def _shown(self, request: Request, page: Page, others: Iterable[str] = ()) -> Response:
        wanted = request.query_params.get("format", "html")
        if wanted == "html":
            return await self._rendered(request, page.template, title=page.title, tables=page.tables, **page.context)
        if wanted != "csv":
            raise BadRequest("format must be html or csv.", param="format")
        name = request.query_params.get("table") or next(iter(page.tables))
        if name not in page.tables:
            known = ", ".join(dict.fromkeys([*others, *page.tables]))
            raise NotFound(f"This page has no table '{name[:40]}'. It has: {known}.", param="table")
        return await _csv(name, page.tables[name])

    async def _rendered(self, request: Request, template: str, status: int = 200, **context: Any) -> Response:
        try:
            standing = await self._standing(request)
        except GatewayError:
            standing = None
        path = request.url.path
        menu = [
            {
                "href": href,
                "name": view.name,
                "here": href == path,
                "within": href != PATH and path.startswith(f"{href}/"),
            }
            for href, view in VIEWS.items()
        ]
        told = {
            "menu": menu if standing else [],
            "standing": standing,
            "base_url": str(request.base_url).rstrip("/"),
            "path": path,
            "zone": known(_zone(request)).key,
            **context,
        }
        text = await asyncio.to_thread(self._templates.get_template(template).render, told)
        return Response(text, status, media_type="text/html; charset=utf-8")

    async def _form(self, request: Request) -> Response:
        target = local(request.query_params.get("next", PATH))
        try:
            await self._standing(request)
        except Unauthorized:
            return await self._rendered(request, "login.html", title="Log in", next=target, fault=None)
        return RedirectResponse(target, 303)

    async def _login(self, request: Request) -> Response:
        same_site(request)
        form = await _fields(request)
        target = local(form.get("next", PATH))
        try:
            session = self._access.enter(request, form.get("key", "").strip())
        except (Unauthorized, RateLimited) as error:
            answer = await self._rendered(
                request, "login.html", error.http_status, title="Log in", next=target, fault=str(error)
            )
            answer.headers.update(error.headers)
            return answer
        answer = RedirectResponse(target, 303)
        if session:
            give(answer, request, session)
        return answer

    async def _logout(self, request: Request) -> Response:
        same_site(request)
        await self._access.leave(request)
        answer = RedirectResponse(f"{PATH}/login", 303)
        give(answer, request, "")
        return answer

    async def _asset(self, request: Request) -> Response:
        asset = self._assets.files.get(request.path_params["name"])
        if asset is None or asset.digest != request.path_params["digest"]:
            raise NotFound("There is no such file.")
        headers = {"cache-control": FOR_EVER, "vary": "accept-encoding"}
        packed = None
        if "gzip" in request.headers.get("accept-encoding", ""):
            packed = await asyncio.to_thread(lambda: asset.packed)
        if packed is not None:
            headers["content-encoding"] = "gzip"
        return Response(packed or asset.body, headers=headers, media_type=asset.media_type)

    async def _ask_for_key(self, request: Request, error: Exception) -> Response:
        fault = cast("Unauthorized", error)
        if request.headers.get("authorization") is not None:  # a program, which has no use for a form
            return await self._fault(request, fault)
        target = address(request.url.path, dict(request.query_params))
        return RedirectResponse(address(f"{PATH}/login", {"next": target} if target != PATH else {}), 303)

    async def _fault(self, request: Request, error: Exception) -> Response:
        fault = cast("GatewayError", error)
        answer = await self._error(request, fault.http_status, str(fault), setting=isinstance(fault, Forbidden))
        answer.headers.update(fault.headers)
        return answer

    async def _http_fault(self, request: Request, error: Exception) -> Response:
        fault = cast("HTTPException", error)
        told = {404: "There is no such page.", 405: "This page is not asked for that way."}
        answer = await self._error(request, fault.status_code, told.get(fault.status_code, str(fault.detail)))
        answer.headers.update(fault.headers or {})
        return answer

    async def _unexpected(self, request: Request, error: Exception) -> Response:
        return await self._error(request, 500, "The gateway could not make this page. Its log has the reason.")

    async def _error(self, request: Request, status: int, fault: str, *, setting: bool = False) -> Response:
        titles = {400: "That cannot be shown", 403: "Not allowed", 404: "Not found", 503: "Not just now"}
        title = titles.get(status, "Something went wrong")
        return await self._rendered(
            request, "error.html", status, title=title, code=status, fault=fault, setting=setting
        )


def _environment(assets: Assets) -> Environment:
    templates = Environment(
        loader=PackageLoader("gateway.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    names = ("money", "percent", "seconds", "count", "rate", "moment", "cell", "some")
    templates.filters |= {name: getattr(words, name) for name in names}
    templates.filters["brief"] = tables.brief
    templates.globals |= {
        "asset": assets.url,
        "map_styles": assets.inline_styles,
        "address": address,
        "ranges": NAMES.values(),
        "version": version("gkt-gateway"),
        "home": PATH,
    }
    return templates


async def _csv(name: str, table: Table) -> Response:
    # On a thread, as the rendering of pages: the loop has chats to answer.
    text = await asyncio.to_thread(table.csv)
    file = {"content-disposition": f'attachment; filename="gkt-{name}.csv"'}
    return Response(text, media_type="text/csv; charset=utf-8", headers=file)


def _zone(request: Request) -> str:
    """The name of the viewer's zone, as the page's own script has told it; empty: it has not."""
    return unquote(request.cookies.get(ZONE, ""))


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form. Raises `BadRequest` for one that is none."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > FORM_BYTES:
            raise BadRequest("The form is too long.")
    return {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
