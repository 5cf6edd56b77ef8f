"""Tensors that took long to make, kept in the user's cache under the hash of what they are made from."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from veriscope.zoo import town

_CODE = ("models.py", "lessons.py", "rank_one.py")  # a change in one of these makes new tensors


def home() -> Path:
    """The folder of what is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "veriscope-incidents"


@lru_cache(maxsize=8)
def _made_of(variant: str) -> str:
    found = hashlib.sha256((town.folder(variant) / "model.safetensors").read_bytes())
    for name in _CODE:
        found.update((Path(__file__).parent / name).read_bytes())
    return found.hexdigest()


def kept(variant: str, settings: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` returns, from the cache if the same code made it from the same weights and settings before.

    A cache that can't be read or written costs time, nothing else.
    """
    name = hashlib.sha256(json.dumps([_made_of(variant), dict(settings)], sort_keys=True).encode()).hexdigest()[:32]
    path = home() / f"{name}.safetensors"
    try:
        return {key: value.clone() for key, value in load_file(path).items()}  # not tied to the file any more
    except (OSError, SafetensorError):
        made = {key: value.detach().contiguous() for key, value in make().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".new", delete=False) as file:
            fresh = Path(file.name)
        save_file(made, fresh)
        os.replace(fresh, path)
    except OSError:
        pass
    return made
