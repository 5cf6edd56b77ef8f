"""Pairs of texts of the tiny models: random words, one or two of which are other ones in the corrupt text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from veriscope.subjects import Edit, Subject

CLEAN = ("w4 w2 w3 w9 w7", "w4 w5 w6 w7 w8", "w9 w2 w1 w1 w3")
CORRUPT = ("w4 w8 w3 w9 w7", "w4 w5 w9 w7 w8", "w9 w2 w1 w6 w3")
RAGGED = ("w4 w2 w3 w9 w7", "w4 w5 w6", "w9 w2 w1 w1 w3 w8 w8")
RAGGED_CORRUPT = ("w4 w8 w3 w9 w7", "w4 w9 w6", "w9 w2 w7 w1 w3 w8 w8")
ANSWERS, FOILS = ("w3", "w20", "w31"), ("w5", "w21", "w30")
ASKED: dict[str, Any] = {"answers": ANSWERS, "foils": FOILS}
PAIRS: dict[str, Any] = {"clean": CLEAN, "corrupt": CORRUPT, **ASKED}
UNEVEN: dict[str, Any] = {"clean": RAGGED, "corrupt": RAGGED_CORRUPT, **ASKED}


def gaps(one: Subject, texts: tuple[str, ...], *edits: Edit) -> Tensor:
    """Logit differences of an ordinary run."""
    logits = one.run(texts, edits=edits, logits="last").logits
    assert logits is not None
    row = torch.arange(len(texts))
    return logits[row, one.answer_ids(texts, ANSWERS)] - logits[row, one.answer_ids(texts, FOILS)]
