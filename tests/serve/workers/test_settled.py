"""What is loaded is left out of the search for garbage; what comes later is found as before."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import subprocess
import sys
import weakref

import pytest

from modelkeep.serve.workers import settled
from tests.waiting import until_async

CODE = """
import gc, weakref
from modelkeep.serve.workers.settled import YOUNG, settle
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


ARENAS = """
import ctypes, threading
from modelkeep.serve.workers.settled import share_arenas
{call}
def held():
    kept = [bytes(600) for _ in range(20_000)]
    ready.wait()
ready = threading.Barrier(9)
threads = [threading.Thread(target=held) for _ in range(8)]
[t.start() for t in threads]
ready.wait()
[t.join() for t in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = libc.fdopen(1, b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fflush(ctypes.c_void_p(out))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="another C library than glibc")
def test_threads_share_few_heaps() -> None:
    def heaps(call: str) -> int:
        code = ARENAS.format(call=call)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        return done.stdout.count("<heap nr=")

    assert 1 <= heaps("share_arenas()") <= 2 < heaps("")


TRIM = """
import os
from modelkeep.serve.workers.settled import give_back
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
kept = [bytes(3000) for _ in range(20_000)]
pinned = kept[-1]  # glibc gives back what lies at the end of its heap only
del kept
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc")
def test_what_was_freed_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", TRIM], capture_output=True, text=True, timeout=60)
    assert int(done.stdout) > 40_000_000, done.stderr


def test_a_server_tidies_up_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loop:
        def __init__(self) -> None:
            self.me = self

    async def main() -> None:
        seen = weakref.ref(Loop())
        tidying = asyncio.create_task(settled.tidy())
        await until_async(lambda: seen() is None)
        tidying.cancel()

    monkeypatch.setattr(settled, "TIDY", 0.01)
    gc.disable()  # nobody else finds it
    try:
        asyncio.run(main())
    finally:
        gc.enable()
