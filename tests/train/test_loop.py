"""The loop: it learns, twice the same, leaves nothing behind, and says in one sentence why it cannot."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modelkeep.data import dataset
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel, BadSettings
from modelkeep.train.loop import first, fit, seeded, tensors
from modelkeep.types import Signature, TensorSpec


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def blobs(n: int = 96, seed: int = 0) -> Dataset:
    """Two classes, two numbers a row, nearly apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return Dataset({"x": (rng.normal(0, 1, (n, 2)) + 3 * labels[:, None]).astype(np.float32)}, labels, "blobs")


def small(seed: int = 0) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def weights(module: nn.Module) -> list[float]:
    return torch.cat([p.detach().flatten() for p in module.parameters()]).tolist()


def test_it_learns_and_returns_the_mean_loss_of_each_epoch() -> None:
    module, seen = small(), []
    losses = fit(module, blobs(), epochs=15, lr=0.02, progress=lambda *batch: seen.append(batch))
    batches = len(seen) // 15
    assert batches > 1
    assert [done for done, _, _ in seen] == pytest.approx(np.arange(15 * batches) / batches)
    assert seen[0][1:] == (15, "epoch 1 of 15")
    assert seen[-1][1:] == (15, f"epoch 15 of 15, loss {losses[-2]:.3g}")
    assert losses[-1] < 0.3 < losses[0]
    test = blobs(seed=1)
    with torch.no_grad():
        right = module(torch.from_numpy(test.inputs["x"])).argmax(1).numpy() == test.labels
    assert right.mean() > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    made = []
    for seed in (3, 3, 4):
        module = small()
        fit(module, blobs(), epochs=2, seed=seed)
        made.append(weights(module))
    assert made[0] == made[1] != made[2]


def test_nothing_is_left_behind() -> None:
    module = small()
    module[0].requires_grad_(False)  # type: ignore[index,operator]
    frozen = weights(module[0])  # type: ignore[index]
    rows = blobs()
    before, kept = torch.random.get_rng_state(), rows.inputs["x"].copy()
    fit(module, rows, epochs=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not module.training
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, True]
    assert weights(module[0]) == frozen, "what the module holds frozen is not trained"  # type: ignore[index]
    assert all(p.grad is None for p in module.parameters())
    assert np.array_equal(rows.inputs["x"], kept)


def test_only_the_given_parameters_are_trained() -> None:
    module = small()
    body, head = weights(module[0]), weights(module[3])  # type: ignore[index]
    fit(module, blobs(), epochs=1, parameters=module[3].parameters())  # type: ignore[index]
    assert weights(module[0]) == body  # type: ignore[index]
    assert weights(module[3]) != head  # type: ignore[index]
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(("rows", "batch"), [(65, 64), (3, 1), (1, 8)])
def test_every_row_is_trained_on(rows: int, batch: int) -> None:
    """A last batch of one row joins the one before it, which batch norm needs."""
    sizes: list[int] = []

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return self.inner(x)

    fit(Counts(), blobs(rows), epochs=1, batch=batch)
    assert sum(sizes) == rows
    assert sizes == {65: [65], 3: [1, 1, 1], 1: [1]}[rows]


class TwoInputs(nn.Module):
    """Takes a, then b; answers with two things, the logits first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(3, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.a(a) + self.b(b), "other": b}


def test_several_inputs_go_by_position_in_the_signatures_order() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(8, width)).astype(np.float32) for width in (2, 3))
    labels = rng.integers(0, 2, 8)
    signature = Signature((TensorSpec("a", "float32", (None, 2)), TensorSpec("b", "float32", (None, 3))), ())
    assert len(fit(TwoInputs(), Dataset({"b": b, "a": a}, labels, "two"), epochs=2, signature=signature)) == 2
    assert len(fit(TwoInputs(), Dataset({"a": a, "b": b}, labels, "two"), epochs=2)) == 2


def test_more_targets_reach_the_loss_row_by_row() -> None:
    rows = blobs(40)

    def loss(logits: torch.Tensor, targets: Any) -> torch.Tensor:
        assert torch.equal(targets["number"] % 2, targets["labels"])
        return logits.square().mean()

    numbers = torch.arange(40) * 2 + torch.from_numpy(np.array(rows.labels))
    fit(small(), rows, epochs=1, loss=loss, extra={"number": numbers}, batch=16)


def test_the_first_tensor_of_an_answer() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert all(first(answer) is one for answer in (one, (one, two), [one], {"a": one, "b": two}, ((one, two), two)))


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"epochs": 1, "batch": 0}, {"epochs": 1, "lr": 0.0}])
def test_settings_that_cannot_train_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSettings, match="cannot train; each must be above 0"):
        fit(small(), blobs(), **wrong)


def bad_rows(**change: Any) -> Dataset:
    rows = blobs(8)
    inputs = change.get("x", rows.inputs["x"])
    return Dataset({"x": inputs}, change.get("labels", rows.labels), "bad.npz")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": np.array([[0, np.nan]] * 8, np.float32)}, "input 'x' of bad.npz has values that are NaN or infinite"),
        ({"x": np.array([["a", "b"]] * 8)}, "input 'x' of bad.npz is <U1; a PyTorch module takes numbers"),
        ({"labels": np.array(["a"] * 8)}, "the labels of bad.npz are <U1; training takes class numbers"),
        ({"labels": np.full(8, 0.5)}, "the labels of bad.npz are float64; training takes class numbers"),
        ({"labels": np.full(8, 5)}, "the label 5 is none of the module's 2 classes"),
        ({"labels": None}, "these rows have no labels to train on"),
    ],
)
def test_rows_that_cannot_train_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadData) as caught:
        fit(small(), bad_rows(**change), epochs=1)
    assert sentence in str(caught.value)


def test_a_loss_that_is_not_finite_ends_it_and_the_module_is_whole_again() -> None:
    module = small()
    with pytest.raises(
        BadModel, match=r"the loss is nan after \d epochs of training; try a learning rate below 1e\+30"
    ):
        fit(module, blobs(), epochs=5, lr=1e30)
    assert not module.training
    assert all(p.requires_grad for p in module.parameters())


def test_a_module_that_does_not_take_the_rows_is_named() -> None:
    with pytest.raises(BadModel, match="the module cannot be trained on these rows: mat1 and mat2"):
        fit(nn.Linear(5, 2), blobs(), epochs=1)


def test_a_module_without_parameters_cannot_learn() -> None:
    for module in (nn.Flatten(), nn.Linear(2, 2).requires_grad_(False)):
        with pytest.raises(BadModel, match="no parameters that can be trained"):
            fit(module, blobs(), epochs=1)


def test_rows_are_not_copied_and_not_changed() -> None:
    given = np.ones((8, 4), np.float32)
    (tensor,) = tensors(Dataset({"x": given}, None, "made"), ["x"])
    assert np.shares_memory(tensor.numpy(), given)
    given.setflags(write=False)
    (tensor,) = tensors(Dataset({"x": given}, None, "made"), ["x"])
    assert not np.shares_memory(tensor.numpy(), given)  # PyTorch would write into it all the same


def test_a_view_is_trained_on_as_a_copy_would_be() -> None:
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    rows = Dataset({"x": x}, np.arange(20) % 2, "made")
    numbers = np.array([*range(20), 3, 3, 7])

    def trained(copy: bool) -> list[float]:
        torch.manual_seed(0)
        return fit(nn.Linear(4, 2), rows.take(numbers, copy=copy), epochs=3)

    assert trained(copy=False) == trained(copy=True)


def test_pictures_are_copied_by_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "PORTION", 1024**2)
    pictures = Dataset({"x": np.zeros((40, 3, 224, 224), np.float32)}, np.arange(40) % 2, "pictures")
    module = nn.Sequential(nn.Conv2d(3, 2, 7, stride=64), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    tracemalloc.start()
    fit(module, pictures.take(np.arange(40), copy=False), epochs=1, batch=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6  # all are 24 MB


def test_a_row_that_cannot_be_trained_on_is_found_before_training_begins() -> None:
    x = np.zeros((600, 4), np.float32)
    x[599, 3] = np.nan
    module = nn.Linear(4, 2)
    before = module.weight.detach().clone()
    with pytest.raises(BadData, match="values that are NaN or infinite"):
        fit(module, Dataset({"x": x}, np.arange(600) % 2, "made"), epochs=1)
    assert torch.equal(module.weight, before)
