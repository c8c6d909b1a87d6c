"""What runs a model: the table of engines, and ``load``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from modelkeep import environments, extras, settings, system
from modelkeep.errors import Unsupported
from modelkeep.types import Model, Runner, ServeConfig


@dataclass(frozen=True)
class Engine:
    """``target`` is a function load(model, config) → Runner; it imports ``library``, which the ``extra`` brings.

    One that ``shares`` has several processes hold one copy of the weights, made in the folder ``options[ROOM]``.
    One that is ``modest`` takes no more cores by itself than the quota of its cgroups.
    Where ``environment`` is named, what it runs on lives there, in a process of its own.
    """

    target: str
    formats: tuple[str, ...]
    library: str
    extra: str | None = None
    shares: bool = False
    modest: bool = False
    environment: str | None = None


ROOM = "room"
"""Key of a Model's options, given only while it is loaded by more than one process."""


_APART = ("tensorflow", "keras", "litert")
ENGINES: dict[str, Engine] = {
    "onnxruntime": Engine("modelkeep.model.engines.onnxruntime:load", ("onnx",), "onnxruntime", shares=True),
    "torch": Engine(
        "modelkeep.model.engines.torch:load", ("torch", "torch-export", "torchscript", "huggingface"), "torch", "torch"
    ),
    "sklearn": Engine("modelkeep.model.engines.sklearn:load", ("sklearn",), "skops", "sklearn", modest=True),
    "openvino": Engine("modelkeep.model.engines.openvino:load", ("onnx", "openvino"), "openvino", "openvino"),
    "torch-compile": Engine("modelkeep.model.engines.torch:load_compiled", ("torch", "torch-export"), "torch", "torch"),
    "tensorflow": Engine("modelkeep.model.engines.tensorflow:load", _APART, "numpy", environment="tensorflow"),
}


def engines_for(format: str) -> list[str]:  # noqa: A002  (the noun of types.Model)
    """The engines that run models of this format, installed or not; the first is the default."""
    return [name for name, engine in ENGINES.items() if format in engine.formats]


def default_config(format: str) -> ServeConfig:  # noqa: A002  (the noun of types.Model)
    """How a model of this format runs when nothing was tuned. Unsupported where no engine runs it."""
    able = engines_for(format)
    if not able:
        formats = sorted({f for engine in ENGINES.values() for f in engine.formats})
        raise Unsupported(f"no engine runs models of format '{format}'; there are engines for: {', '.join(formats)}")
    return ServeConfig(engine=able[0])


def load(model: Model, config: ServeConfig | None = None) -> Runner:
    """The model, ready to run on ``config.engine``, or on its format's default engine where no config is given.

    Raises Unsupported (no such engine, or one that cannot run the format), MissingExtra, or BadModel.
    """
    config = config or default_config(model.format)
    check(model, config)
    need(config.engine)
    return cast(Runner, extras.load(ENGINES[config.engine].target)(model, within_quota(config)))


def within_quota(config: ServeConfig) -> ServeConfig:
    """With threads, where nobody set them and the engine would take every core, though a quota allows fewer.

    A container's quota takes no core out of sight, and threads beyond it are halted for most of each period.
    """
    cores = system.cores()
    if config.threads is not None or ENGINES[config.engine].modest or cores >= system.affinity():
        return config
    return replace(config, threads=max(1, cores // config.workers))


def check(model: Model, config: ServeConfig) -> None:
    """Whether there is such an engine for this model, without importing it. Raises Unsupported, MissingExtra."""
    able = engines_for(model.format)
    if config.engine not in ENGINES:
        raise Unsupported(f"there is no engine '{config.engine}'; there are: {', '.join(ENGINES)}")
    if config.engine not in able:
        raise Unsupported(
            f"engine '{config.engine}' does not run models of format '{model.format}'; "
            f"these do: {', '.join(able) or 'none'}"
        )
    if not extras.has(ENGINES[config.engine].library):
        need(config.engine)


def need(name: str) -> None:
    """Raises MissingExtra where the engine's library is not installed; its environment, if any, is made now."""
    engine = ENGINES[name]
    if engine.environment:
        environments.ensure(engine.environment, settings.read().environments)
    if engine.extra:
        extras.need(engine.library, extra=engine.extra)
