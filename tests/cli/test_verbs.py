"""The command line: the table of verbs, and what a person reads when something is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import click
import pytest

from modelkeep.cli import VERBS, main
from modelkeep.cli.monitor import BESIDE
from modelkeep.extras import LOADING, load

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["modelkeep", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_help_lists_the_verbs_in_the_order_of_a_models_life(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch, "--help")
    assert code == 0
    listed = [word for word in re.findall(r"^  (\w+)  ", out, re.MULTILINE) if word in VERBS]
    assert listed == list(VERBS)
    assert listed.index("add") < listed.index("convert") < listed.index("serve") < listed.index("monitor")
    assert listed.index("update") < listed.index("rollout") < listed.index("operate")


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_and_json_where_it_reports(verb: str) -> None:
    command = load(VERBS[verb][0])
    assert isinstance(command, click.Command)
    assert command.name == verb
    assert command.help
    options = {name for parameter in command.params for name in parameter.opts}
    assert ("--json" in options) == (verb not in ("serve", "console"))


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_a_page_that_knows_its_options(verb: str) -> None:
    page = (DOCS / ("list.md" if verb == "show" else f"{verb}.md")).read_text()
    assert f"modelkeep {verb}" in page
    of_others = r"^.*\bnsys\b.*$|^.*\bPrometheus of your own\b.*$|`[^`]*\bbenchmarks/[^`]*`"
    ours = re.sub(of_others, "", page, flags=re.MULTILINE)
    documented = set(re.findall(r"--[a-z][a-z0-9-]+", ours))
    command = load(VERBS[verb][0])
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    commands = [load(VERBS[v][0]) for v in VERBS] + [load(target) for target, _ in BESIDE.values()]
    others = {name for one in commands for p in one.params for name in (*p.opts, *p.secondary_opts)}
    assert documented <= known | others, "a page names an option that no verb has"


def test_no_verb_at_all_is_wrong_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = call(capsys, monkeypatch)
    assert code == 2
    assert "Usage: modelkeep" in out


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["frobnicate"], 2, "No such command 'frobnicate'"),
        (["show", "digits@"], 2, "'digits@' does not name a model; write NAME, NAME@NUMBER or NAME@live"),
        (["show", "../etc"], 2, "does not name a model"),
        (["show", "digits"], 2, "no model is called 'digits'; none is registered yet: modelkeep add NAME FILE"),
        (["add", "m", "gone.onnx"], 2, "gone.onnx"),
        (["add", "m", "x.onnx", "--factory-args", "{"], 2, "--factory-args is not JSON"),
        (["add", "m", "x.onnx", "--factory-args", "[]"], 2, "--factory-args must be a JSON object"),
        (["rollout", "m@1", "--steps", "50,10"], 2, "must be growing percentages below 100"),
        (["tune", "m", "--p99", "soon"], 2, "'soon' is no time; write 20ms, 5s, 2m, 1h or 7d"),
        (["optimize", "m", "--data", "x", "--max-drop", "200%"], 2, "'200%' is no share; write 0.02, 2% or 2pp"),
        (["rollout", "m@1", "--steps", "0.1,0.5"], 2, "for 10 % and 50 % write 10,50, for less than 1 % write 0.5%"),
        (["update", "m", "--method", "transfer"], 2, "--method transfer needs --classes"),
        (["update", "m", "--classes", "0,1"], 2, "--classes is for --method transfer"),
        (
            ["update", "m", "--method", "transfer", "--classes", "0,1", "--replay", "2"],
            2,
            "--replay is for --method fin",
        ),
        (["keys", "--scope", "read"], 2, "--scope and --rate are of a new key; name it with --add NAME"),
        (["keys", "--add", "web"], 2, "a key needs scopes (--scope), of infer, read, admin; given: none"),
        (["keys", "--add", "a", "--revoke", "b"], 2, "--add and --revoke are two things; do one after the other"),
        (["keys", "--rate", "3"], 2, "--scope and --rate are of a new key"),
        (["serve", "m", "--name", "other"], 2, "--name is for a bare file; m is served under its own name"),
        (["serve", "m@2"], 2, "no model is called 'm'"),
        (["operate", "gone.toml"], 2, "there is no policy file gone.toml"),
        (["frobnicate"], 2, "No such command 'frobnicate'. (see modelkeep --help)"),
        (["lst"], 2, "No such command 'lst'. Did you mean list? (see modelkeep --help)"),
        (["show"], 2, "Missing argument 'REF'. (see modelkeep show --help)"),
        (
            ["serve", "m", "--sample-share", "0.2"],
            2,
            "--sample-share is of the sample that --sample DIR keeps, and none",
        ),
        (["serve", "./m.onnx", "--slo", "99.9%"], 2, "--slo is for a registered model: of a bare file nothing is kept"),
        (["serve", "./m.onnx", "--capture", "0", "--monitor", "5s"], 2, "--monitor is for a registered model"),
        (["bench", "m", "--rounds", "3"], 2, "--rounds is of the turns with a second version; give it with --vs REF2"),
        (["optimize", "m", "--data", "x", "--epochs", "3"], 2, "--epochs is of distillation; give it with --student"),
        (
            ["console", "--key-file", "x"],
            2,
            "--key-file is for the service whose metrics are shown; name it with --serv",
        ),
        (["tune", "m", "--p99"], 2, "Option '--p99' requires an argument. (see modelkeep tune --help)"),
        (["monitor", "setup"], 2, "(see modelkeep monitor setup --help)"),
    ],
)
def test_wrong_use_is_one_sentence_and_no_traceback(
    words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    got, out, err = call(capsys, monkeypatch, *words)
    assert (got, out) == (code, "")
    assert sentence in err
    assert "Traceback" not in err


def test_failures_of_a_model_that_is_not_there_are_not_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('model = "gone"\n')
    code, out, err = call(capsys, monkeypatch, "operate", str(policy), "--reset")
    assert (code, out) == (2, "")
    assert "no model is called 'gone'" in err
    assert "failures forgotten" not in call(capsys, monkeypatch, "journal")[1]


def test_a_machine_gets_the_error_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = call(capsys, monkeypatch, "show", "digits", "--json")
    assert (code, err) == (2, "")
    assert json.loads(out)["kind"] == "NotFound"


def test_a_machine_is_told_of_a_stop_as_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelkeep.keep.Keep.get", Mock(side_effect=KeyboardInterrupt))
    code, out, _ = call(capsys, monkeypatch, "show", "digits", "--json")
    assert (code, json.loads(out)) == (130, {"error": "stopped", "kind": "Stopped"})


def test_an_empty_registry_says_how_to_begin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch, "list")
    assert code == 0
    assert "register one with: modelkeep add NAME FILE" in out


def test_keys_are_added_listed_and_revoked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = call(capsys, monkeypatch, "keys", "--add", "web", "--scope", "infer", "--rate", "5")
    assert code == 0
    assert re.fullmatch(r"mk_\S{43}\n", out)
    assert "shown this once" in err
    code, listed, _ = call(capsys, monkeypatch, "keys", "--json")
    assert [(k["name"], k["scopes"], k["rate"]) for k in json.loads(listed)["keys"]] == [("web", ["infer"], 5.0)]
    assert out.strip() not in listed
    assert call(capsys, monkeypatch, "keys", "--add", "web", "--scope", "read")[0] == 1
    assert call(capsys, monkeypatch, "keys", "--add", "other")[0] == 2
    assert call(capsys, monkeypatch, "keys", "--revoke", "web")[0] == 0
    assert "listens on this machine only" in call(capsys, monkeypatch, "keys")[1]


@pytest.mark.parametrize(("thread", "told"), [(LOADING, ""), ("another", "an orderly end\n")])
def test_an_engine_that_still_loads_a_model_does_not_abort_the_end(thread: str, told: str) -> None:
    """Tune gives up what takes too long, and native code that is under way aborts a process that ends in good order."""
    code = (
        "import atexit, sys, threading, time; from modelkeep import cli; "
        f"threading.Thread(target=time.sleep, args=(60,), name='{thread}', daemon=True).start(); "
        "atexit.register(print, 'an orderly end'); sys.argv = ['modelkeep', 'list', '--nonsense']; cli.script()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, told)
    assert "nonsense" in ended.stderr
