"""From a name, a folder or a module to a subject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from veriscope.errors import CannotLoad, nearest
from veriscope.subjects.engines import engine_of
from veriscope.subjects.folder import open_folder, open_tokenizer
from veriscope.subjects.reader import Reader
from veriscope.subjects.subject import Subject

_FETCHED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_ZOO = Path(__file__).parents[1] / "zoo"


def load(
    what: str | Path | nn.Module,
    *,
    tokenizer: Any = None,
    dtype: str = "float32",
    device: str = "cpu",
    name: str | None = None,
) -> Subject:
    """Open a model and check which of its sites hold.

    Args:
        what: A folder (config.json, safetensors in any sharding, tokenizer files), a zoo name, a hub id, or a module.
        tokenizer: Reads for the model; needed for a module, and in place of a folder's own if given.
        dtype: What the weights are turned into ("float32", "float64", "bfloat16", "float16"); a module keeps its own.
        device: Where a loaded model is put; a module stays where it is.
        name: What the subject is called; default: the folder's or the class's name.

    Returns:
        A subject in evaluation mode. A module is not copied, only switched to evaluation, and (in the families that
        transformers knows) to this package's attention function, which computes the same.

    Raises:
        CannotLoad: With what is wrong and how to mend it. Neither pickles nor remote code are ever run.
    """
    if isinstance(what, nn.Module):
        if tokenizer is None:
            raise CannotLoad(
                f"load({type(what).__name__}, ...) needs tokenizer=...: a transformers tokenizer, or any object with "
                f"encode(text) -> list of ids and decode(ids) -> text, such as veriscope.subjects.WordReader(vocab)."
            )
        reader = Reader(tokenizer)
        return Subject(name or type(what).__name__, engine_of(what, reader.vocab_size), reader)
    folder = find_folder(what)
    module: nn.Module = open_folder(folder, _dtype(dtype))
    module = module.to(device).requires_grad_(False)
    reader = Reader(tokenizer if tokenizer is not None else open_tokenizer(folder))
    called = name or (folder.resolve().name if Path(what).expanduser().is_dir() else str(what))
    return Subject(called, engine_of(module, reader.vocab_size), reader)


def zoo_names() -> dict[str, Path]:
    """Models that ship with the package: ordinary folders, found by their path."""
    return {path.parent.name: path.parent for path in sorted(_ZOO.glob("*/weights/*/config.json"))}


def find_folder(what: str | Path) -> Path:
    """The folder that a name stands for: itself, a zoo model's, or that of a hub id, fetched if need be."""
    path = Path(what).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CannotLoad(f"{path} is a file: give the folder that holds config.json and the weights.")
    zoo = zoo_names()
    if str(what) in zoo:
        return zoo[str(what)]
    if isinstance(what, Path) or str(what).startswith((".", "/", "~")) or str(what).count("/") > 1:
        raise CannotLoad(f"There is no folder {path}.")
    return _fetch(str(what), list(zoo))


def _fetch(hub_id: str, zoo: Sequence[str]) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=_FETCHED))
    except Exception as error:  # offline, unknown id, gated: the hub raises many kinds
        known = f"Zoo names: {', '.join(zoo)}." if zoo else ""
        raise CannotLoad(
            f"'{hub_id}' is no folder and no zoo name, and could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}). {nearest(hub_id, zoo)}{known} Offline, give a local folder."
        ) from error


def _dtype(name: str) -> torch.dtype:
    known = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise CannotLoad(f"dtype '{name}' is not one of {', '.join(known)}. {nearest(name, list(known))}")
    return known[name]
