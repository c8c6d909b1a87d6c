"""How many connections leave files for the rest, in processes with bounds of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("resource")
CODE = """
import resource, sys
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from modelkeep.serve.http.open_files import connections
print(connections(wanted), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "found", "after"),
    [
        (1024, 1024, 100, 100, 1024),  # enough
        (256, 1024, 500, 500, 1012),  # raised as far as it is needed
        (256, 700, 500, 350, 700),  # raised as far as it may be; half are kept, for 512 would leave too few
        (1024, 1024, 4096, 512, 1024),  # 512 are kept
        (200, 200, 4096, 100, 200),
    ],
)
def test_idle_clients_leave_files_for_the_rest(soft: int, hard: int, wanted: int, found: int, after: int) -> None:
    given = [sys.executable, "-c", CODE, str(soft), str(hard), str(wanted)]
    done = subprocess.run(given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(found), str(after)]
    assert ("takes" in done.stderr) == (found < wanted)
