"""The identity of a model: one hash over its architecture and its weights."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn
from transformers import PreTrainedModel

_NOT_THE_MODEL = {
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
}


def hash_of(module: nn.Module) -> str:
    """sha256 (hex) of the configuration and of every weight and buffer, with names, dtypes and shapes.

    A model hashes alike whether it was built here or read from a folder; one changed number changes the hash.
    """
    digest = hashlib.sha256(type(module).__name__.encode())
    digest.update(_config(module).encode())
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _config(module: nn.Module) -> str:
    if isinstance(module, PreTrainedModel):
        kept = {key: value for key, value in module.config.to_dict().items() if key not in _NOT_THE_MODEL}
        return json.dumps(kept, sort_keys=True, default=str)
    return repr(module)
