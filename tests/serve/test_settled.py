"""What is loaded is left out of the search for garbage; what comes later is found as before."""

from __future__ import annotations

import gc
import subprocess
import sys

CODE = """
import gc, weakref
from modelkeep.serve.settled import YOUNG, settle
class Loop:
    def __init__(self): self.me = self
loaded = len(gc.get_objects())
settle()
assert gc.get_freeze_count() > 0.9 * loaded and len(gc.get_objects()) < 0.1 * loaded
assert gc.get_threshold()[0] == YOUNG
seen = weakref.ref(Loop())
gc.collect()
assert seen() is None
print("ok")
"""


def test_in_a_process_of_its_own() -> None:
    before = gc.get_threshold()
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "ok", done.stderr
    assert gc.get_threshold() == before
