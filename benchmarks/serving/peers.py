"""modelkeep beside FastAPI by hand, LitServe, BentoML, MLServer and PyTriton, each in an environment of its own.

    python benchmarks/serving/peers.py [--model small|large] [--rounds 5] [--seconds 4]
        [--only NAME …] [--without-modelkeep] [--json FILE]

`small` is a perceptron 784-128-10, `large` one of 20 million parameters (784-4096-4096-10). Every server has the first
core and one thread of ONNX Runtime, modelkeep with all of its promises on, from a registry as `modelkeep serve` does
(worker process, capture, metrics, monitoring, bounds);
32 connections load it from the last core. All servers are up, and those that are not measured are stopped (SIGSTOP).
Rounds alternate; ratios are taken within a round, so modelkeep is measured with whatever --only names, unless
--without-modelkeep. Also measured: a bare ASGI answer on uvicorn (`echo`), the engine
alone at batch 32 and at batch 1 on one core, and what a lone client waits for modelkeep and for the bare answer. The
environments are made on first use in $MODELKEEP_PEERS (default ~/.cache/modelkeep/peers), about 1.5 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from load import asked, closed, perceptron, post, row, timed, tree

APPS = Path(__file__).parent / "apps"
CONNECTIONS = 32
LONE = ("modelkeep", "echo")
"""Servers whose answer to a client that is alone is measured too."""
RUNTIME = "onnxruntime==1.32.0"
PEERS = {
    "fastapi": ["fastapi==0.165.0", "uvicorn[standard]==0.54.0", "numpy"],
    "litserve": ["litserve==0.2.19", "numpy"],
    "bentoml": ["bentoml==1.4.40", "numpy"],
    "mlserver": ["mlserver==1.7.1", "numpy"],
    "pytriton": ["nvidia-pytriton==0.7.0"],
}
SERVERS = ["modelkeep", "echo", *PEERS]
SERVE = """
import os, sys
from pathlib import Path
from modelkeep.data import dataset
from modelkeep.keep import Keep
from modelkeep.settings import Settings
settings = Settings(home=Path(os.environ["HOME_OF_MODELS"]), port=int(os.environ["PORT"]))
keep = Keep(settings)
keep.add(Path(os.environ["MODEL"]), "mlp", data=dataset.read(Path(os.environ["ROWS"])))
keep.serve(["mlp"], options={"threads": 1})
"""
ECHO = """
import os, uvicorn
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning", access_log=False, lifespan="off")
"""


def python(name: str) -> str:
    """The Python of a peer's environment, which is made where it is not there."""
    root = Path(os.environ.get("MODELKEEP_PEERS", Path.home() / ".cache" / "modelkeep" / "peers"))
    found = root / name / "bin" / "python"
    if not found.exists():
        print(f"making the environment of {name} in {root / name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", root / name], check=True)
        subprocess.run([found, "-m", "pip", "install", "--quiet", RUNTIME, *PEERS[name]], check=True)
    return str(found)


def commands(name: str, room: Path) -> list[str]:
    """How a server is started."""
    if name in ("modelkeep", "echo"):
        return [sys.executable, "-c", SERVE if name == "modelkeep" else ECHO]
    if name == "bentoml":
        bentoml = str(Path(python(name)).with_name("bentoml"))
        return [bentoml, "serve", "with_bentoml:Model", "--host", "127.0.0.1", "--port", os.environ["PORT"]]
    if name == "mlserver":
        port = int(os.environ["PORT"])
        ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2, "parallel_workers": 0}
        (room / "settings.json").write_text(json.dumps({"host": "127.0.0.1", **ports}))
        model = {"name": "mlp", "implementation": "with_mlserver.Model", "max_batch_size": 32, "max_batch_time": 0.002}
        (room / "model-settings.json").write_text(json.dumps(model))
        return [str(Path(python(name)).with_name("mlserver")), "start", str(room)]
    return [python(name), str(APPS / f"with_{name}.py")]


def forms(name: str) -> dict[str, bytes]:
    """The requests that a server takes, by form."""
    rows = [[round(float(v), 4) for v in row()[0]]]
    if name in ("fastapi", "litserve", "bentoml"):
        return {"JSON": post("/predict", json.dumps({"rows": rows}).encode())}
    if name == "echo":
        return {"JSON": asked()["JSON"]}
    return {"JSON": asked()["JSON"]} if name == "mlserver" else asked()


def rows_of_reference(room: Path) -> Path:
    """A file of rows that monitoring compares requests with."""
    file = room / "rows.npz"
    np.savez(file, x=np.random.default_rng(2).random((500, 784)).astype(np.float32))
    return file


class Server:
    """One server on the first core, stopped unless it is measured."""

    def __init__(self, name: str, model: Path, core: int, room: Path) -> None:
        self.name, self.log = name, room / "log"
        room.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        os.environ["PORT"] = str(self.port)
        environ = {**os.environ, "MODEL": str(model), "PYTHONPATH": str(APPS), "OMP_NUM_THREADS": "1"}
        # Triton's Python backend would find another libpython than the environment's
        environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
        environ |= {"HOME_OF_MODELS": str(room / "home"), "ROWS": str(rows_of_reference(room))}
        environ |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(room / "bento")}
        if name in ("modelkeep", "echo"):
            environ["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        command = ["taskset", "-c", str(core), *commands(name, room)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environ, stdout=log, stderr=log, cwd=APPS, start_new_session=True
            )

    def wait(self) -> None:
        """Until it answers. Raises RuntimeError with its log where it does not."""
        request = next(iter(forms(self.name).values()))
        until, said = time.monotonic() + 90, ""
        while time.monotonic() < until and self.process.poll() is None:
            try:
                closed(self.port, request, 1, 0.01)
                return
            except (OSError, RuntimeError) as error:
                said = str(error)
                time.sleep(0.3)
        raise RuntimeError(f"{self.name} does not answer ({said}): {self.log.read_text()[-2000:]}")

    def signal(self, number: int) -> None:
        """To all of its processes."""
        for pid in tree(self.process.pid):
            os.kill(pid, number)

    def end(self) -> None:
        """It and all below it."""
        if self.process.poll() is not None:
            return
        self.signal(signal.SIGCONT)
        below = tree(self.process.pid)
        os.kill(self.process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def measured(server: Server) -> Iterator[None]:
    """Running, for as long as it is measured."""
    server.signal(signal.SIGCONT)
    try:
        yield
    finally:
        server.signal(signal.SIGSTOP)


def engine(model: Path, core: int, seconds: float, rows: int = 32) -> float:
    """Rows a second that ONNX Runtime alone does at this batch, with one thread on one core."""
    code = (
        "import os, sys, time, numpy as np; os.sched_setaffinity(0, {int(sys.argv[2])})\n"
        "from session import session\n"
        "m = session(); x = np.random.default_rng(0).random((int(sys.argv[4]), 784)).astype(np.float32)\n"
        "for _ in range(5): m.run(None, {'x': x})\n"
        "n, t = 0, time.perf_counter()\n"
        "while time.perf_counter() - t < float(sys.argv[3]): m.run(None, {'x': x}); n += len(x)\n"
        "print(n / (time.perf_counter() - t))"
    )
    environ = {**os.environ, "MODEL": str(model), "PYTHONPATH": str(APPS)}
    command = [sys.executable, "-c", code, str(model), str(core), str(seconds), str(rows)]
    return float(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout)


def run(names: list[str], model: Path, rounds: int, seconds: float, room: Path) -> dict[str, dict[str, list[float]]]:
    """By "server form" and number: a value for each round."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        servers = []
        for name in names:
            server = Server(name, model, cores[0], room / name)
            stack.callback(server.end)
            try:
                server.wait()
            except RuntimeError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            server.signal(signal.SIGSTOP)
            servers.append(server)
        for number in range(-1, rounds):  # the first warms up, and is thrown away
            alone = engine(model, cores[0], seconds)
            single = engine(model, cores[0], seconds / 2, rows=1)
            if number >= 0:
                found.setdefault("engine at batch 32", {}).setdefault("requests/s", []).append(alone)
                found.setdefault("engine at batch 1", {}).setdefault("requests/s", []).append(single)
            for server in servers if number % 2 else reversed(servers):
                for form, request in forms(server.name).items():
                    with measured(server):
                        latencies, rate = timed(server.port, request, CONNECTIONS, seconds)
                        lone = closed(server.port, request, 1, seconds / 2) if server.name in LONE else []
                    if number >= 0 and lone:
                        of = found.setdefault(f"{server.name} {form}", {})
                        of.setdefault("lone p50 ms", []).append(1e3 * float(np.quantile(lone, 0.5)))
                    if number >= 0:
                        kept = found.setdefault(f"{server.name} {form}", {})
                        kept.setdefault("requests/s", []).append(rate)
                        kept.setdefault("p50 ms", []).append(1e3 * float(np.quantile(latencies, 0.5)))
                        kept.setdefault("p99 ms", []).append(1e3 * float(np.quantile(latencies, 0.99)))
    return found


def ratios(found: dict[str, Any], over: str, under: str) -> list[float]:
    """Requests a second, round by round."""
    pairs = zip(found[over]["requests/s"], found[under]["requests/s"], strict=True)
    return [a / b for a, b in pairs]


def told(values: list[float], digits: int = 2) -> str:
    """Median, least and most."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def report(found: dict[str, dict[str, list[float]]]) -> None:
    """Tables for a person."""
    print("| server | requests/s | p50 ms | p99 ms |\n|---|---|---|---|")
    for what, numbers in sorted(found.items(), key=lambda item: -median(item[1]["requests/s"])):
        cells = [told(numbers["requests/s"], 0)] + [told(numbers[n]) for n in ("p50 ms", "p99 ms") if n in numbers]
        print(f"| {what} | {' | '.join(cells)} |")
    ours = [what for what in ("modelkeep JSON", "modelkeep binary") if what in found]
    if not ours:
        return
    print(f"\n| against | {' | '.join(ours)} |\n|---|{'---|' * len(ours)}")
    for what in found:
        if what not in ours:
            print(f"| {what} | {' | '.join(told(ratios(found, one, what)) for one in ours)} |")
    if {"echo JSON", "engine at batch 32"} <= set(found):
        pairs = zip(found["engine at batch 32"]["requests/s"], found["echo JSON"]["requests/s"], strict=True)
        limits = [1 / (1 / one + 1 / echo) for one, echo in pairs]
        for what in ours:
            shares = [a / b for a, b in zip(found[what]["requests/s"], limits, strict=True)]
            print(f"\n{what}: {told(shares)} of the combined limit 1/(1/engine at batch 32 + 1/echo)")
            least = zip(found["echo JSON"]["lone p50 ms"], found["engine at batch 1"]["requests/s"], strict=True)
            more = [ms - e - 1e3 / r for ms, (e, r) in zip(found[what]["lone p50 ms"], least, strict=True)]
            print(f"{what}: a lone request takes {told(more)} ms more than the bare answer and the engine at batch 1")


def servers(only: Sequence[str], with_modelkeep: bool = True) -> list[str]:
    """The names of what is measured, modelkeep's first: every ratio needs it."""
    ours = ["modelkeep"] if with_modelkeep else []
    return [*ours, *(name for name in dict.fromkeys(only) if name != "modelkeep")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("small", "large"), default="small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--only", nargs="+", choices=SERVERS, default=SERVERS, metavar="NAME", help=", ".join(SERVERS))
    parser.add_argument("--without-modelkeep", action="store_true", help="measure no ratio")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    names = servers(given.only, not given.without_modelkeep)
    hidden = (128,) if given.model == "small" else (4096, 4096)
    with tempfile.TemporaryDirectory() as room:
        model = perceptron(Path(room) / "mlp.onnx", *hidden)
        found = run(names, model, given.rounds, given.seconds, Path(room))
    head = f"{given.model}, {CONNECTIONS} connections, {given.rounds} rounds of {given.seconds:g} s"
    print(f"{head}: median (least to most)\n")
    report(found)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
