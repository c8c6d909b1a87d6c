"""The stages of a request by name in a profile: NVTX ranges, which ``nsys profile`` shows. Off, they cost nothing.

``follow`` switches them on where Nsight Systems has started this process; docs/bench.md says how to read them. They
come from the package ``nvtx`` (the extra ``gpu``) or, where that is missing, from a CUDA build of PyTorch.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Protocol

DOMAIN = "modelkeep"
PROFILERS = ("NSYS_PROFILING_SESSION_ID", "NVTX_INJECTION64_PATH")
"""Variables that Nsight Systems, or any tool that listens to NVTX, sets for the processes that it starts."""


class Ranges(Protocol):
    """Push and pop belong to one thread and nest; a range that is started may end on another, and overlap others."""

    def push(self, name: str) -> None:
        """Open a range on this thread."""

    def pop(self) -> None:
        """Close the newest."""

    def start(self, name: str) -> Any:
        """Open a range; what comes back is for ``end``."""

    def end(self, handle: Any) -> None:
        """Close it."""


_ranges: Ranges | None = None
_NOTHING = nullcontext()


def stage(name: str) -> AbstractContextManager[None]:
    """``with stage("compute"):`` names what happens inside, on this thread. Nothing may be awaited in it."""
    return _NOTHING if _ranges is None else _Stage(_ranges, name)


def start(name: str) -> Any:
    """A stage that may end on another thread, or overlap others: hand what comes back to ``end``."""
    return None if _ranges is None else _ranges.start(name)


def end(handle: Any) -> None:
    """End what ``start`` began."""
    if handle is not None and _ranges is not None:
        _ranges.end(handle)


def on(ranges: Ranges) -> None:
    """From now on stages have ranges."""
    global _ranges
    _ranges = ranges


def off() -> None:
    """From now on they have none."""
    global _ranges
    _ranges = None


def follow(environ: Mapping[str, str] | None = None) -> bool:
    """Switch them on where a profiler has started this process and a library for them is there; says whether."""
    environ = os.environ if environ is None else environ
    if not any(environ.get(name) for name in PROFILERS):
        return False
    for library in (_Nvtx, _TorchNvtx):
        try:
            on(library())
        except (ImportError, RuntimeError):  # not installed; or torch without CUDA
            continue
        return True
    return False


class _Stage:
    __slots__ = ("_name", "_ranges")

    def __init__(self, ranges: Ranges, name: str) -> None:
        self._ranges, self._name = ranges, name

    def __enter__(self) -> None:
        self._ranges.push(self._name)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ranges.pop()


class _Nvtx:
    """The package nvtx, in a domain of our own; it registers each name once."""

    def __init__(self) -> None:
        self._domain = importlib.import_module("nvtx").get_domain(DOMAIN)
        self._known: dict[str, Any] = {}

    def push(self, name: str) -> None:
        self._domain.push_range(self._attributes(name))

    def pop(self) -> None:
        self._domain.pop_range()

    def start(self, name: str) -> Any:
        return self._domain.start_range(self._attributes(name))

    def end(self, handle: Any) -> None:
        self._domain.end_range(handle)

    def _attributes(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = self._domain.get_event_attributes(message=name)
        return self._known[name]


class _TorchNvtx:
    """PyTorch's own, in NVTX's default domain."""

    def __init__(self) -> None:
        self._nvtx = importlib.import_module("torch.cuda.nvtx")
        self._nvtx.range_push("modelkeep")  # raises RuntimeError where this PyTorch has no CUDA
        self._nvtx.range_pop()

    def push(self, name: str) -> None:
        self._nvtx.range_push(name)

    def pop(self) -> None:
        self._nvtx.range_pop()

    def start(self, name: str) -> Any:
        return self._nvtx.range_start(name)

    def end(self, handle: Any) -> None:
        self._nvtx.range_end(handle)
