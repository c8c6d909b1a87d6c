"""How versions are made: what is said of each step, and what a killed process leaves."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelkeep import Keep, making
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel, StorageFull
from modelkeep.model import baseline, folder


def test_an_update_tells_of_each_step_before_it_begins(keep: Keep, added: str, turned: tuple[Dataset, Dataset]) -> None:
    onnx = keep.convert(added, "onnx")
    assert [v.ref for v in keep.trainable(onnx)] == [added, onnx.ref]
    said: list[tuple[float, int, str]] = []
    keep.update(onnx, turned[0], epochs=20, lr=5e-3, max_forgetting=0.5, on_step=lambda *step: said.append(step))
    assert said[0] == (0, 2, "Finetune with epochs=20, lr=0.005, max_forgetting=0.5")
    assert [done for done, _, _ in said] == sorted(done for done, _, _ in said)
    half = next(note for done, _, note in said if done >= 0.5)
    assert half.startswith("epoch 11 of 20, loss ")
    second = [note for done, _, note in said if done >= 1]
    assert second[0].startswith("TorchToOnnx")
    assert "exporting with dynamo" in second


def test_the_reference_of_an_update_is_read_once_for_what_it_looks_like(
    keep: Keep, added: str, turned: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be of pictures: 600 MB of them."""
    read, made = folder.reference, []
    monkeypatch.setattr(
        folder, "reference", lambda path: (made.append(path) if path.parts[-3] == "work" else None, read(path))[1]
    )
    version = keep.update(added, turned[0], epochs=20, lr=5e-3, max_forgetting=0.5)
    assert len(made) == 1
    assert baseline.find(keep.model(version)) is not None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "digits_mlp.py"),
        BadModel("ONNX Runtime cannot quantize this model: [Errno 28] No space left on device"),
    ],
)
def test_a_disk_that_is_full_is_no_fault_of_the_model(home: Path, error: Exception) -> None:
    said = r"no space left while a version was made: [\d,]+ bytes are free in .*/work and .*; nothing was stored"
    with pytest.raises(StorageFull, match=said), making.workspace(home):
        raise error


def test_other_errors_pass(home: Path) -> None:
    with pytest.raises(BadModel, match="it is none"), making.workspace(home):
        raise BadModel("it is none")


def test_old_workspaces_are_swept_and_young_ones_left(keep: Keep, home: Path) -> None:
    old, young = home / "work" / "old", home / "work" / "young"
    for room in (old, young):
        room.mkdir(parents=True)
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    Keep(keep.settings).close()
    assert not old.exists()
    assert young.exists()


CONVERTING = """
import sys
from pathlib import Path
from modelkeep import Keep
from modelkeep.settings import Settings
with Keep(Settings(home=Path(sys.argv[1]))) as keep:
    print("ready", flush=True)
    while True:
        keep.convert("digits@1", "onnx")
"""


def test_killing_convert_leaves_the_old_or_the_new_state(
    keep: Keep, added: str, home: Path, digits: tuple[Dataset, Dataset]
) -> None:
    chance = random.Random(0)
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", CONVERTING, str(home)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.0, 3.0))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with Keep(keep.settings) as after:
            versions = after.registry.versions("digits")
            told = [e.why.split()[0] for e in after.registry.journal("digits", kind="add")]
            assert [v.ref for v in versions] == told, "each version has its journal entry, and no entry is without one"
            for version in versions[1:]:
                assert any(report.kind == "compare" and report.ok for report in version.reports)
                assert after.model(version).main.stat().st_size > 0
    assert keep.score("digits@1", digits[1]).numbers["accuracy"] > 0.9
