"""The HTTP routes as an OpenAPI 3.1 document, for clients that are generated and for fuzzers.

It names the models that are served now, so that a reader can try them.
"""

from __future__ import annotations

from typing import Any

from modelkeep import __version__
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.protocol import codec

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
PARAMETERS: Schema = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean")]},
}


def document(plane: Plane) -> Schema:
    """OpenAPI 3.1.0 (spec.openapis.org/oas/v3.1.0)."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "modelkeep", "version": __version__, "description": "Open Inference Protocol v2, KServe v1"},
        "paths": _paths(plane),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _paths(plane: Plane) -> Schema:
    name = {"type": "string", "minLength": 1, **({"examples": plane.names} if plane.names else {})}
    model = _parameter("model", name)
    version = _parameter("version", {"type": "integer", "minimum": 0, "maximum": 10**9})
    paths: Schema = {
        "/": {"get": _operation("Which models are here", {}, kind="text/plain")},
        "/metrics": {"get": _operation("Prometheus", {}, kind="text/plain")},
        "/openapi.json": {"get": _operation("This document", {"type": "object"})},
        "/v2": {"get": _operation("Name, version, extensions", _ref("Server"))},
        "/v2/health/live": {"get": _operation("Whether the process answers", {"type": "object"})},
        "/v2/health/ready": {"get": _operation("Whether every model answers", {"type": "object"}, 503)},
        "/v2/models/stats": {"get": _operation("Statistics of all versions", _ref("Statistics"))},
        "/v2/repository/index": {
            "post": _operation(
                "What could be served", _list(_ref("Row")), 400, 408, 413, body=_ref("Index"), needed=False
            ),
        },
        "/monitor/alerts": {
            "post": _operation("What Alertmanager tells", {"type": "object"}, 400, 408, 413, body=_ref("Alerts")),
        },
        "/v1/models": {"get": _operation("The models", {"type": "object"})},
        "/v1/models/{model}": {"get": _operation("Whether it answers", {"type": "object"}, 404), **model},
        "/v1/models/{model}:predict": {
            "post": _operation("Ask, in KServe's first protocol", _ref("Predictions"), *ASKING, body=_ref("Instances")),
            **model,
        },
        "/v2/models/{model}/labels": {
            "post": _operation("The truth by request id", {"type": "object"}, 400, 404, 408, 413, body=_ref("Labels")),
            **model,
        },
    }
    paths["/v2/models/{model}/config"] = {
        "get": _operation("Triton's configuration", {"type": "object"}, 404, 503),
        "post": _operation("Serve it otherwise", _ref("Configured"), 400, 404, 408, 413, 500, 503, body=_ref("Config")),
        **model,
    }
    for verb in ("load", "unload"):
        paths[f"/v2/repository/models/{{model}}/{verb}"] = {
            "post": _operation(
                f"{verb.title()} a model of the registry",
                {"type": "object"},
                *(400, 404, 408, 413, 500, 503),
                body=_ref(verb.title()),
                needed=False,
            ),
            **model,
        }
    for where, given in (("", model), ("/versions/{version}", {"parameters": _both(model, version)})):
        at = f"/v2/models/{{model}}{where}"
        paths[at] = {"get": _operation("Inputs and outputs", _ref("Model"), 404, 503), **given}
        paths[f"{at}/ready"] = {"get": _operation("Whether it answers", {"type": "object"}, 404, 503), **given}
        config = {"get": _operation("Triton's configuration", {"type": "object"}, 404, 503), **given}
        paths.setdefault(f"{at}/config", config)
        paths[f"{at}/stats"] = {"get": _operation("What it has done", _ref("Statistics"), 404, 503), **given}
        paths[f"{at}/infer"] = {"post": _operation("Ask", _ref("Reply"), *ASKING, body=_ref("Ask")), **given}
    return paths


ASKING = (400, 404, 408, 413, 429, 500, 503, 504)
SAID = {
    400: "What is wrong with the request",
    401: "No API key, or none that is known",
    403: "The key's scopes do not reach so far",
    404: "No such model or version",
    408: "The body came too slowly",
    413: "The body is too large",
    429: "Too much is waiting; Retry-After says when to come again",
    500: "The model failed on this request",
    503: "Nothing is loaded that could answer",
    504: "The deadline passed",
}


def _operation(
    what: str,
    answer: Schema,
    *errors: int,
    kind: str = "application/json",
    body: Schema | None = None,
    needed: bool = True,
) -> Schema:
    failures = {
        str(code): {"description": SAID[code], "content": {"application/json": {"schema": _ref("Error")}}}
        for code in sorted({*errors, 401, 403, 429})
    }
    made: Schema = {
        "summary": what,
        "responses": {"200": {"description": what, "content": {kind: {"schema": answer}}}, **failures},
    }
    if body is not None:
        made["requestBody"] = {"required": needed, "content": {"application/json": {"schema": body}}}
    return made


def _parameter(name: str, schema: Schema) -> Schema:
    return {"parameters": [{"name": name, "in": "path", "required": True, "schema": schema}]}


def _both(one: Schema, other: Schema) -> list[Schema]:
    return [*one["parameters"], *other["parameters"]]


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(of: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": of, "minItems": least}


def _object(needed: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(needed)}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _whole(most: int) -> Schema:
    return {"type": "integer", "minimum": 1, "maximum": most}


_TEXT: Schema = {"type": "string", "minLength": 1}
_SECONDS: Schema = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 86_400}
_DATATYPE: Schema = {"type": "string", "enum": list(codec.DATATYPES)}
_TENSOR = _object(
    ("name", "shape", "datatype"),
    name=TEXT,
    shape=_list(COUNT),
    datatype=_DATATYPE,
    parameters=PARAMETERS,
    data={"type": "array"},
)
_SPEC = _object(("name", "datatype", "shape"), name=TEXT, datatype=TEXT, shape=_list({"type": "integer"}))
SCHEMAS: Schema = {
    "Error": _object(("error",), error=TEXT),
    "Load": _object(parameters=_object(config=TEXT)),
    "Unload": _object(parameters=_object(unload_dependents={"type": "boolean"})),
    "Server": _object(("name", "version", "extensions"), name=TEXT, version=TEXT, extensions=_list(TEXT)),
    "Model": _object(
        ("name", "platform", "inputs", "outputs"),
        name=TEXT,
        versions=_list(TEXT),
        platform=TEXT,
        inputs=_list(_SPEC, 1),
        outputs=_list(_SPEC, 1),
    ),
    "Tensor": _TENSOR,
    "Ask": _object(
        ("inputs",),
        id=TEXT,
        parameters=PARAMETERS,
        inputs=_list(_ref("Tensor"), 1),
        outputs=_list(_object(("name",), name=TEXT, parameters=PARAMETERS)),
    ),
    "Reply": _object(
        ("model_name", "model_version", "id", "outputs"),
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        outputs=_list(_ref("Tensor")),
    ),
    "Instances": _object(("instances",), instances=_list({}, 1)),
    "Predictions": _object(("predictions",), predictions={"type": "array"}),
    "Labels": _object(("labels",), labels={"type": "object"}),
    "Alerts": _object(
        ("alerts",),
        alerts=_list(
            _object(
                ("labels", "startsAt"),
                status=TEXT,
                labels={"type": "object"},
                annotations={"type": "object"},
                startsAt={"type": "string", "format": "date-time"},
                fingerprint=TEXT,
            )
        ),
    ),
    "Config": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "engine": _TEXT,
            "device": _TEXT,
            "precision": _or_null(_TEXT),
            "threads": _or_null(_whole(1024)),
            "workers": _whole(256),
            "max_batch": _whole(65_536),
            "max_wait": {"type": "number", "minimum": 0, "exclusiveMaximum": 86_400},
            "in_process": {"type": "boolean"},
            "run_timeout": _SECONDS,
            "p99": _or_null(_SECONDS),
        },
    },
    "Configured": _object(("name", "version", "config"), name=TEXT, version=TEXT, config={"type": "object"}),
    "Index": _object(ready={"type": "boolean"}),
    "Row": _object(("name", "version", "state"), name=TEXT, version=TEXT, state=TEXT, reason=TEXT),
    "Statistics": _object(("model_stats",), model_stats=_list({"type": "object"})),
}
