"""What a model lets be free is found by running it, as a person would find it by trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import Unsupported
from modelkeep.model import free_dimensions
from modelkeep.model.free_dimensions import discover, fix, raised
from modelkeep.types import Bounds, Signature, TensorSpec

Function = Callable[..., np.ndarray | dict[str, np.ndarray]]


def found(function: Function, only: Any = None, **inputs: np.ndarray) -> Signature:
    """What is discovered of a function of named arrays, whose first dimension counts rows."""

    def run(arrays: Any) -> dict[str, np.ndarray]:
        answer = function(**arrays)
        return answer if isinstance(answer, dict) else {"y": answer}

    def specs(arrays: dict[str, np.ndarray]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(n, a.dtype.name, (None, *a.shape[1:]) if a.ndim else ()) for n, a in arrays.items())

    return discover(run, inputs, Signature(specs(inputs), specs(run(inputs))), only)


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def ids(*shape: int) -> np.ndarray:
    return np.ones(shape, np.int64)


def shapes(signature: Signature) -> list[str]:
    return [t.describe() for t in (*signature.inputs, *signature.outputs)]


def test_nothing_but_the_batch_of_a_linear_layer() -> None:
    assert shapes(found(lambda x: x @ floats(64, 10), x=floats(3, 64))) == [
        "x float32 [batch, 64]",
        "y float32 [batch, 10]",
    ]


def test_a_sequence_up_to_the_positions_that_there_are() -> None:
    table = floats(40, 5)
    signature = found(lambda words: words[..., None] + table[np.arange(words.shape[1])], words=ids(3, 12))
    assert shapes(signature) == ["words int64 [batch, sequence]", "y float64 [batch, sequence, 5]"]
    assert signature.bounds == {"sequence": Bounds(1, 40)}


def test_a_slow_machine_finds_the_ends_of_every_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the time is up, what was tried bounds a size, and both ends are tried in any case."""
    monkeypatch.setattr(free_dimensions, "SECONDS", 0.0)
    image, weights = floats(3, 2, 16, 24) * np.arange(24, dtype=np.float32), floats(2, 1, 1)
    signature = found(lambda image: (image * weights).mean((2, 3)), image=image)
    assert shapes(signature) == ["image float32 [batch, 2, height, width]", "y float32 [batch, 2]"]
    assert signature.bounds == {}


def test_dimensions_that_only_move_together_share_a_name() -> None:
    signature = found(lambda words, mask: (words * mask).sum(1), words=ids(3, 7), mask=ids(3, 7))
    assert signature.inputs[0].axes == signature.inputs[1].axes == ("batch", "sequence")
    assert signature.free == ("batch", "sequence")


def test_dimensions_that_move_alone_do_not() -> None:
    def both(src: np.ndarray, decoder_ids: np.ndarray) -> np.ndarray:
        return src.mean(1, keepdims=True) + decoder_ids

    signature = found(both, src=np.arange(21).reshape(3, 7), decoder_ids=ids(3, 7))
    assert shapes(signature) == [
        "src int64 [batch, sequence]",
        "decoder_ids int64 [batch, decoder_sequence]",
        "y float64 [batch, decoder_sequence]",
    ]


@pytest.mark.parametrize(("past", "new"), [(6, 4), (5, 5), (8, 8)])
def test_a_mask_over_a_cache_and_new_tokens_is_their_sum(past: int, new: int) -> None:
    signature = found(decode, input_ids=ids(3, new), mask=ids(3, past + new), past_key=floats(3, 2, past, 8))
    assert [t.axes for t in signature.inputs] == [
        ("batch", "sequence"),
        ("batch", "past+sequence"),
        ("batch", None, "past", None),
    ]
    assert [t.axes for t in signature.outputs] == [("batch", "sequence"), ("batch", None, "past+sequence", None)]
    assert signature.bounds == {"past": Bounds(0)}


def test_one_new_token_at_a_time_is_one_more() -> None:
    signature = found(decode, input_ids=ids(3, 1), mask=ids(3, 9), past_key=floats(3, 2, 8, 8))
    assert [t.axes for t in signature.inputs] == [("batch", None), ("batch", "past+1"), ("batch", None, "past", None)]


def decode(input_ids: np.ndarray, mask: np.ndarray, past_key: np.ndarray) -> dict[str, np.ndarray]:
    """A decoder's shapes: the new tokens join the cache, and the mask is over both."""
    new = np.ones((len(input_ids), past_key.shape[1], input_ids.shape[1], past_key.shape[3]), np.float32)
    key = np.concatenate([past_key, new], 2)
    weight = np.einsum("bhld,hd->bl", key, floats(2, 8)) * mask
    return {"logits": input_ids * weight.sum(1, keepdims=True), "key": key}


def test_an_image_in_multiples() -> None:
    def halved_twice(image: np.ndarray) -> np.ndarray:
        batch, _, height, width = image.shape
        half = image.reshape(batch, 3, height // 4, 4, width // 4, 4).mean((3, 5))
        return half.repeat(4, 2).repeat(4, 3) + image

    signature = found(halved_twice, image=floats(2, 3, 32, 32))
    assert shapes(signature)[0] == "image float32 [batch, 3, height, width]"
    assert signature.outputs[0].axes == ("batch", None, "height", "width")
    assert signature.bounds == {"height": Bounds(4, None, 4), "width": Bounds(4, None, 4)}


def test_an_output_that_grows_in_another_way_is_free_without_a_name() -> None:
    signature = found(lambda x: x[:, ::2] @ floats(5, 5), x=floats(3, 12, 5))
    assert signature.outputs[0].shape == (None, None, 5)
    assert signature.outputs[0].axes == ("batch", "y.1", None)


def test_a_model_that_answers_by_another_number_of_rows_is_not_free_there() -> None:
    signature = found(lambda x: x.reshape(-1, 8).sum(1).reshape(len(x), 2), x=floats(3, 16))
    assert signature.free == ("batch",)


def test_what_is_added_must_count_for_something() -> None:
    """Two layers of a cache are used, and a third would be taken and ignored."""
    signature = found(lambda past: past[:, 0] + past[:, 1], past=floats(3, 2, 6))
    assert signature.inputs[0].axes == ("batch", None, "past")
    asked = found(lambda past: past[:, 0] + past[:, 1], {"past": {0: None, 1: "layers"}}, past=floats(3, 2, 6))
    assert asked.inputs[0].axes == ("batch", "layers", None)


def test_a_maximum_over_points_is_free_though_repeating_them_changes_nothing() -> None:
    points = np.random.default_rng(0).standard_normal((3, 9, 4)).astype(np.float32)
    assert found(lambda points: (points @ floats(4, 4)).max(1), points=points).free == ("batch", "sequence")


def test_a_picture_is_free_though_strides_drop_its_last_pixel() -> None:
    """Every other pixel of an even width: one more changes nothing, and twice as many do."""

    def strided(image: np.ndarray) -> np.ndarray:
        return image[:, :, : image.shape[2] // 2 * 2 : 2].sum((1, 2))

    assert found(strided, image=floats(2, 3, 8)).free == ("batch", "sequence", "length")


class TestAskedFor:
    def test_only_these_are_free(self) -> None:
        def mean(words: np.ndarray, image: np.ndarray) -> np.ndarray:
            return words.sum(1) + image.mean((1, 2, 3))

        signature = found(mean, {"words": {0: None, 1: "tokens"}}, words=ids(2, 7), image=floats(2, 3, 8, 8))
        assert shapes(signature)[:2] == ["words int64 [batch, tokens]", "image float32 [batch, 3, 8, 8]"]

    def test_a_batch_that_is_not_asked_for_is_fixed(self) -> None:
        signature = found(lambda x: x * 2, {"x": {1: None}}, x=floats(2, 7))
        assert shapes(signature) == ["x float32 [2, features]", "y float32 [2, features]"]

    def test_one_that_cannot_be_is_refused_with_the_model_s_own_reason(self) -> None:
        with pytest.raises(Unsupported, match=r"dimension 1 of input 'x' cannot be free: .* size than 64.*mismatch"):
            found(lambda x: x @ floats(64, 10), {"x": {0: None, 1: None}}, x=floats(2, 64))


def test_what_is_known_already_is_kept() -> None:
    known = Signature(
        (TensorSpec("x", "int64", (None, None), ("batch", "words")),),
        (TensorSpec("y", "int64", (None, None)),),
        {"words": Bounds(2, 9)},
    )
    signature = discover(lambda arrays: {"y": arrays["x"]}, {"x": ids(2, 5)}, known)
    assert signature.bounds == {"words": Bounds(2, 9)}
    assert [t.axes for t in (*signature.inputs, *signature.outputs)] == [("batch", "words")] * 2


def image(height: int | None, width: int | None, bounds: dict[str, Bounds]) -> Signature:
    spec = TensorSpec("image", "float32", (None, height, width), ("batch", None if height else "height", "width"))
    return Signature((spec,), (TensorSpec("y", "float32", (None,), ("batch",)),), bounds)


def halved(arrays: Any) -> dict[str, np.ndarray]:
    """A network that halves a picture three times one way, and averages what is left the other way."""
    if arrays["image"].shape[1] < 8:
        raise ValueError("negative dimension")
    with np.errstate(all="ignore"):
        kept = arrays["image"][:, 0, 4:]
        return {"y": kept.sum(1) / np.float32(kept.shape[1])}


def test_what_is_free_begins_at_the_smallest_size_that_is_taken() -> None:
    signature = raised(halved, {"image": floats(1, 20, 20)}, image(None, None, {}))
    assert signature == image(None, None, {"height": Bounds(8), "width": Bounds(5)})


def test_a_beginning_that_is_known_or_cannot_be_told_stays() -> None:
    known = image(None, None, {"height": Bounds(10, 30, 2)})
    assert raised(halved, {"image": floats(1, 20, 20)}, known).bounds == {**known.bounds, "width": Bounds(5)}
    assert raised(halved, {"image": floats(1, 4, 20)}, image(None, None, {})) == image(None, None, {})
    assert raised(halved, {"image": floats(1, 20, 20)}, image(20, None, {})).bounds == {"width": Bounds(5)}


def test_free_dimensions_can_be_fixed_again() -> None:
    signature = found(decode, input_ids=ids(3, 4), mask=ids(3, 10), past_key=floats(3, 2, 6, 8))
    assert shapes(fix(signature, {"past": 6})) == [
        "input_ids int64 [batch, sequence]",
        "mask int64 [batch, sequence+6]",
        "past_key float32 [batch, 2, 6, 8]",
        "logits float64 [batch, sequence]",
        "key float32 [batch, 2, sequence+6, 8]",
    ]
    assert shapes(fix(signature, {"past": 6, "sequence": 4}))[1] == "mask int64 [batch, 10]"
    assert fix(signature, {"past": 6}).bounds == {}
