"""Which engine runs a module: the one for known families, with its sites checked, or the one for all others."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from veriscope.subjects.checks import check
from veriscope.subjects.families import family_of
from veriscope.subjects.modules import PlainModule
from veriscope.subjects.transformer import Transformer


def engine_of(module: nn.Module, vocab_size: int | None) -> Transformer | PlainModule:
    """An engine for a module, which is switched to evaluation.

    Args:
        module: Any module that maps token ids to something.
        vocab_size: Of its tokenizer, if known; a module of no known family is tried out on ids below it.

    Raises:
        CannotLoad: The module can't be run on token ids.
    """
    module.eval()
    family = family_of(module)
    if family is None:
        return PlainModule(module, vocab_size)
    assert isinstance(module, PreTrainedModel)
    engine = Transformer(module, family)
    check(engine)
    return engine
