"""What was trained, kept as a folder of two files: JSON and safetensors, written whole and read with no code run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from veriscope.errors import UserError


def put_folder(
    folder: str | Path, names: tuple[str, str], record: Mapping[str, Any], tensors: dict[str, Tensor]
) -> Path:
    """Write the two files; the JSON goes last, so a folder without it holds nothing.

    Args:
        names: Of the JSON and of the safetensors.
        record: Plain data, its "schema" among it.
    """
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    _put(folder / names[1], safetensors.torch.save(tensors))
    _put(folder / names[0], (json.dumps(record) + "\n").encode())
    return folder


def read_folder(
    folder: str | Path, names: tuple[str, str], schema: Any, bad: Callable[[Path, str], UserError]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record and the tensors of a folder.

    Args:
        names: As in `put_folder`.
        schema: What the record's "schema" must be.
        bad: Makes the error of a folder that can't be used: it is missing, damaged, or of another version.
    """
    folder = Path(folder).expanduser()
    try:
        record = json.loads((folder / names[0]).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load((folder / names[1]).read_bytes())
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise bad(folder, f"a file is missing or damaged ({error})") from error
    if not isinstance(record, dict) or record.get("schema") != schema:
        raise bad(folder, f"{names[0]} is not of version {schema}")
    if odd := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise bad(folder, f"the tensor '{odd[0]}' has values that are not finite numbers")
    return record, tensors


def _put(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
