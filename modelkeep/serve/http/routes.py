"""The Open Inference Protocol v2 over HTTP: thin handlers over the plane, one sentence in every error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from modelkeep import __version__, metrics
from modelkeep.errors import BadInput, ModelkeepError, NotReady, Unsupported, brief
from modelkeep.serve.http import body, openapi, packing, v1
from modelkeep.serve.http.convertors import VERSION
from modelkeep.serve.http.infer import TIMEOUT, Infer, new_id, sticky, trace
from modelkeep.serve.http.replies import retry_after, timing, told
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.protocol import apart, codec, describe, statistics
from modelkeep.serve.sources.repository import READY, Repository
from modelkeep.types import Request

Labeller = Callable[[str, dict[str, Any]], dict[str, int]]
"""Model and labels by request id to what became of them, in numbers; may block."""
Alerted = Callable[[Any], int]
"""A document of Alertmanager to how many of its alerts were not known yet; may block."""


def app(
    plane: Plane,
    *,
    label: Labeller | None = None,
    repository: Repository | None = None,
    alerted: Alerted | None = None,
    pages: Iterable[str] = (),
) -> Starlette:
    """The application. ``label`` records truth; without it the labels route says that no traffic is kept.
    ``repository`` brings and takes away models; without it what is served stays as it is. ``alerted`` writes what
    Alertmanager tells into a journal. ``pages`` are paths of what is mounted beside it.
    """
    handlers, infer = _Handlers(plane, label, repository or Repository(), alerted, pages), Infer(plane)
    model = "/v2/models/{model}"
    version = f"{model}/versions/{{version:{VERSION}}}"
    table: tuple[tuple[str, str, Any], ...] = (
        ("POST", f"{model}/infer", infer),
        ("POST", f"{version}/infer", infer),
        ("POST", f"{model}/labels", handlers.labels),
        ("POST", "/v1/models/{model}:predict", handlers.predict),
        ("POST", f"{model}/config", handlers.configure),
        ("POST", "/monitor/alerts", handlers.alerts),
        ("POST", "/v2/repository/index", handlers.index),
        ("POST", "/v2/repository/models/{model}/load", handlers.load),
        ("POST", "/v2/repository/models/{model}/unload", handlers.unload),
        ("GET", "/", handlers.front),
        ("GET", "/metrics", handlers.metrics),
        ("GET", "/v2", handlers.server),
        ("GET", "/v2/health/live", handlers.live),
        ("GET", "/v2/health/ready", handlers.ready),
        ("GET", "/v2/models/stats", handlers.stats),
        *(
            ("GET", f"{where}/{what}", handler)
            for where in (model, version)
            for what, handler in (("ready", handlers.ready), ("stats", handlers.stats), ("config", handlers.config))
        ),
        ("GET", model, handlers.model),
        ("GET", version, handlers.model),
        ("GET", "/v1/models", handlers.v1_models),
        ("GET", "/v1/models/{model}", handlers.v1_model),
        ("GET", "/openapi.json", handlers.openapi),
    )
    routes = [Route(path, handler, methods=[method]) for method, path, handler in table]
    errors: dict[Any, Any] = {ModelkeepError: handlers.refused, HTTPException: handlers.odd, Exception: handlers.failed}
    made = Starlette(routes=routes, exception_handlers=errors)
    made.router.redirect_slashes = False  # to wherever the Host header says, and without a word
    return made


class _Handlers:
    def __init__(
        self,
        plane: Plane,
        label: Labeller | None,
        repository: Repository,
        alerted: Alerted | None,
        pages: Iterable[str],
    ) -> None:
        self.plane, self.label, self.repository, self.alerted = plane, label, repository, alerted
        self.pages = tuple(pages)

    # ── questions and truth ──────────────────────────────────────────────────────────────────────────────────────

    async def predict(self, http: HttpRequest) -> Response:
        """KServe's first protocol."""
        began, name, heads = time.monotonic(), http.path_params["model"], dict(http.scope["headers"])
        self.plane.asked_for(name)
        signature = self.plane.find(name).signature
        raw = await body.read(http.receive, heads, self.plane)
        try:
            inputs = await apart.read(self.plane, len(raw), lambda: v1.inputs(codec.parse(raw), signature))
        except BadInput:
            self.plane.metrics.rejected("malformed")
            raise
        most = self.plane.settings.request_timeout
        deadline = began + min(body.number(heads, TIMEOUT, float, most), most)
        request = Request(new_id(), name, inputs, sticky(heads), deadline=deadline, trace=trace(heads))
        reply = await self.plane.infer(request)
        headers = {
            "server-timing": timing(reply).decode(),
            "x-modelkeep-version": str(reply.version),
            "x-request-id": reply.id,
        }
        answer = orjson.dumps(v1.predictions(reply, batched=signature.batched))
        if (encoding := packing.wanted(answer, heads)) is not None:
            answer = await packing.packed(answer, encoding)
            headers["content-encoding"] = encoding
        return self._answer(answer, headers=headers)

    async def labels(self, http: HttpRequest) -> Response:
        model = http.path_params["model"]
        self.plane.router(model)
        given = (await self._object(http)).get("labels")
        if not isinstance(given, dict):
            raise BadInput('send {"labels": {"<request id>": label}}')
        if self.label is None:
            mend = "serve from a registry, and not with --capture 0"
            raise Unsupported(f"this server keeps no traffic that labels could belong to; {mend}")
        return self._json(await asyncio.to_thread(self.label, model, given))

    async def alerts(self, http: HttpRequest) -> Response:
        given = await self._object(http)
        if self.alerted is None:
            raise Unsupported("this server has no journal that alerts could go to; serve from a registry")
        return self._json({"new": await asyncio.to_thread(self.alerted, given)})

    # ── what is here ─────────────────────────────────────────────────────────────────────────────────────────────

    async def front(self, http: HttpRequest) -> Response:
        lines = [f"modelkeep {__version__}: models as a service (Open Inference Protocol v2)", ""]
        for name in self.plane.names:
            router = self.plane.router(name)
            held = ", ".join(f"{track} {v.ref}" for track, v in router.tracks.items())
            lines.append(f"{name}: {held or self.plane.problem(name)}")
        lines += [
            "",
            "GET  /v2/health/ready                    whether all of them answer",
            "GET  /v2/models/NAME                     inputs, outputs, versions",
            "POST /v2/models/NAME/infer               ask",
            "POST /v2/models/NAME/versions/N/infer    ask one version",
            "POST /v2/models/NAME/labels              hand in the truth by request id",
            "GET  /metrics                            for Prometheus",
            "GET  /openapi.json                       all of this, for a machine",
            *(f"GET  {at:<36}a page to look at, in a browser" for at in self.pages),
            "",
        ]
        return self._answer("\n".join(lines).encode(), kind="text/plain; charset=utf-8")

    async def metrics(self, http: HttpRequest) -> Response:
        # a scrape takes milliseconds: long, for the loop
        return self._answer(await asyncio.to_thread(self.plane.metrics.render), kind=metrics.CONTENT_TYPE)

    async def server(self, http: HttpRequest) -> Response:
        return self._json({"name": "modelkeep", "version": __version__, "extensions": list(describe.EXTENSIONS)})

    async def live(self, http: HttpRequest) -> Response:
        return self._json({"live": True})

    async def ready(self, http: HttpRequest) -> Response:
        name = http.path_params.get("model")
        if why := self.plane.problem(name, http.path_params.get("version")):
            raise NotReady(why)
        return self._json({"ready": True} if name is None else {"name": name, "ready": True})

    async def model(self, http: HttpRequest) -> Response:
        name, version = http.path_params["model"], http.path_params.get("version")
        found, router = self.plane.find(name, version), self.plane.router(name)
        head = describe.metadata(name, found, sorted(router.loaded))
        state: dict[str, Any] = {track: v.number for track, v in router.tracks.items()}
        state["weights"] = router.shares
        state["problems"] = {str(number): why for number, why in router.problems.items()}
        state |= {"version": found.number, "engine": found.config.engine, "precision": found.config.precision}
        if (ragged := found.batcher.crew.ragged) is not None:
            state["ragged"] = ragged.axis
        return self._json({**head, "modelkeep": state})

    async def config(self, http: HttpRequest) -> Response:
        found = self.plane.find(http.path_params["model"], http.path_params.get("version"))
        return self._json(describe.config(http.path_params["model"], found))

    async def stats(self, http: HttpRequest) -> Response:
        given = http.path_params
        return self._json({"model_stats": statistics.of(self.plane, given.get("model"), given.get("version"))})

    async def v1_models(self, http: HttpRequest) -> Response:
        return self._json({"models": self.plane.names})

    async def v1_model(self, http: HttpRequest) -> Response:
        name = http.path_params["model"]
        return self._json({"name": name, "ready": self.plane.ready(name)})

    async def openapi(self, http: HttpRequest) -> Response:
        return self._json(openapi.document(self.plane))

    # ── what is to be here ───────────────────────────────────────────────────────────────────────────────────────

    async def index(self, http: HttpRequest) -> Response:
        only_ready = (await self._table(http)).get("ready", False)
        if not isinstance(only_ready, bool):
            raise BadInput(f"ready is {brief(only_ready)}; give true or false")
        rows = await self.repository.index(self.plane)
        return self._json([row for row in rows if row["state"] == READY or not only_ready])

    async def load(self, http: HttpRequest) -> Response:
        await self.repository.load(self.plane, http.path_params["model"], await self._table(http))
        return self._json({})

    async def configure(self, http: HttpRequest) -> Response:
        name = http.path_params["model"]
        self.plane.router(name)
        given = await self._object(http)
        found = await self.repository.change(name, given)
        return self._json({"name": name, "version": str(found.number), "config": asdict(found.config)})

    async def unload(self, http: HttpRequest) -> Response:
        await self.repository.unload(http.path_params["model"], await self._table(http))
        return self._json({})

    async def _table(self, http: HttpRequest) -> dict[str, Any]:
        """The body's JSON object; an empty one where there is no body."""
        return await self._object(http, b"{}")

    async def _object(self, http: HttpRequest, otherwise: bytes = b"") -> dict[str, Any]:
        raw = await body.read(http.receive, dict(http.scope["headers"]), self.plane) or otherwise
        return await apart.read(self.plane, len(raw), lambda: codec.parse(raw))

    # ── answers and errors ───────────────────────────────────────────────────────────────────────────────────────

    async def refused(self, http: HttpRequest, error: ModelkeepError) -> Response:
        headers = {name.decode(): value.decode() for name, value in retry_after(error)}
        return self._answer(told(str(error)), status=error.status, headers=headers)

    async def odd(self, http: HttpRequest, error: HTTPException) -> Response:
        path = http.url.path
        said = {
            404: f"there is nothing at {path}; GET / says what there is",
            405: f"{http.method} is not possible at {path}; {(error.headers or {}).get('Allow', '')} is",
        }
        return self._json(
            {"error": said.get(error.status_code, error.detail)},
            status=error.status_code,
            headers=dict(error.headers or {}),
        )

    async def failed(self, http: HttpRequest, error: Exception) -> Response:
        """A defect of modelkeep: the traceback goes to the log, never to a client."""
        return self._json({"error": "the server failed on this request; its log says why"}, status=500)

    def _json(self, content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        return self._answer(orjson.dumps(content), status=status, headers=headers)

    def _answer(
        self,
        body: bytes,
        *,
        status: int = 200,
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Response:
        headers = headers or {}
        if self.plane.stopping:
            headers["connection"] = "close"  # so that a client with a kept connection turns elsewhere in time
        return Response(body, status, headers, kind)
