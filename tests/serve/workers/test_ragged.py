"""Sequences of different lengths in one run: everybody gets what they get alone, or nobody shares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep.errors import ModelkeepError
from modelkeep.metrics import Metrics
from modelkeep.model import folder
from modelkeep.serve.plane.batcher import Batcher, joinable
from modelkeep.serve.plane.loaded import Loaded, bring, bring_here
from modelkeep.serve.workers import ragged
from modelkeep.serve.workers.threads import Threads
from modelkeep.types import BATCH, Bounds, Model, ServeConfig, Signature, TensorSpec

SEQUENCE = (BATCH, "sequence")
SIGNATURE = Signature(
    (TensorSpec("ids", "int64", (None, None), SEQUENCE), TensorSpec("attention_mask", "int64", (None, None), SEQUENCE)),
    (TensorSpec("pooled", "float32", (None, 2), (BATCH, None)), TensorSpec("each", "float32", (None, None), SEQUENCE)),
)


class Masked:
    """The mean of the ids that count, and every position's distance from it. ``wide`` are the shapes of its runs."""

    def __init__(self, of: Signature = SIGNATURE, *, heeds: bool = True, cut: int = 0) -> None:
        self.signature, self.heeds, self.cut = of, heeds, cut
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: Any) -> dict[str, Any]:
        ids, mask = inputs["ids"].astype(np.float32), inputs["attention_mask"].astype(np.float32)
        self.shapes.append(ids.shape)
        if (ids == 666).any():
            raise ValueError("poison")
        weights = np.where(mask.any(1, keepdims=True), mask, 1) if self.heeds else np.ones_like(mask)
        mean = (ids * weights).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
        return {"pooled": np.hstack([mean, -mean]), "each": (ids - mean)[:, : ids.shape[1] - self.cut]}

    def close(self) -> None:
        pass


def shared(runner: Any) -> Threads:
    return Threads(runner, 1, ragged=ragged.of(SIGNATURE))


def asked(*ids: int, mask: list[int] | None = None) -> dict[str, Any]:
    return {"ids": np.array([ids], np.int64), "attention_mask": np.array([mask or [1] * len(ids)], np.int64)}


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


async def together(runner: Any, requests: list[dict[str, Any]], seen: list[tuple[int, int]] | None = None) -> list[Any]:
    """All submitted in one turn of the loop."""
    padded = None if seen is None else lambda content, padding: seen.append((content, padding))
    batcher = Batcher(runner, ServeConfig(max_batch=64), name="m@1", padded=padded)
    pending = [batcher.submit(one, {}, None) for one in requests]
    answers = await asyncio.gather(*(p.answer for p in pending), return_exceptions=True)
    await batcher.close()
    batcher.crew.close()
    return answers


def same(answer: Any, alone: dict[str, Any]) -> None:
    assert not isinstance(answer, BaseException), answer
    for name, want in alone.items():
        assert answer.outputs[name].shape == want.shape
        np.testing.assert_allclose(answer.outputs[name], want, atol=1e-4, rtol=1e-3)


rows = st.lists(
    st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1, max_size=40), min_size=1, max_size=12
)


@given(rows)
@settings(max_examples=60, deadline=None)
def test_whatever_the_lengths_and_masks_everybody_gets_what_they_get_alone(
    drawn: list[list[tuple[int, bool]]],
) -> None:
    requests = [asked(*(i for i, _ in row), mask=[int(m) for _, m in row]) for row in drawn]
    model, alone = Masked(), [Masked().run(one) for one in requests]
    answers = run(together(shared(model), requests))
    for answer, want in zip(answers, alone, strict=True):
        same(answer, want)
    masked = [len(row) for row in drawn if not any(counts for _, counts in row)]
    buckets = {ragged.bucket(len(row)) for row in drawn if any(counts for _, counts in row)}
    assert len(model.shapes) == len(buckets) + len(set(masked)), "what masks all of a row out is not padded"


def test_lengths_share_a_run_by_bucket_and_what_was_added_is_counted() -> None:
    seen: list[tuple[int, int]] = []
    model = Masked()
    requests = [asked(1), asked(1, 2, 3), asked(*range(9)), asked(*range(16)), asked(5, mask=[0])]
    run(together(shared(model), requests, seen))
    assert sorted(model.shapes) == [(1, 1), (2, 3), (2, 16)], "padded to the longest, not to the bucket"
    assert sorted(seen) == [(0, 0), (4, 2), (25, 7)]
    metrics = Metrics()
    for content, padding in seen:
        metrics.version("m", 1).padded(content, padding)
    assert metrics.value("modelkeep_positions_total", model="m", version="1", kind="padding") == 9
    assert metrics.value("modelkeep_positions_total", model="m", version="1", kind="content") == 29


def test_the_guilty_one_fails_alone_among_padded_neighbours() -> None:
    requests = [asked(1), asked(2, 666), asked(3, 4, 5)]
    answers = run(together(shared(Masked()), requests))
    same(answers[0], Masked().run(requests[0]))
    assert isinstance(answers[1], ModelkeepError)
    assert "poison" in str(answers[1])
    same(answers[2], Masked().run(requests[2]))


def test_an_output_that_is_not_as_long_as_it_should_be_is_an_error_and_no_wrong_answer() -> None:
    answers = run(together(shared(Masked(cut=1)), [asked(1, 2), asked(3, 4, 5)]))
    assert all("output 'each' has shape [1, 2] for sequences of 3" in str(a) for a in answers)


def test_buckets_are_powers_of_two_and_half_steps_between() -> None:
    assert [ragged.bucket(n) for n in (1, 8, 9, 16, 17, 24, 25, 32, 33, 48, 49, 64, 65, 97, 193)] == [
        *(8, 8, 16, 16, 24, 24, 32, 32, 48, 48, 64, 64, 96, 128, 256)
    ]
    assert all(n <= ragged.bucket(n) <= max(8, 2 * n - 2) for n in range(1, 2000))


def test_without_a_proof_lengths_stay_apart() -> None:
    model = Masked()
    run(together(model, [asked(1), asked(2), asked(1, 2)]))
    assert sorted(model.shapes) == [(1, 2), (2, 1)]
    assert joinable(asked(1), {}) != joinable(asked(1, 2), {})
    assert joinable(asked(1), {}, {"ids": 1, "attention_mask": 1}) == joinable(
        asked(1, 2), {}, {"ids": 1, "attention_mask": 1}
    )


def spec(name: str, *axes: str | None, dtype: str = "int64") -> TensorSpec:
    return TensorSpec(name, dtype, tuple(None if axis else 3 for axis in axes), axes)


IDS, MASK, OUT = spec("ids", *SEQUENCE), spec("mask", *SEQUENCE), spec("y", BATCH, None, dtype="float32")


@pytest.mark.parametrize(
    ("inputs", "outputs", "able"),
    [
        ((IDS, MASK), (OUT,), True),
        ((IDS, MASK, spec("fixed", BATCH, None)), (OUT,), True),
        ((IDS,), (OUT,), False),  # nothing says which positions count
        ((IDS, spec("mask", BATCH, None)), (OUT,), False),
        ((IDS, MASK, spec("more", BATCH, "other")), (OUT,), False),
        ((IDS, MASK, spec("past", BATCH, "sequence+1")), (OUT,), False),
        ((IDS, MASK), (spec("y", BATCH, "words"),), False),
        ((IDS, MASK), (spec("y", BATCH, "sequence", "sequence"),), False),
        ((spec("ids", *SEQUENCE, dtype="str"), MASK), (OUT,), False),
        ((spec("ids", "sequence"), spec("mask", "sequence")), (OUT,), False),
    ],
)
def test_what_a_signature_must_show(inputs: Any, outputs: Any, able: bool) -> None:
    assert (ragged.of(Signature(inputs, outputs)) is not None) == able


@pytest.mark.parametrize(
    ("bounds", "tried"),
    [
        (Bounds(), [[1, 5, 8], [49, 57, 64]]),
        (Bounds(2, 10), [[2, 5, 8], [9, 10]]),
        (Bounds(8, 8), []),
        (Bounds(32, None, 32), []),
        (Bounds(100, 512), [[100, 114, 128], [193, 197, 200]]),
    ],
)
def test_lengths_are_tried_within_their_bounds(bounds: Bounds, tried: list[list[int]]) -> None:
    assert list(ragged._trials(bounds)) == tried


def test_what_ignores_its_mask_is_found_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ServeConfig(max_batch=8)
    runner: Any = Masked()
    assert ragged.tried(runner, tmp_path, config)
    assert not ragged.tried(runner, tmp_path, replace(config, max_batch=1))
    assert caplog.messages == []
    runner = Masked(heeds=False)
    assert not ragged.tried(runner, tmp_path, config)
    assert "requests of different 'sequence' do not share a run: output 'pooled'" in caplog.messages[0]
    runner = Masked(cut=1)
    assert not ragged.tried(runner, tmp_path, config)
    runner = Masked(replace(SIGNATURE, bounds={"sequence": Bounds(7, 7)}))
    assert not ragged.tried(runner, tmp_path, config), "what has one length has nothing to pad"


def onnx_model(path: Path, *, heeds: bool) -> Model:
    """The mean of the ids that count, as an ONNX file."""
    import onnx
    from onnx import TensorProto, helper

    ids, mask = (helper.make_tensor_value_info(n, TensorProto.INT64, [*SEQUENCE]) for n in ("ids", "attention_mask"))
    nodes = [
        helper.make_node("Mul", ["ids", "attention_mask" if heeds else "ids"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=1),
        helper.make_node("ReduceSum", ["attention_mask", "one"], ["count"], keepdims=1),
        helper.make_node("Cast", ["sum"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Shape", ["ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Cast", ["count" if heeds else "length"], ["by"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "by"], ["pooled"]),
    ]
    out = helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [BATCH, 1])
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "mean", [ids, mask], [out], [one])
    path.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path / "model.onnx")
    of = Signature(SIGNATURE.inputs, (TensorSpec("pooled", "float32", (None, 1), (BATCH, None)),))
    return folder.write(Model(path, "onnx", of, ("model.onnx",)))


@pytest.mark.parametrize("how", [bring, bring_here])
def test_a_real_engine_is_tried_at_load(tmp_path: Path, how: Callable[..., Any]) -> None:
    config = ServeConfig(max_batch=16, threads=1)
    for heeds in (True, False):
        runner, paces = how(onnx_model(tmp_path / f"m-{heeds}", heeds=heeds), config)
        assert (runner.ragged is not None) == heeds

        async def main(runner: Any = runner, paces: Any = paces, heeds: bool = heeds) -> None:
            loaded = Loaded("m", 1, runner, config=config, metrics=Metrics(), paces=paces)
            requests = [asked(*range(1, n)) for n in (2, 4, 9, 12, 17)]
            pending = [loaded.batcher.submit(one, {}, None) for one in requests]
            answers = [await p.answer for p in pending]
            for one, answer in zip(requests, answers, strict=True):
                ids = one["ids"] if heeds else one["ids"] ** 2
                np.testing.assert_allclose(answer.outputs["pooled"], ids.mean(1, keepdims=True), rtol=1e-5)
            positions = loaded.series.positions("padding")._value.get()  # type: ignore[attr-defined]
            assert (positions > 0) == heeds
            await loaded.close()

        run(main())
