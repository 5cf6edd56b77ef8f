"""Opening a model's folder: config.json, safetensors in any sharding, tokenizer files. No pickle is ever read.

What is wrong with a folder is said before anything is built: a cut-off file, a missing shard, weights that are
only there as a pickle, weights that the architecture needs and the files lack.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import logging

from veriscope.errors import CannotLoad

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tokenizer_config.json")


def open_folder(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model in a folder.

    Raises:
        CannotLoad: With what is wrong and how to mend it.
    """
    config = _config(folder)
    weights = _weights(folder)
    try:
        return _build(config, weights, dtype, folder)
    except CannotLoad:
        raise
    except Exception as error:  # transformers raises many kinds; all mean that files and config do not belong together
        raise CannotLoad(f"The weights in {folder} do not fit its config.json: {_short(error)}") from error


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder.

    Raises:
        CannotLoad: There is none, or it can't be read.
    """
    if not any((folder / name).is_file() for name in _TOKENIZER):
        raise CannotLoad(
            f"{folder} holds a model but no tokenizer (no {_TOKENIZER[0]}). Copy the tokenizer files there, or pass "
            f"one: load('{folder}', tokenizer=...)."
        )
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise CannotLoad(f"The tokenizer in {folder} can't be opened: {_short(error)}") from error


def _config(folder: Path) -> Any:
    path = folder / "config.json"
    if not path.is_file():
        raise CannotLoad(
            f"{folder} has no config.json, so its architecture is not known. Save it with save_pretrained."
        )
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CannotLoad(f"{path} is not valid JSON: {error}. Fetch it again.") from error
    kind = plain.get("model_type") if isinstance(plain, dict) else None
    if kind not in transformers.CONFIG_MAPPING:
        own = " It brings code of its own (auto_map), which is never run here." if plain and "auto_map" in plain else ""
        raise CannotLoad(
            f"{path} names model_type '{kind}', which transformers {transformers.__version__} does not know.{own} "
            f"Build the module yourself and pass it: load(module, tokenizer=...)."
        )
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise CannotLoad(f"{path} can't be used: {_short(error)}") from error


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, from one file or from shards with or without an index."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CannotLoad(f"{index} is not a valid index of shards ({error}). Fetch it again.") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CannotLoad(
                f"{folder} lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:5])}. Fetch them."
            )
        files = [folder / name for name in names]
    else:
        whole = folder / "model.safetensors"
        files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise CannotLoad(_no_weights(folder))
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        check_file(file)
        tensors.update(load_file(file))
    return tensors


def _no_weights(folder: Path) -> str:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if not pickles:
        return f"{folder} has a config.json but no .safetensors file. Put the weights there."
    return (
        f"{folder} has its weights only as a pickle ({', '.join(pickles[:3])}), which can run code when it is read, so "
        f"it is not opened. Convert it where you trust it: AutoModel.from_pretrained(...).save_pretrained(folder)."
    )


def check_file(path: Path) -> None:
    """Hold a safetensors file's length against what its header promises.

    Raises:
        CannotLoad: The file is cut off, too long, or no safetensors file.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size or length > 200_000_000:
            raise CannotLoad(
                f"{path} is cut off or is no safetensors file: its header alone is not whole. Fetch it again."
            )
        try:
            header = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CannotLoad(
                f"{path} is no valid safetensors file: its header can't be read. Fetch it again."
            ) from error
    if 8 + length + end != size:
        raise CannotLoad(
            f"{path} is cut off: its header promises {8 + length + end:,} bytes, the file has {size:,}. Fetch it again."
        )


def _build(config: Any, weights: dict[str, torch.Tensor], dtype: torch.dtype, folder: Path) -> PreTrainedModel:
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, info = _kind(config).from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
    finally:
        if bars:
            logging.enable_progress_bar()
    missing = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if missing:
        raise CannotLoad(
            f"The weights in {folder} lack {len(missing)} tensors that {type(model).__name__} needs "
            f"({', '.join(missing[:3])}, ...). They would be random: add the file that holds them."
        )
    return model


def _kind(config: Any) -> Any:
    """The class to build: with an unembedding where the weights were saved with one."""
    named = (getattr(config, "architectures", None) or ["ForCausalLM"])[0]
    auto: Any = AutoModel
    if named.endswith(("ForMaskedLM", "ForPreTraining")):
        auto = AutoModelForMaskedLM
    elif named.endswith(("ForCausalLM", "LMHeadModel")):
        auto = AutoModelForCausalLM
    return auto._model_mapping[type(config)]


def _short(error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}"
