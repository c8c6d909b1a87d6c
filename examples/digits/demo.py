"""The whole life of a model, through the verbs that a person types. Called by: make demo

Every line that begins with $ is a command you can type. The numbers of the last table come from this run.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
WORK = HERE.parents[1] / "build" / "demo"

sys.path.insert(0, str(HERE))
from client import Client  # noqa: E402  (beside this file)
from world import World, changed, changed_again  # noqa: E402

console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
summary: list[tuple[str, str]] = []
PARTS = 9


def part(number: int, title: str) -> None:
    """A heading: which of the parts, and what it is."""
    console.rule(f"[bold]{number}/{PARTS}  {title}", align="left")


def run(*words: str, expect: int = 0, quiet: bool = False) -> str:
    """Echo and run one command; end the demo when its exit code is another than the one expected."""
    console.print(f"[bold cyan]$ {' '.join(words)}[/]", soft_wrap=True)
    command = [str(BIN / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=WORK, capture_output=True, text=True, check=False)
    if not quiet or done.returncode != expect:
        console.print(done.stdout.rstrip() + done.stderr.rstrip(), markup=False, soft_wrap=True)
    if done.returncode != expect:
        sys.exit(f"demo: this command ended with exit code {done.returncode}, not {expect}")
    if expect:
        console.print(f"[dim](exit code {expect}, as it should)[/]")
    return done.stdout


def ask(*words: str, expect: int = 0) -> dict:
    """The same with --json, its output read instead of shown."""
    return json.loads(run(*words, "--json", expect=expect, quiet=True))


def accuracy(ref: str, data: str) -> float:
    """What modelkeep score says."""
    report = ask("modelkeep", "score", ref, "--data", data)
    console.print(f"  {report['why']}")
    return report["numbers"]["accuracy"]


def note(what: str, value: str) -> None:
    """A row of the summary."""
    summary.append((what, value))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(port: int) -> subprocess.Popen:
    """modelkeep serve in the background, once it is ready."""
    console.print(f"[bold cyan]$ modelkeep serve digits --port {port} &[/]")
    log = (WORK / "serve.log").open("w")
    server = subprocess.Popen(
        [str(BIN / "modelkeep"), "serve", "digits", "--port", str(port)], cwd=WORK, stdout=log, stderr=log
    )
    deadline = time.monotonic() + 60
    while "serving" not in (WORK / "serve.log").read_text():
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"demo: the server did not start: {(WORK / 'serve.log').read_text()}")
        time.sleep(0.05)
    console.print((WORK / "serve.log").read_text().rstrip(), markup=False)
    return server


def wait_for(client: Client, requests: int) -> None:
    """Until the client has sent so many more."""
    until = client.sent + requests
    with console.status("") as status:
        while client.sent < until:
            status.update(f"traffic: {until - client.sent} requests to go")
            time.sleep(0.05)


def deploy() -> str:
    """Parts 1 to 3; gives the converted version."""
    part(1, "A model, trained and saved as its user would")
    run("python", "train.py")
    run("modelkeep", "doctor")
    part(2, "Register it, and convert it with proof")
    run("modelkeep", "add", "digits", "digits.pt", "--factory", "digits_mlp:MLP", "--data", "train.npz")
    run("modelkeep", "add", "exported", "digits.pt2", "--data", "train.npz")
    onnx = ask("modelkeep", "convert", "digits@1", "--to", "onnx", "--data", "test.npz")
    for report in onnx["reports"]:
        console.print(f"  {report['kind']}: {report['why']}")
    run("modelkeep", "convert", "exported@1", "--to", "onnx", "--data", "test.npz")
    console.print("A tolerance that no conversion can keep, to see one refused:")
    run("modelkeep", "convert", "digits@1", "--to", "onnx", "--atol", "0", "--rtol", "0", expect=1)
    part(3, "The fastest settings that keep a latency promise")
    report = ask("modelkeep", "tune", onnx["ref"], "--p99", "50ms", "--budget", "20s")
    console.print(f"  {report['why']}")
    note("tune", report["why"])
    return onnx["ref"]


def optimize(ref: str) -> None:
    """Part 5."""
    part(5, "Cheaper weights, the same answers")
    words = ("--data", "test.npz", "--max-drop", "3pp", "--student", "digits_mlp:Small", "--epochs", "150")
    for one in ask("modelkeep", "optimize", ref, *words):
        verdict = f"kept as {one['ref']}{', the best' if one['best'] else ''}" if one["ref"] else "refused"
        console.print(f"  {one['what']}: {verdict}; {one['report']['why']}")
        note(f"optimize: {one['what']}", f"{verdict}; {one['report']['why']}")


def notice(client: Client, world: World) -> None:
    """Part 6: silence before the change, an alarm after it."""
    part(6, "The world changes, and modelkeep notices")
    wait_for(client, 1500)
    before = client.accuracy(last=1000)
    run("modelkeep", "monitor", "digits")
    note("alarms before the change", f"0 in {client.sent} requests")
    world.change = changed
    console.print("[bold]The scanner is mounted askew from now on, and is noisy.[/]")
    began = client.sent
    wait_for(client, 600)
    found = ask("modelkeep", "monitor", "digits", "--min-accuracy", "90%", expect=1)
    for finding in found["findings"]:
        console.print(f"  {finding['kind']} of {finding['subject']}: {finding['why']}")
    told = [f"{finding['kind']} of {finding['subject']}" for finding in found["findings"]]
    note(
        "alarms after the change",
        f"{', '.join(told)}; within {client.sent - began} requests",
    )
    note("live accuracy before the change", f"{before:.1%}")
    note("live accuracy after the change", f"{client.accuracy(last=500):.1%}")


def learn() -> str:
    """Part 7; gives the fine-tuned version."""
    part(7, "New knowledge: fine-tune, and grow new classes")
    before = accuracy("digits", "changed_test.npz")
    made = ask("modelkeep", "update", "digits", "--data", "changed.npz", "--epochs", "80", "--max-forgetting", "100%")
    for report in (report for version in made["made"] for report in version["reports"]):
        console.print(f"  {report['kind']}: {report['why']}")
    after = accuracy(made["ref"], "changed_test.npz")
    note("fine-tuned, on 447 digits not trained on", f"{before:.1%} → {after:.1%}")
    run("modelkeep", "add", "digits8", "digits8.pt", "--factory", "digits_mlp:EightClasses", "--data", "train8.npz")
    grown = ask(
        "modelkeep",
        "update",
        "digits8",
        "--data",
        "train.npz",
        "--method",
        "transfer",
        "--classes",
        "0,1,2,3,4,5,6,7,8,9",
    )
    known, all_ten = grown["ref"], accuracy(grown["ref"], "test.npz")
    note("transfer, classes 0-7 → 0-9", f"{known}: {all_ten:.1%} on all ten classes")
    return made["ref"]


def roll_out(good: str) -> None:
    """Part 8: a good version and a bad one."""
    part(8, "Canaries: the good one is promoted, the bad one is not")
    words = ("--steps", "30,50", "--p99", "100ms", "--max-time", "60s", "--needs-labels")
    run("modelkeep", "rollout", good, *words)
    note("rollout of the fine-tuned version", f"promoted; {good} is live")
    console.print("A deliberately bad version: trained on wrong labels.")
    bad = ask("modelkeep", "add", "digits", "scrambled.pt", "--factory", "digits_mlp:MLP", "--data", "train.npz")
    bad = ask("modelkeep", "convert", bad["ref"], "--to", "onnx")
    run("modelkeep", "rollout", bad["ref"], *words, expect=1)
    route = ask("modelkeep", "show", "digits@live")["route"]
    if f"digits@{route['live']}" != good:
        sys.exit(f"demo: the bad version {bad['ref']} is live")
    note("rollout of the bad version", f"{bad['ref']} rolled back by itself; {good} stays live")


def operate(client: Client, world: World) -> None:
    """Part 9: the same with no person."""
    part(9, "The same, by itself")
    wait_for(client, 600)
    world.change = changed_again
    console.print("[bold]The scanner is turned the other way, and its lamp has faded.[/]")
    wait_for(client, 300)
    sunk = client.accuracy(last=250)
    run("modelkeep", "operate", "policy.toml", "--cycles", "1", "--max-time", "120s")
    wait_for(client, 500)
    run("modelkeep", "journal", "digits", "--last", "16")
    note("operate: live accuracy before → after", f"{sunk:.1%} → {client.accuracy(last=400):.1%}, no person involved")


def main() -> None:
    """All nine parts, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the service running")
    keep = parser.parse_args().keep
    began = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    for file in ("digits_mlp.py", "train.py", "world.py", "policy.toml"):
        shutil.copy(HERE / file, WORK)
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"

    onnx = deploy()
    part(4, "Serve it")
    port = free_port()
    server = serve(port)
    try:
        live(onnx, port)
        if not keep:
            server.send_signal(signal.SIGTERM)
            if server.wait(timeout=30) != 0:
                sys.exit("demo: the server did not stop cleanly")
    finally:
        if not keep and server.poll() is None:
            server.kill()

    table = Table(title="\nWhat this run measured", title_justify="left", title_style="bold")
    table.add_column("what")
    table.add_column("found", overflow="fold")
    for row in (*summary, ("time of the demo", f"{time.monotonic() - began:.0f} s")):
        table.add_row(*row)
    console.print(table)
    if keep:
        console.print(f"Still serving on http://127.0.0.1:{port} (process {server.pid}); its files are in {WORK}")


def live(onnx: str, port: int) -> None:
    """Parts 4 to 9, on a live service."""
    with np.load(WORK / "test.npz") as rows:
        tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": rows["pixels"][0].tolist()}
    (WORK / "request.json").write_text(json.dumps({"inputs": [tensor]}))
    url = f"http://127.0.0.1:{port}"
    for words in (("-d", "@request.json", f"{url}/v2/models/digits/infer"), (f"{url}/metrics",)):
        console.print(f"[bold cyan]$ curl -s {' '.join(words)}[/]", soft_wrap=True)
        shown = subprocess.run(["curl", "-s", *words], cwd=WORK, capture_output=True, text=True, check=True).stdout
        lines = [line for line in shown.splitlines() if "digits" in line][:4]
        console.print("\n".join(lines), markup=False, soft_wrap=True)
    optimize(onnx)
    with np.load(WORK / "stream.npz") as rows:
        world = World(rows["pixels"], rows["labels"])
    client = Client(port, "digits", world)
    client.start()
    try:
        notice(client, world)
        roll_out(learn())
        operate(client, world)
    finally:
        client.stop()
    note(
        "requests sent",
        f"{client.sent}, to {len(client.by_version)} versions, {client.switches()} switches between them",
    )
    note("requests lost", str(len(client.failures)))
    if client.failures or client.answered != client.sent:
        sys.exit(f"demo: {client.sent - client.answered} requests were lost, the first: {client.failures[:1]}")


if __name__ == "__main__":
    main()
