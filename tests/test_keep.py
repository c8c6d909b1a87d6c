"""Keep: what a person does with a model, from adding it to rolling it back, on real digits and real files."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep import Keep
from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset
from modelkeep.data.sample import Sample
from modelkeep.data.traffic import Exchange
from modelkeep.errors import BadData, BadInput, Differs, DigestMismatch, No, NotFound, Regressed, Unsupported
from modelkeep.monitor import look
from modelkeep.monitor.alerts import Alerts
from modelkeep.rollout.canary import Canary
from modelkeep.types import Finding, Model


def test_add_remembers_the_model_and_who_added_it(keep: Keep, added: str) -> None:
    version = keep.get(added)
    assert (version.ref, version.model.format, version.parent) == ("digits@1", "torch", None)
    assert version.made_by == "add('MLP.pt', factory='nets:MLP')"
    entry = keep.registry.journal("digits")[-1]
    assert (entry.kind, entry.who) == ("add", "tester")
    assert not list((keep.settings.home / "work").iterdir()), "the workspace is gone"


def test_a_version_does_not_change_when_its_source_does(
    keep: Keep, added: str, nets: Path, digits: tuple[Dataset, Dataset]
) -> None:
    before = keep.score(added, digits[1]).numbers["accuracy"]
    text = (nets / "nets.py").read_text()
    try:
        (nets / "nets.py").write_text("raise RuntimeError('edited')")
        with Keep(keep.settings) as again:
            assert again.score(added, digits[1]).numbers["accuracy"] == before
    finally:
        (nets / "nets.py").write_text(text)


def test_convert_keeps_what_agrees_with_its_proof(keep: Keep, added: str, digits: tuple[Dataset, Dataset]) -> None:
    version = keep.convert(added, "onnx", rows=digits[1])
    assert (version.ref, version.parent, version.model.format) == ("digits@2", 1, "onnx")
    proof = next(r for r in version.reports if r.kind == "compare")
    assert proof.ok
    assert [v.ref for v in keep.lineage(version)] == ["digits@1", "digits@2"]


def test_convert_stores_nothing_beyond_tolerance(keep: Keep, added: str) -> None:
    with pytest.raises(Differs, match="output 'output'"):
        keep.convert(added, "onnx", atol=0.0, rtol=0.0)
    assert [v.ref for v in keep.registry.versions("digits")] == ["digits@1"]
    assert not list((keep.settings.home / "work").iterdir())


def test_a_longer_way_keeps_each_step_and_holds_the_end_against_the_start(
    keep: Keep, added: str, digits: tuple[Dataset, Dataset]
) -> None:
    pytest.importorskip("openvino")
    made = keep.convert(added, "openvino", rows=digits[1], precision="float16", opset=18)
    assert [v.model.format for v in keep.lineage(made)] == ["torch", "onnx", "openvino"]
    onnx = keep.lineage(made)[1]
    assert "opset=18" in onnx.made_by
    assert [r.kind for r in onnx.reports] == ["compare"]
    assert [r.numbers["atol"] for r in made.reports] == [5e-3, 5e-3]
    assert made.reports[-1].why.startswith("from torch to openvino: the answers to 597 rows")
    assert keep.score(made, digits[1]).numbers["accuracy"] > 0.9


def test_a_longer_way_whose_end_differs_stores_none_of_its_steps(
    keep: Keep, added: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")

    def differs(*_: Any, **__: Any) -> Any:
        raise Differs("the steps add up")

    monkeypatch.setattr("modelkeep.convert.prove_end", differs)
    with pytest.raises(Differs, match="the steps add up"):
        keep.convert(added, "openvino")
    assert [v.ref for v in keep.registry.versions("digits")] == ["digits@1"]


def test_optimize_keeps_within_the_budget_and_says_why_not(
    keep: Keep, added: str, digits: tuple[Dataset, Dataset]
) -> None:
    base = keep.convert(added, "onnx")
    steps: list[tuple[float, int, str]] = []
    [(what, version, report)] = keep.optimize(base, digits[1], max_drop=0.03, on_step=lambda *on: steps.append(on))
    assert steps == [(0, 1, "Quantize")]
    assert what == "int8"
    assert version is not None
    assert version.parent == base.number
    assert report.ok
    assert report.numbers["size_ratio"] < 0.7
    assert report in version.reports
    [(_, refused, report)] = keep.optimize(base, digits[1].head(30), max_drop=0.001)
    assert refused is None
    assert "over the budget of 0.1%" in report.why
    assert keep.registry.journal("digits", kind="refused")[-1].why.startswith("int8: ")


def test_optimize_needs_labels_and_a_format_it_can_treat(
    keep: Keep, added: str, digits: tuple[Dataset, Dataset]
) -> None:
    with pytest.raises(Unsupported, match="int8 needs ONNX"):
        keep.optimize(added, digits[1], max_drop=0.03)
    onnx = keep.convert(added, "onnx")
    with pytest.raises(BadData, match="has no labels"):
        keep.optimize(onnx, replace(digits[1], labels=None), max_drop=0.03)


def test_update_trains_the_ancestor_and_repeats_the_steps(
    keep: Keep, added: str, turned: tuple[Dataset, Dataset]
) -> None:
    onnx = keep.convert(added, "onnx")
    new = turned[0].head(400)
    before = keep.score(onnx, turned[1]).numbers["accuracy"]
    made = keep.update(onnx, new, epochs=30, lr=3e-3, max_forgetting=1.0)
    assert made.model.format == "onnx"
    line = keep.lineage(made)
    assert [v.number for v in line] == [1, 3, 4], "from the PyTorch ancestor, not from the ONNX version"
    assert line[1].made_by.startswith("Finetune(epochs=30")
    assert line[2].made_by == onnx.made_by
    after = keep.score(made, turned[1]).numbers["accuracy"]
    assert before < 0.5
    assert after > before + 0.3


def test_rows_under_new_names_update_the_ancestor_that_has_the_old_ones(keep: Keep, tmp_path: Path) -> None:
    import torch

    code = (
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.inner = nn.Linear(8, 3)\n"
        "    def forward(self, left, right):\n        return self.inner(left + right)\n"
    )
    (tmp_path / "two_sides.py").write_text(code, encoding="utf-8")
    rng = np.random.default_rng(0)
    sides = {name: rng.standard_normal((300, 8)).astype(np.float32) for name in ("left", "right")}
    labels = (sides["left"] + sides["right"])[:, :3].argmax(1)
    torch.manual_seed(0)
    torch.save({f"inner.{n}": t for n, t in torch.nn.Linear(8, 3).state_dict().items()}, tmp_path / "w.pt")
    keep.add(tmp_path / "w.pt", "sides", factory="two_sides:Net", data=Dataset(sides, labels, "sides"))
    served = keep.convert("sides@1", "onnx", rename={"left": "a", "output": "scores"})
    fresh = {"a": rng.standard_normal((300, 8)).astype(np.float32), "right": sides["right"]}
    rows = Dataset(fresh, (fresh["a"] + fresh["right"])[:, :3].argmax(1), "fresh")
    made = keep.update(served, rows, epochs=40, lr=1e-2)
    assert [t.name for t in (*made.model.signature.inputs, *made.model.signature.outputs)] == ["a", "right", "scores"]
    assert keep.score(made, rows).numbers["accuracy"] > keep.score(served, rows).numbers["accuracy"] + 0.2


def test_an_update_that_is_not_better_stores_nothing(keep: Keep, added: str, digits: tuple[Dataset, Dataset]) -> None:
    assert digits[0].labels is not None
    wrong = replace(digits[0], labels=np.random.default_rng(0).permutation(digits[0].labels)).head(300)
    with pytest.raises(Regressed, match="is not better"):
        keep.update(added, wrong, epochs=3)
    assert len(keep.registry.versions("digits")) == 1


def test_promote_and_rollback_are_one_write_each(keep: Keep, added: str) -> None:
    keep.convert(added, "onnx")
    keep.promote("digits@1")
    revision = keep.promote("digits@2").revision
    route = keep.rollback("digits", why="it is slow")
    assert (route.live, route.previous, route.revision) == (1, 2, revision + 1)
    assert keep.registry.journal("digits")[-1].why == "it is slow"
    with pytest.raises(NotFound):
        keep.promote("digits@9")


def test_rollback_without_a_previous_version_is_refused(keep: Keep, added: str) -> None:
    with pytest.raises((No, NotFound)) as refused:
        keep.rollback("digits")
    assert "digits" in str(refused.value)


@pytest.mark.parametrize(("asked", "held"), [(None, 0.95), (0.8, 0.8), (0.0, 0.0)])
def test_a_rollout_is_held_to_the_promise_of_the_settings_or_to_its_own(
    keep: Keep, added: str, asked: float | None, held: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep.promote(added)
    keep.settings = replace(keep.settings, min_accuracy=0.95)
    plans: list[Canary] = []
    monkeypatch.setattr(Canary, "run", lambda plan, *_, **__: plans.append(plan))
    keep.rollout(added, Canary(min_accuracy=asked))
    keep.settings = replace(keep.settings, min_accuracy=0.0)
    keep.rollout(added, Canary())
    assert [plan.min_accuracy for plan in plans] == [held, None]


def test_a_rollout_that_goes_on_is_known_to_others(keep: Keep, added: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keep.promote(added)
    monkeypatch.setattr(Canary, "run", lambda *_, **__: keep.attended("digits"))
    assert keep.rollout(added, Canary()) is True
    assert not keep.attended("digits")


def test_a_model_that_is_named_twice_is_served_once(keep: Keep, added: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[list[str]] = []
    monkeypatch.setattr("modelkeep.serve.server.serve_registry", lambda registry, names, *_, **__: served.append(names))
    said: list[str] = []
    keep.serve(["digits", "digits"], on_setting=said.append)
    assert served == [["digits"]]
    assert len(said) == 1


def test_a_damaged_file_is_refused_by_name(keep: Keep, added: str, digits: tuple[Dataset, Dataset]) -> None:
    model: Model = keep.model(added)
    model.main.chmod(0o644)
    data = bytearray(model.main.read_bytes())
    data[-1] ^= 1
    model.main.write_bytes(bytes(data))
    with pytest.raises(DigestMismatch, match=r"weights\.safetensors"):
        keep.score(added, digits[1])
    with pytest.raises(DigestMismatch, match=r"weights\.safetensors"):
        keep.promote(added)


def test_labels_of_nothing_say_how_to_give_some(keep: Keep, added: str) -> None:
    with pytest.raises(BadData, match="modelkeep label digits FILE"):
        keep.labelled("digits")
    assert keep.label("digits", {"unknown": 3}).matched == 0
    with pytest.raises(NotFound):
        keep.label("nobody", {"id": 1})


def test_a_sample_of_the_traffic_is_data_with_the_labels_that_came(
    keep: Keep, added: str, digits: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    rows = digits[1].head(50)
    assert rows.labels is not None
    kept = Sample(tmp_path / "sample", share=1.0)
    for row in range(50):
        inputs = rows.take([row]).inputs
        kept.offer(
            Exchange(f"r{row}", float(row), "digits", 1, "live", "ok", 0.01, inputs, {"output": np.zeros((1, 10))})
        )
    kept.close()
    assert keep.read_data(tmp_path / "sample", added).labels is None
    keep.label("digits", {f"r{row}": int(rows.labels[row]) for row in range(40)})
    for folder in (tmp_path / "sample", tmp_path / "sample" / "digits"):
        found = keep.read_data(folder, added)
        assert found.labels is not None
        assert found.labels.tolist() == rows.labels[:40].tolist()
        np.testing.assert_array_equal(found.inputs["pixels"], rows.inputs["pixels"][:40])
    assert keep.score(added, found).numbers["n"] == 40
    with pytest.raises(BadData, match="no captured request"):
        keep.labelled("digits")
    keep.settings = replace(keep.settings, sample=str(tmp_path / "sample"))
    assert len(keep.labelled("digits")) == 40
    assert len(keep.labelled("digits", since=30.0)) == 10


def test_rows_are_fitted_to_the_signature(
    keep: Keep, added: str, digits: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    dataset.write(digits[1], tmp_path / "rows.npz")
    assert len(keep.read_data(tmp_path / "rows.npz", added)) == len(digits[1])
    np.savez(tmp_path / "narrow.npz", pixels=np.zeros((4, 63), np.float32))
    with pytest.raises(BadData, match="63"):
        keep.read_data(tmp_path / "narrow.npz", added)


def test_an_alert_is_written_once_and_once_more_when_it_is_over(keep: Keep) -> None:
    labels = {"alertname": "ModelkeepNoWorkers", "kind": "health", "subject": "workers", "model": "digits"}
    began = {"startsAt": "2026-11-24T10:00:00Z", "fingerprint": "1"}
    alert = {"status": "firing", "labels": labels, "annotations": {"summary": "digits has no worker"}, **began}
    assert keep.alerted({"alerts": [{**alert, "status": "resolved"}]}) == 0  # of which nobody was told
    assert keep.alerted({"alerts": [alert, alert]}) == 1
    assert keep.alerted({"alerts": [alert]}) == 0
    for _ in range(2):
        assert keep.alerted({"alerts": [{**alert, "status": "resolved"}]}) == 0
    assert keep.alerted({"alerts": [{**alert, "startsAt": "2026-11-25T10:00:00Z"}]}) == 1
    service = {"labels": {"alertname": "ModelkeepDown"}, "startsAt": "2026-11-24T10:00:00Z"}
    assert keep.alerted({"alerts": [service]}) == 1
    told = [(e.name, e.kind, e.who, e.why) for e in keep.registry.journal()]
    assert told == [
        ("digits", "finding", "alertmanager", "digits has no worker"),
        ("digits", "finding-over", "alertmanager", "digits has no worker"),
        ("digits", "finding", "alertmanager", "digits has no worker"),
        ("service", "finding", "alertmanager", "ModelkeepDown"),
    ]
    with pytest.raises(BadInput, match="no notification of Alertmanager"):
        keep.alerted([])


def test_a_finding_is_written_and_told_once(keep: Keep, added: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding("drift", "inputs", "they moved", since=1.0)
    monkeypatch.setattr(look, "check", lambda *_, **__: look.Checked("digits@1", 9, 1.0, (finding,)))
    stream = io.StringIO()
    for _ in range(3):
        assert keep.monitor(added, alerts=Alerts(stream=stream)).findings == (finding,)
    assert [e.why for e in keep.registry.journal("digits", kind="finding")] == ["they moved"]
    assert stream.getvalue().count("they moved") == 1
