"""Masked fields: which a pattern fits, and that nothing of their values is left without the key."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest

from modelkeep.data import masks
from modelkeep.data.masks import Mask, Masks
from modelkeep.errors import BadSettings

KEY = bytes(range(32))


class TestOf:
    @pytest.mark.parametrize(
        ("text", "kind", "name", "mask"),
        [
            ("", "input", "email", Mask.CLEAR),
            ("email", "input", "email", Mask.DROPPED),
            ("email", "output", "EMail", Mask.DROPPED),
            ("email", "input", "email2", Mask.CLEAR),
            ("*mail*", "input", "e-mail-2", Mask.DROPPED),
            ("input.email", "input", "email", Mask.DROPPED),
            ("input.email", "output", "email", Mask.CLEAR),
            ("output.*", "output", "scores", Mask.DROPPED),
            ("age, hash:user_*", "parameter", "user_id", Mask.HASHED),
            ("HASH:User", "input", "user", Mask.HASHED),
            ("user, hash:user", "input", "user", Mask.DROPPED),
            ("id", "request", "id", Mask.CLEAR),
            ("*", "request", "id", Mask.CLEAR),
            ("hash:request.id", "request", "id", Mask.HASHED),
        ],
    )
    def test_names_and_patterns(self, text: str, kind: str, name: str, mask: Mask) -> None:
        assert Masks(text, KEY).of(kind, name) is mask

    @pytest.mark.parametrize("text", ["hash:", "two words", "email,hash: "])
    def test_nonsense_is_refused(self, text: str) -> None:
        with pytest.raises(BadSettings, match="masks no field"):
            Masks(text, KEY)

    def test_no_hash_without_a_key(self) -> None:
        with pytest.raises(BadSettings, match="needs a key"):
            Masks("hash:user")
        assert not Masks("user").hashes

    def test_what_fits_nothing_is_told(self) -> None:
        given = Masks("email, hash:user, input.x", KEY)
        assert given.idle([("input", "x"), ("output", "user")]) == ["email"]

    @pytest.mark.parametrize(
        ("text", "misnamed"),
        [
            ("X, hash:y, input.*, request.id", []),
            ("emial, x, hash:usr", ["emial", "hash:usr"]),
            ("input.scna*, output.x", ["input.scna*", "output.x"]),
            ("parameter.token, hash:parameter.t*, *mail*, hash:user_[ab]", []),
        ],
    )
    def test_a_parameter_may_have_any_name_but_says_so(self, text: str, misnamed: list[str]) -> None:
        fields = [("input", "x"), ("output", "y"), ("request", "id")]
        assert Masks(text, KEY).misnamed(fields) == misnamed


class TestHashed:
    def test_equal_stays_equal_and_the_key_decides(self) -> None:
        one, other = Masks("", KEY), Masks("", bytes(32))
        assert one.hashed("ann@example.org") == one.hashed(b"ann@example.org")
        assert one.hashed("ann@example.org") != one.hashed("bob@example.org")
        assert one.hashed("ann@example.org") != other.hashed("ann@example.org")
        assert len(one.hashed("ann@example.org")) == 32

    def test_arrays_keep_their_shape(self) -> None:
        given = np.array([["ann", b"bob"], ["ann", "\ud800"]], dtype=object)
        found = Masks("", KEY).hashed_array(given)
        assert found is not None
        assert found.shape == (2, 2)
        assert found[0, 0] == found[1, 0] != found[0, 1]
        numbers = Masks("", KEY).hashed_array(np.array([7, 7, 8], np.int32))
        assert numbers is not None
        assert len(set(numbers.tolist())) == 2

    @pytest.mark.parametrize("dtype", ["float32", "bool"])
    def test_what_has_too_few_or_too_many_values_is_not_hashed(self, dtype: str) -> None:
        assert Masks("", KEY).hashed_array(np.zeros(3, dtype)) is None


class TestKey:
    def test_it_is_made_once_for_its_owner_only(self, tmp_path: Path) -> None:
        file = tmp_path / "home" / "sample.key"
        made = masks.key(file)
        assert len(made) == 32
        assert masks.key(file) == made
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    @pytest.mark.parametrize("text", ["no hex", "00ff", ""])
    def test_another_file_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "sample.key").write_text(text)
        with pytest.raises(BadSettings, match="is no key of masks"):
            masks.key(tmp_path / "sample.key")

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(BadSettings, match="cannot be written"):
            masks.key(tmp_path / "file" / "sample.key")
