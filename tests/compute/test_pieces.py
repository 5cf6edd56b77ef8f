"""Pieces are written whole or not at all, and what is no piece counts as not there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from veriscope.compute import BadFolder, Pieces, map_resumable
from veriscope.errors import UserError


def squares(n: int) -> dict[str, np.ndarray]:
    return {"square": np.array([n * n])}


def test_what_was_stored_comes_back_and_is_made_once(tmp_path: Path) -> None:
    pieces, made = Pieces(tmp_path / "new" / "folder"), []

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True])}

    first, second = pieces.once("key", make), pieces.once("key", make)

    assert made == [1] and list(pieces) == ["key"] and len(pieces) == 1
    assert all(np.array_equal(first[name], second[name]) for name in ("a", "b")) and first["a"].dtype == np.float32


def test_they_are_what_map_resumable_takes(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path)
    pieces.store("3", {"square": np.array([-9])})

    found = map_resumable(squares, [2, 3], key=str, done=pieces, store=pieces.store)

    assert [int(one["square"][0]) for one in found] == [4, -9] and sorted(pieces) == ["2", "3"]


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_a_damaged_piece_is_not_there(damage: bytes | None, tmp_path: Path) -> None:
    pieces = Pieces(tmp_path)
    pieces.store("key", squares(3))
    path = next(tmp_path.iterdir())

    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)

    assert "key" not in pieces
    assert int(pieces.once("key", lambda: squares(4))["square"][0]) == 16


def test_a_piece_that_could_not_be_finished_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = Pieces(tmp_path)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadFolder, match="No space left"):
        pieces.store("key", squares(1))

    assert "key" not in pieces and len(pieces) == 0 and list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert issubclass(BadFolder, UserError)

    with pytest.raises(BadFolder, match="Give a folder"):
        Pieces(tmp_path / "file").store("key", squares(1))
