"""The console as an ASGI application: addresses to pages and actions, who may, and headers that keep the page alone.

No page asks anything of another origin, runs a script that is not a file of this package, or may be shown in a frame
(Content Security Policy Level 3; OWASP, 'HTTP Security Response Headers').
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from modelkeep.console import access as accesses
from modelkeep.console import readings
from modelkeep.console.access import Access, Caller
from modelkeep.console.actions import Action, Actions, Asked
from modelkeep.console.live import Live, event
from modelkeep.console.looks import Looks
from modelkeep.console.pages import Context, Pages
from modelkeep.console.rollouts import Runs
from modelkeep.console.templates import Templates
from modelkeep.errors import BadInput, Forbidden, ModelkeepError, Overloaded, Unauthenticated
from modelkeep.serve.http.connection import GONE
from modelkeep.serve.http.convertors import VERSION

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from modelkeep.console.readings import Source
    from modelkeep.keep import Keep
    from modelkeep.serve.protocol.keys import Gate

STATIC = Path(__file__).with_name("static")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
MOST_FORM, FORM_SECONDS, MOST_FIELDS = 16 * 1024, 10.0, 20
"""Of a form: bytes, seconds that it may take to come, fields."""
DONE = {
    "promote": "It is live. Servers follow within a second.",
    "rollback": "It was rolled back. Servers follow within a second.",
    "rollout": "The rollout has begun.",
}
log = logging.getLogger(__name__)
Page = Callable[[Request, Caller], Awaitable[Response]]


class Console:
    """One console over a registry. ``root`` is the path that it is mounted at, empty for a server of its own.

    Raises MissingExtra where the extra ``console`` is not installed.
    """

    def __init__(self, keep: Keep, gate: Gate, source: Source, *, root: str = "") -> None:
        self.root = root
        self.access = Access(gate)
        self.runs = Runs(keep.settings)
        self.pages = Pages(keep, self.runs, Looks(keep))
        self.actions = Actions(keep.settings, self.runs)
        self.templates = Templates(root)
        self.live = Live(source, keep.registry.names, self._parts, lambda name: readings.before_now(keep.traffic, name))
        self._app = self._routes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        static = scope.get("path", "").startswith(f"{self.root}/static/")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-cache" if static else "no-store")
            await send(message)

        if scope["type"] == "http":
            if scope["path"] == self.root != "":
                await RedirectResponse(f"{self.root}/")(scope, receive, guarded)
                return
            try:
                await self._app(scope, receive, guarded)
            except asyncio.CancelledError:
                if not scope.get(GONE):  # nobody is there to be told
                    raise

    def stop(self) -> None:
        """End the streams, and leave the rollouts that go on here as they are."""
        self.live.stop()
        self.runs.stop()

    def _routes(self) -> Starlette:
        model = "/models/{name}"
        looking: dict[str, Page] = {
            "/": self._overview,
            "/journal": self._journal,
            model: self._model,
            f"{model}/versions": self._versions,
            f"{model}/versions/{{number:{VERSION}}}": self._version,
            f"{model}/monitor": self._monitor,
            f"{model}/rollouts": self._rollouts,
            "/live": self._watch,
        }
        changing: dict[str, tuple[str, Action]] = {
            f"{model}/versions/{{number:{VERSION}}}/promote": ("promote", self.actions.promote),
            f"{model}/versions/{{number:{VERSION}}}/rollout": ("rollout", self.actions.rollout),
            f"{model}/rollback": ("rollback", self.actions.rollback),
        }
        routes: list[Route | Mount] = [
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/login", self._log_in, methods=["GET", "POST"]),
            Route("/logout", self._log_out, methods=["POST"]),
            *(Route(path, self._for_who_may_look(page), methods=["GET"]) for path, page in looking.items()),
            *(Route(path, self._question(*what), methods=["GET", "POST"]) for path, what in changing.items()),
        ]
        errors: dict[Any, Any] = {ModelkeepError: self._refused, HTTPException: self._odd, Exception: self._failed}
        return Starlette(routes=routes, exception_handlers=errors)

    # ── who may ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _for_who_may_look(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(http: Request) -> Response:
            self.access.check_host(http)
            caller = self.access.caller(http)
            self.live.begin()
            return await page(http, caller)

        return endpoint

    async def _log_in(self, http: Request) -> Response:
        self.access.check_host(http)
        if self.access.gate.open:
            return RedirectResponse(f"{self.root}/", 303)
        if http.method != "POST":
            return self._page(http, "login", {"next": http.query_params.get("next", ""), "why": ""})
        form = await read_form(http)
        self.access.check_form(http, form.get("token", ""))
        try:
            cookie = self.access.log_in(http, form.get("key", ""))
        except ModelkeepError as error:
            context = {"next": form.get("next", ""), "why": str(error)}
            return self._page(http, "login", context, status=error.status)
        response = RedirectResponse(self.root + own_path(form.get("next", "")), 303)
        accesses.set_cookie(response, http, cookie)
        return response

    async def _log_out(self, http: Request) -> Response:
        self.access.check_form(http, (await read_form(http)).get("token", ""))
        self.access.log_out(http)
        return RedirectResponse(f"{self.root}/login", 303)

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _overview(self, http: Request, caller: Caller) -> Response:
        context = await asyncio.to_thread(self.pages.overview, self.live)
        return self._page(http, "overview", {**context, "topic": "overview:"}, caller)

    async def _journal(self, http: Request, caller: Caller) -> Response:
        given = http.query_params
        before = given.get("before", "")
        context = await asyncio.to_thread(
            self.pages.journal,
            given.get("model") or None,
            given.get("kind") or None,
            int(before) if before.isascii() and before.isdigit() and len(before) < 19 else None,
        )
        return self._page(http, "journal", context, caller)

    async def _model(self, http: Request, caller: Caller) -> Response:
        name = http.path_params["name"]
        context = await asyncio.to_thread(self.pages.model, name, self.live)
        return self._page(http, "model", {**context, "topic": f"model:{name}"}, caller)

    async def _versions(self, http: Request, caller: Caller) -> Response:
        context = await asyncio.to_thread(self.pages.versions, http.path_params["name"])
        return self._page(http, "versions", context, caller)

    async def _version(self, http: Request, caller: Caller) -> Response:
        context = await asyncio.to_thread(self.pages.version, http.path_params["name"], http.path_params["number"])
        return self._page(http, "version", context, caller)

    async def _monitor(self, http: Request, caller: Caller) -> Response:
        chosen = http.query_params.get("version", "")
        number = int(chosen) if chosen.isascii() and chosen.isdigit() and len(chosen) < 10 else None
        context = await asyncio.to_thread(self.pages.monitor, http.path_params["name"], number)
        return self._page(http, "monitor", context, caller)

    async def _rollouts(self, http: Request, caller: Caller) -> Response:
        name = http.path_params["name"]
        context = await asyncio.to_thread(self.pages.rollouts, name)
        return self._page(http, "rollouts", {**context, "topic": f"rollouts:{name}"}, caller)

    async def _watch(self, http: Request, caller: Caller) -> Response:
        """Server-sent events of a page, named by its topic."""
        topic = http.query_params.get("topic", "")
        await asyncio.to_thread(self._parts, topic, self.live)  # what cannot be drawn is refused here, not each second
        if http.method == "HEAD":
            return Response(media_type="text/event-stream")
        events = self.live.watch(topic, lambda: self.access.caller(http))
        return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    def _parts(self, topic: str, live: Live) -> Mapping[str, str]:
        """The moving parts of a page, by the ids of their elements. Raises NotFound, BadRef, BadInput."""
        page, _, name = topic.partition(":")
        if page == "overview":
            return self.templates.parts(page, self.pages.overview(live))
        if page == "model":
            return self.templates.parts(page, self.pages.model(name, live))
        if page == "rollouts":
            return self.templates.parts(page, self.pages.rollouts(name))
        raise BadInput(f"nothing moves on a page '{topic[:100]}'")

    # ── changing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _question(self, what: str, act: Action) -> Callable[[Request], Awaitable[Response]]:
        """GET asks whether it is meant; POST does it."""

        async def endpoint(http: Request) -> Response:
            self.access.check_host(http)
            caller, name, number = self.access.caller(http), http.path_params["name"], http.path_params.get("number")
            if not caller.may_change:
                raise Forbidden(f"key '{caller.key}' may look; to change what is served needs scope 'admin'")
            if http.method != "POST":
                return await self._ask(http, caller, what)
            form = await read_form(http)
            self.access.check_form(http, form.get("token", ""))
            try:
                await asyncio.to_thread(act, Asked(name, number, form, caller.who))
            except BadInput as error:
                return await self._ask(http, caller, what, form, str(error))
            where = f"{self.root}/models/{quote(name)}" + ("/rollouts" if what == "rollout" else "")
            return RedirectResponse(f"{where}?{urlencode({'done': what})}", 303)

        return endpoint

    async def _ask(
        self, http: Request, caller: Caller, what: str, form: Mapping[str, str] | None = None, why: str = ""
    ) -> Response:
        name, number = http.path_params["name"], http.path_params.get("number")
        context = await asyncio.to_thread(self.pages.question, name, number)
        context |= {"form": form or {}, "why": why}
        return self._page(http, what, context, caller, status=400 if why else 200)

    # ── answers and errors ───────────────────────────────────────────────────────────────────────────────────────

    def _page(
        self, http: Request, page: str, context: Context, caller: Caller | None = None, *, status: int = 200
    ) -> Response:
        cookie, token = self.access.visitor(http)
        shown = {
            **context,
            "caller": caller,
            "token": token,
            "open": self.access.gate.open,
            "done": DONE.get(http.query_params.get("done", "")),
            "path": http.url.path.removeprefix(self.root),
        }
        response = Response(self.templates.page(page, shown), status, media_type="text/html")
        if accesses.name_of(http) not in http.cookies:
            accesses.set_cookie(response, http, cookie)
        return response

    async def _refused(self, http: Request, error: ModelkeepError) -> Response:
        if isinstance(error, Unauthenticated) and "text/event-stream" in http.headers.get("accept", ""):
            # a browser does not tell its script the status of a stream; this has the page loaded again, for a log-in
            return Response(event("end", {"why": str(error)}), media_type="text/event-stream")
        if isinstance(error, Unauthenticated) and http.method in ("GET", "HEAD"):
            path = http.url.path.removeprefix(self.root)
            return RedirectResponse(f"{self.root}/login?{urlencode({'next': path})}", 303)
        response = self._page(http, "error", {"status": error.status, "why": str(error)}, status=error.status)
        if isinstance(error, Overloaded):
            response.headers["retry-after"] = str(max(1, round(error.retry_after)))
        return response

    async def _odd(self, http: Request, error: HTTPException) -> Response:
        said = {404: "There is no such page.", 405: "That is not possible here."}
        context = {"status": error.status_code, "why": said.get(error.status_code, error.detail)}
        response = self._page(http, "error", context, status=error.status_code)
        response.headers.update(error.headers or {})
        return response

    async def _failed(self, http: Request, error: Exception) -> Response:
        """A defect of modelkeep: the traceback goes to the log, never to a person."""
        return self._page(http, "error", {"status": 500, "why": "The console failed; the log says why."}, status=500)


async def read_form(http: Request) -> dict[str, str]:
    """The fields of a form. Raises BadInput for one that is too large, too slow or no form."""
    raw = b""
    try:
        async with asyncio.timeout(FORM_SECONDS):
            async for part in http.stream():
                raw += part
                if len(raw) > MOST_FORM:
                    raise BadInput(f"the form is larger than {MOST_FORM} bytes")
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except TimeoutError:
        raise BadInput(f"the form took longer than {FORM_SECONDS:g} s") from None
    except ValueError as error:
        raise BadInput(f"the form cannot be read ({error})") from error


def own_path(given: str) -> str:
    """A page of this console, for after a log-in: never another site's address."""
    return given if given.startswith("/") and not given.startswith(("//", "/\\")) and given.isprintable() else "/"
