"""A process that has loaded all it needs, and only answers from now on."""

from __future__ import annotations

import gc

YOUNG = 20_000
"""Objects made, and not freed yet, after which cycles are looked for: by default 700, every twenty requests."""


def settle() -> None:
    """Leave what is loaded out of the search for garbage cycles: going through all of it holds up every answer for some
    twenty milliseconds, now and then, and finds nothing.
    """
    gc.collect()
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(YOUNG, middle, old)
