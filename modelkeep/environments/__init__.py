"""Environments of their own, for libraries whose needs clash with those of the others.

One is a virtual environment made on first use from a lock file of modelkeep's, in a folder that all projects of a
person share. It is built beside its place under a file lock and renamed into it when whole, so that a process killed
half-way leaves nothing that looks ready, and two processes make it once. What runs inside is a process of its own
(process.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelkeep.environments import install
from modelkeep.errors import NotFound, StorageFull, Unsupported

Tell = Callable[[str, float | None], None]
"""Hears a sentence, and the share that is done, between 0 and 1; None where it is a sentence to keep."""


@dataclass(frozen=True)
class Environment:
    """``lock`` pins every library; ``pythons`` are the versions that all of them have wheels for; sizes are bytes."""

    name: str
    brings: str
    lock: Path
    pythons: tuple[tuple[int, int], ...]
    size: int
    download: int

    @property
    def digest(self) -> str:
        """Of the lock and of this machine, so that a changed lock makes another environment."""
        told = self.lock.read_bytes() + f"{platform.system()} {platform.machine()}".encode()
        return hashlib.sha256(told).hexdigest()[:12]

    def place(self, root: Path) -> Path:
        """Where it is, or would be, below the folder of environments."""
        return root / f"{self.name}-{self.digest}"


ENVIRONMENTS: dict[str, Environment] = {
    "tensorflow": Environment(
        "tensorflow",
        "TensorFlow, Keras and tf2onnx",
        Path(__file__).parent / "tensorflow" / "requirements.lock",
        ((3, 11), (3, 12), (3, 13)),
        size=1_600_000_000,
        download=320_000_000,
    ),
}


def find(name: str, root: Path) -> Path | None:
    """The environment's Python, or None where it has not been made."""
    python = install.python_of(ENVIRONMENTS[name].place(root))
    return python if python.is_file() else None


def ensure(name: str, root: Path, tell: Tell | None = None) -> Path:
    """The environment's Python; made now, after saying so, where it is not there.

    Raises Unsupported where no Python here suits it or this system has no file locks, StorageFull, or MissingExtra with
    pip's reason (no network, say). None of them leaves anything behind.
    """
    return find(name, root) or _make(ENVIRONMENTS[name], root, tell or on_stderr)


def remove(name: str, root: Path) -> Path:
    """Delete the environment, and those of earlier locks. Raises NotFound where there is none."""
    found = [path for path in sorted(root.glob(f"{name}-*")) if path.is_dir()]
    if not found:
        raise NotFound(f"there is no environment '{name}' at {root}")
    for path in found:
        # renamed first: whoever looks meanwhile finds all of it or nothing
        doomed = path if ".making-" in path.name else path.rename(path.with_name(f"{path.name}.making-removed"))
        shutil.rmtree(doomed)
    return ENVIRONMENTS[name].place(root)


def size(name: str, root: Path) -> int:
    """Bytes on disk; 0 where it has not been made."""
    place = ENVIRONMENTS[name].place(root)
    return sum(path.lstat().st_size for path in place.rglob("*") if not path.is_dir()) if place.is_dir() else 0


def on_stderr(text: str, share: float | None = None) -> None:
    """For a person who waits: sentences as lines, progress as one line that changes, which a pipe is spared."""
    if share is None:
        sys.stderr.write(f"{text}\n")
    elif sys.stderr.isatty():
        end = "\n" if share >= 1 else ""
        sys.stderr.write(f"\r\033[K  {share:4.0%}  {text[:70]}{end}")
    sys.stderr.flush()


def _make(wanted: Environment, root: Path, tell: Tell) -> Path:
    place = wanted.place(root)
    python = _suitable(wanted)
    with _full_disk_told(wanted, root):
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f"{place.name}.lock", wanted, tell):
            if made := find(wanted.name, root):
                return made  # another process made it while this one waited
            _room_for(wanted, root)
            tell(
                f"{wanted.brings} need an environment of their own, which is made now and once: "
                f"{wanted.download / 1e6:.0f} MB to download, {wanted.size / 1e9:.1f} GB at {place}. "
                f"To remove it: modelkeep doctor --remove {wanted.name}",
                None,
            )
            _build(wanted, python, place, tell)
    tell(f"The environment {wanted.name} is ready.", None)
    return install.python_of(place)


def _build(wanted: Environment, python: Path, place: Path, tell: Tell) -> None:
    """Beside its place, and renamed when whole. Python finds its libraries from where it lies, so it may be moved."""
    for left in place.parent.glob(f"{place.name}.making-*"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed: this one has the lock
    making = place.with_name(f"{place.name}.making-{os.getpid()}")
    try:
        install.install(python, making, wanted.lock, tell)
        making.rename(place)
    except BaseException:  # Ctrl-C too; it is raised again
        shutil.rmtree(making, ignore_errors=True)
        raise


def _suitable(wanted: Environment) -> Path:
    """A Python whose version the lock has wheels for: this one, or the first on PATH."""
    if sys.version_info[:2] in wanted.pythons:
        return Path(sys.executable)
    for major, minor in reversed(wanted.pythons):
        found = shutil.which(f"python{major}.{minor}")
        # asked, for a version manager's stand-in exists without its Python
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return Path(found)
    there = ", ".join(f"{major}.{minor}" for major, minor in wanted.pythons)
    raise Unsupported(
        f"the environment {wanted.name} needs Python {there}, and this is {platform.python_version()}; "
        f"install one of them so that python{wanted.pythons[-1][0]}.{wanted.pythons[-1][1]} is found, then try again"
    )


@contextlib.contextmanager
def _alone(file: Path, wanted: Environment, tell: Tell) -> Iterator[None]:
    """Nobody else makes this environment meanwhile; the system lets go of the lock of a process that dies."""
    try:
        import fcntl
    except ImportError as error:  # Windows
        raise Unsupported(f"the environment {wanted.name} cannot be made on this system; use Linux or macOS") from error
    with file.open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"Another process is making the environment {wanted.name}; waiting for it.", None)
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _room_for(wanted: Environment, root: Path) -> None:
    needed, free = wanted.size + wanted.download, shutil.disk_usage(root).free
    if free < needed:
        raise _full(wanted, root, f"it needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")


@contextlib.contextmanager
def _full_disk_told(wanted: Environment, root: Path) -> Iterator[None]:
    """A disk that fills up, or a folder that cannot be written, as one sentence."""
    try:
        yield
    except OSError as error:
        raise _full(wanted, root, error.strerror or str(error)) from error


def _full(wanted: Environment, root: Path, why: str) -> StorageFull:
    return StorageFull(
        f"the environment {wanted.name} cannot be made at {root}: {why}; nothing was kept; free some space, or set "
        "MODELKEEP_ENVIRONMENTS to another folder"
    )
