"""Finished pieces of a sweep, known by a hash of the model, the prompts and every number of their edits."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from veriscope.compute import Pieces
from veriscope.subjects import Subject
from veriscope.subjects.hashing import hash_of

_FORMAT = "patching 1"  # changes when the numbers of a piece come to mean something else


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Where the pieces of one model are kept.

    Attributes:
        pieces: The folder.
        model: Hash of its weights, and what it runs on.
    """

    pieces: Pieces
    model: str

    def once(self, parts: Sequence[object], make: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], bool]:
        """The tensors of a piece that depends on the model and on these parts, and whether they were there."""
        key = fingerprint(_FORMAT, self.model, *parts)
        there = key in self.pieces
        found = self.pieces.once(key, lambda: {name: tensor.numpy() for name, tensor in make().items()})
        return {name: torch.from_numpy(array) for name, array in found.items()}, there


def keep_in(folder: str | Path | None, subject: Subject) -> Kept | None:
    """Where to keep pieces, or None where nothing is kept.

    The weights are hashed anew, since a model that was changed in place must not find its old pieces.
    """
    if folder is None:
        return None
    return Kept(Pieces(Path(folder)), f"{hash_of(subject.module)} on {subject.device.type}")


def fingerprint(*parts: object) -> str:
    """sha256 (hex) over nested plain values, tensors and dataclasses, with types and shapes."""
    digest = hashlib.sha256()
    for part in parts:
        _feed(digest, part)
    return digest.hexdigest()


def _feed(digest: Any, part: object) -> None:
    if isinstance(part, Tensor):
        flat = part.detach().cpu().contiguous().flatten()
        digest.update(f"tensor {part.dtype} {tuple(part.shape)} ".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        digest.update(f"{type(part).__name__} ".encode())
        for field in dataclasses.fields(part):
            _feed(digest, getattr(part, field.name))
    elif isinstance(part, Mapping):
        _feed(digest, list(part.items()))
    elif isinstance(part, Sequence) and not isinstance(part, str):
        digest.update(f"list {len(part)} ".encode())
        for inner in part:
            _feed(digest, inner)
    elif isinstance(part, np.generic):
        _feed(digest, part.item())
    elif part is None or isinstance(part, str | int | float):
        digest.update(f"{type(part).__name__} {len(repr(part))} {part!r} ".encode())
    else:
        raise TypeError(f"a {type(part).__name__} has no fingerprint")
