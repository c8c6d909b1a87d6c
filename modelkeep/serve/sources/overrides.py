"""What Triton's load and unload may carry (extension_model_repository.md): a configuration beside the stored one.

A model's files come from the registry and never from a request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from modelkeep.errors import BadInput, Unsupported, brief

CONFIG, DEPENDENTS, FILES = "config", "unload_dependents", "file:"
KINDS = ("KIND_AUTO", "KIND_CPU")
SAME = ("name", "platform", "input", "output")
"""Parts of a configuration that may be said again, as a client does that changes what it was told."""
Table = Mapping[str, Any]


def loading(given: Table) -> Table | None:
    """The configuration in the body of a load request, or None. Raises BadInput, Unsupported."""
    parameters = _parameters(given)
    for name in parameters:
        if name.startswith(FILES):
            raise Unsupported(
                f"'{name[:80]}' brings a file, and models come from the registry only; first: modelkeep add"
            )
        if name != CONFIG:
            raise BadInput(f"'{name[:80]}' is no parameter of load; there is: {CONFIG}")
    config = parameters.get(CONFIG)
    if config is None:
        return None
    try:
        found = json.loads(config) if isinstance(config, str) else config
    except (ValueError, RecursionError) as error:  # it is nested too deeply
        raise BadInput(f"the parameter '{CONFIG}' is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadInput(
            f"the parameter '{CONFIG}' is a model's configuration as JSON, an object, and not {brief(config)}"
        )
    for name, value in found.items():
        if name in _FIELDS:
            _FIELDS[name](value)
        elif name not in SAME:
            raise BadInput(
                f"'{name[:80]}' of a configuration has no meaning here; these can be set: {', '.join(_FIELDS)}"
            )
    return found


def unloading(given: Table) -> None:
    """Raises BadInput for a body of an unload request that asks for what is not there."""
    for name, value in _parameters(given).items():
        if name != DEPENDENTS or not isinstance(value, bool):
            raise BadInput(f"'{name[:80]}' is no parameter of unload; there is: {DEPENDENTS}, true or false")


def fields(config: Table, now: Table) -> dict[str, Any]:
    """What ``loading`` gave as fields of a ServeConfig; what is so ``now`` (describe.config) is left out.

    Raises BadInput where it would change what a model is.
    """
    changed = {name: value for name, value in config.items() if value != now.get(name)}
    found: dict[str, Any] = {}
    for name, value in changed.items():
        if name in SAME:
            raise BadInput(
                f"'{name}' of a configuration cannot be changed by a load; it is {json.dumps(now[name])[:200]}"
            )
        found |= _FIELDS[name](value)
    return found


def _parameters(given: Table) -> Table:
    for name in given:
        if name != "parameters":
            raise BadInput(f"'{name[:80]}' is not known here; send {{\"parameters\": {{…}}}} or nothing")
    parameters = given.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadInput(f"the parameters are {brief(parameters)}; give an object")
    return parameters


def _batch(value: Any) -> Table:
    if type(value) is not int or value < 0:
        raise BadInput(f"'max_batch_size' is {brief(value)}; give a whole number, 0 or more")
    return {"max_batch": value or 1}


def _instances(value: Any) -> Table:
    one = value[0] if isinstance(value, list) and len(value) == 1 else None
    if not isinstance(one, dict) or one.get("kind", KINDS[0]) not in KINDS or set(one) - {"name", "kind", "count"}:
        raise BadInput(f"'instance_group' is {brief(value)}; give one group with its count, as [{{\"count\": 2}}]")
    return {"workers": one.get("count", 1)}


def _batching(value: Any) -> Table:
    name = "max_queue_delay_microseconds"
    delay = value.get(name, 0) if isinstance(value, dict) and not set(value) - {name} else None
    if type(delay) is not int or not 0 <= delay < 2**63:
        raise BadInput(f"'dynamic_batching' is {brief(value)}; give {{\"{name}\": 100}}, 0 or more")
    return {"max_wait": delay / 1e6}


_FIELDS: Mapping[str, Callable[[Any], Table]] = {
    "backend": lambda value: {"engine": value},
    "max_batch_size": _batch,
    "instance_group": _instances,
    "dynamic_batching": _batching,
}
