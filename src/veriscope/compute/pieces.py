"""Finished pieces of work, each in a file of its own, so that work that was killed goes on where it was.

A piece is known by a hash of all that its result depends on: a changed question asks for other names, so nothing
stale is ever picked up, and the folder may be shared by as many questions as one likes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from veriscope.errors import UserError

Arrays = dict[str, NDArray]


class BadFolder(UserError):
    """A folder for finished pieces that can't be used as one."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(f"Finished pieces can't be kept in {folder}: {why}. Give a folder that may be written to.")


@dataclass(frozen=True)
class Pieces(Mapping[str, Arrays]):
    """Named arrays by key, in a folder; also the `done` and the `store` of `map_resumable`.

    Attributes:
        folder: Made when the first piece is stored.
    """

    folder: Path

    def __getitem__(self, key: str) -> Arrays:
        """The arrays of a piece; a file that is torn or is none of ours counts as not there, and is done again."""
        try:
            return safetensors.numpy.load(self._path(key).read_bytes())
        except (OSError, SafetensorError, KeyError) as error:
            raise KeyError(key) from error

    def __iter__(self) -> Iterator[str]:
        """Keys of the pieces that can be read."""
        return (path.stem for path in sorted(self.folder.glob("*.safetensors")) if path.stem in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def store(self, key: str, arrays: Arrays) -> None:
        """Write a piece whole or not at all: under another name first, on the disk before it gets its own.

        Raises:
            BadFolder: It can't be written.
        """
        path = self._path(key)
        half = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(half, "wb") as file:
                file.write(safetensors.numpy.save(arrays))
                file.flush()
                os.fsync(file.fileno())
            os.replace(half, path)
        except OSError as error:
            if self.folder.is_dir():
                half.unlink(missing_ok=True)
            raise BadFolder(self.folder, str(error)) from error

    def once(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """The piece if it is there, else made and stored."""
        if key not in self:
            self.store(key, make())
        return self[key]

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
