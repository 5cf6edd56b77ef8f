"""Text that has nothing to do with the claim, and what an edit costs on it.

Where the claimant gives no neutral text, the subject writes its own: samples at temperature 1 from the first
words of dev prompts. They are on its distribution by construction, whatever the model and its language.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from veriscope.examples import Sample
from veriscope.subjects import Edit, Subject
from veriscope.trials.statistics import Array

Edits = Callable[[Sequence[str]], Sequence[Edit]]  # edits for a list of texts, so that per-text values can be drawn


def neutral_texts(
    subject: Subject, dev: Sample, given: Sequence[str] = (), *, n: int = 64, new: int = 32, seed: int = 0
) -> tuple[str, ...]:
    """Up to n neutral texts: the given ones, or the subject's own samples begun with the first half of dev prompts.

    Returns:
        Texts of at least three tokens, none longer than the context.
    """
    if given:
        return tuple(given[:n])
    rng = np.random.default_rng([seed, 0x2E])
    picked = rng.choice(len(dev), size=min(n, len(dev)), replace=False)
    begun = [_first_half(dev.texts[i]) for i in picked]
    written = subject.generate(begun, max_new_tokens=new, temperature=1.0, seed=seed)
    joined = [a + b for a, b in zip(begun, written, strict=True)]
    return tuple(t for t, ids in zip(joined, subject.tokens(joined), strict=True) if len(ids) >= 3)


def _first_half(text: str) -> str:
    cut = text.rfind(" ", 0, max(len(text) // 2, 8))
    return text[:cut] if cut > 0 else text


def next_token_loss(subject: Subject, texts: Sequence[str], edits: Edits | None = None) -> Array:
    """Mean next-token cross-entropy of each text, in nats a token: [text]."""
    run = subject.run(list(texts), edits=list(edits(texts)) if edits else [], logits="all")
    assert run.logits is not None
    ids = subject.tokens(list(texts))
    out = np.zeros(len(ids))
    for i, row in enumerate(ids):
        logp = torch.log_softmax(run.logits[i, : len(row) - 1].float(), -1)
        out[i] = -float(logp[torch.arange(len(row) - 1), torch.tensor(row[1:])].mean())
    return out


def next_token_hits(subject: Subject, texts: Sequence[str], edits: Edits | None = None) -> Array:
    """Share of each text's tokens that the subject ranks first: [text]."""
    run = subject.run(list(texts), edits=list(edits(texts)) if edits else [], logits="all")
    assert run.logits is not None
    ids = subject.tokens(list(texts))
    out = np.zeros(len(ids))
    for i, row in enumerate(ids):
        out[i] = float((run.logits[i, : len(row) - 1].argmax(-1) == torch.tensor(row[1:])).double().mean())
    return out
