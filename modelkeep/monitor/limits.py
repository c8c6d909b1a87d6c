"""What counts as a finding: the promises, and how often one may be wrong."""

from __future__ import annotations

from dataclasses import dataclass

from modelkeep.errors import BadSettings


@dataclass(frozen=True)
class Limits:
    """``tolerance`` is the share of requests that may move, and what accuracy may lose against that on the reference
    rows where no ``min_accuracy`` was promised; ``max_error`` is the mean absolute error of answers that are numbers.
    ``p99`` and ``silence`` are seconds, ``slo`` the share of requests that must not fail, ``slices`` columns of the
    inputs in each of whose values accuracy is held too, ``ignore`` those of inputs and answers that may move: a time,
    an id. Raises BadSettings.
    """

    tolerance: float = 0.1
    false_alarm_every: float = 1e6
    min_accuracy: float | None = None
    max_error: float | None = None
    p99: float | None = None
    slo: float | None = None
    silence: float | None = None
    slices: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tolerance", "min_accuracy", "slo"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise BadSettings(f"{name} is {value!r}; give a share from 0 up to, but not, 1")
        if not self.false_alarm_every >= 1:
            raise BadSettings(f"false_alarm_every is {self.false_alarm_every!r}; give a number of requests, 1 or more")
        for name, unit in (("p99", "seconds"), ("silence", "seconds"), ("max_error", "a number")):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadSettings(f"{name} is {value!r}; give {unit}, more than 0")
