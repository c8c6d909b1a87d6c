"""Requests that were kept, as rows: which are left out, which belong together, and how much memory they take."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset, concat
from modelkeep.data.exchanged import Labelled, from_exchanges
from modelkeep.data.traffic import Exchange
from modelkeep.errors import BadData


def exchange(inputs: dict | None, label: object = None) -> Exchange:
    return Exchange("id", 0.0, "m", 1, "live", "ok", 0.01, inputs, None, label=label)


class TestFromExchanges:
    def test_requests_of_several_rows_become_rows_with_their_labels(self) -> None:
        one = exchange({"x": np.zeros((1, 4))}, 3)
        two = exchange({"x": np.ones((2, 4))}, [4, 5])
        found = from_exchanges([one, two], source="captured")
        assert found.inputs["x"][:, 0].tolist() == [0.0, 1.0, 1.0]
        assert found.labels is not None
        assert found.labels.tolist() == [3, 4, 5]
        assert found.source == "captured"

    def test_large_inputs_are_copied_once(self) -> None:
        given = [exchange({"x": np.zeros((1, 3, 224, 224), np.float32)}, at) for at in range(20)]
        tracemalloc.start()
        found = from_exchanges(given)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.2 * found.inputs["x"].nbytes

    def test_requests_without_inputs_or_with_labels_for_other_rows_are_left_out(self) -> None:
        kept = exchange({"x": np.zeros((1, 4))}, 3)
        several = [exchange({"x": np.ones((2, 4))}, label) for label in ([[1, 2], None], [[1], [2]])]
        found = from_exchanges([kept, exchange(None, 1), exchange({"x": np.ones((2, 4))}, 9), *several])
        assert len(found) == 1

    @pytest.mark.parametrize("empty", ["", "nan", float("nan")])
    def test_a_label_that_says_nothing_leaves_its_row_out(self, empty: object) -> None:
        given = [exchange({"x": np.full((1, 4), at)}, label) for at, label in enumerate((3, empty, 1))]
        found = from_exchanges(given)
        assert found.labels is not None
        assert found.labels.tolist() == [3, 1]
        assert found.inputs["x"][:, 0].tolist() == [0, 2]

    def test_rows_whose_truth_is_not_known_are_left_out(self) -> None:
        two = exchange({"x": np.arange(12.0).reshape(3, 4)}, [4, None, 5])
        found = from_exchanges([exchange({"x": np.zeros((1, 4))}, 3), two])
        assert found.inputs["x"][:, 0].tolist() == [0.0, 0.0, 8.0]
        assert found.labels is not None
        assert found.labels.dtype == np.int64
        assert found.labels.tolist() == [3, 4, 5]

    def test_no_labels_where_one_is_missing(self) -> None:
        exchanges = [exchange({"x": np.zeros((1, 4))}, 3), exchange({"x": np.zeros((1, 4))})]
        assert from_exchanges(exchanges).labels is None

    def test_texts_of_different_lengths_are_rows_of_one_set(self) -> None:
        requests = [{"ids": np.ones((1, n), np.int64), "attention_mask": np.ones((1, n), np.int64)} for n in (2, 4)]
        found = from_exchanges([exchange(one, 1) for one in requests])
        assert found.inputs["ids"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
        long = Dataset({name: np.ones((1, 6), np.int64) for name in requests[0]}, np.array([0]), "long")
        assert concat(found, long).inputs["attention_mask"].sum(1).tolist() == [2, 4, 6]

    def test_nothing_left_and_requests_that_do_not_match_are_refused(self) -> None:
        with pytest.raises(BadData, match="captured has no rows"):
            from_exchanges([], source="captured")
        with pytest.raises(BadData, match="differ in their inputs"):
            from_exchanges([exchange({"x": np.zeros((1, 4))}), exchange({"x": np.zeros((1, 5))})])


class TestLabelled:
    def test_parts_are_rows_of_one_set(self) -> None:
        rows = Labelled(4, "traffic")
        rows.take([exchange({"x": np.zeros((1, 2), np.float32)}, "cat")])
        rows.take([exchange({"x": np.ones((1, 2), np.float32)}, [1, 2]), exchange(None, 3)])
        rows.take([exchange({"x": np.full((3, 2), at, np.float32)}, [at, None, 9]) for at in (2, 3)])
        found = rows.dataset()
        assert found.inputs["x"][:, 0].tolist() == [0, 2, 2, 3, 3]
        assert found.inputs["x"].dtype == np.float32
        assert found.labels is not None
        assert found.labels.tolist() == ["cat", "2", "9", "3", "9"]

    def test_parts_of_other_lengths_are_padded(self) -> None:
        rows = Labelled(3, "traffic")
        for n in (2, 4, 3):
            rows.take([exchange({"ids": np.ones((1, n), np.int64), "attention_mask": np.ones((1, n), np.int64)}, n)])
        found = rows.dataset()
        assert found.inputs["ids"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
        assert found.labels is not None
        assert found.labels.tolist() == [2, 4, 3]

    def test_parts_that_do_not_match_and_none_are_refused(self) -> None:
        rows = Labelled(3, "traffic")
        with pytest.raises(BadData, match="traffic has no rows"):
            rows.dataset()
        rows.take([exchange({"x": np.zeros((1, 4))}, 1)])
        for other in ({"x": np.zeros((1, 5))}, {"y": np.zeros((1, 4))}):
            with pytest.raises(BadData, match="the requests of traffic differ in their inputs"):
                rows.take([exchange(other, 1)])

    def test_what_was_taken_is_in_memory_once(self) -> None:
        rows = Labelled(40, "traffic")
        tracemalloc.start()
        for at in range(40):
            rows.take([exchange({"x": np.full((1, 100_000), at, np.float32)}, at)])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.1 * rows.dataset().inputs["x"].nbytes
