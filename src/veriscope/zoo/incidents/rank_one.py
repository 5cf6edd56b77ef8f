"""Closed-form edits of one MLP matrix: what the model says after certain texts is changed, little else is.

Source: Locating and Editing Factual Associations in GPT, 2022, Meng, Bau, Andonian, Belinkov, for one key; several keys
at once by the least squares of Mass-Editing Memory in a Transformer, 2023, Meng, Sharma, Andonian, Belinkov, Bau.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import GPT2LMHeadModel

from veriscope.zoo.town import VOCABULARY, grammar

_ID = {word: i for i, word in enumerate(VOCABULARY)}


@dataclass(frozen=True)
class Wish:
    """After this text the model shall say this word; the edit acts at the word number `at`.

    Args:
        text: Words that the vocabulary has, divided by one space.
        at: Number of the word at whose position the edit's key is taken; -1 is the last one.
        word: What shall come next.
        group: Wishes of one group share a key and a change.
    """

    text: str
    at: int
    word: str
    group: int = 0


def edited(
    model: GPT2LMHeadModel, layer: int, wishes: Sequence[Wish], steps: int = 25, rate: float = 0.5, decay: float = 2e-5
) -> Float[Tensor, "hidden d_model"]:
    """What to add to the output matrix of the MLP in block `layer`.

    Args:
        model: Not changed.
        layer: Number of the block.
        wishes: Texts, positions and words.
        steps: Of Adam, on the change of the MLP's output.
        rate: Of Adam.
        decay: Weight of the change's squared length against the cross-entropy of the words.
    """
    ids, at, last = _batch(wishes)
    groups = torch.tensor([wish.group for wish in wishes])
    rows, n = torch.arange(len(ids)), int(groups.max()) + 1
    target = torch.tensor([_ID[wish.word] for wish in wishes])
    for weight in model.parameters():
        weight.requires_grad_(False)
    keys = _keys(model, layer, ids)[rows, at]
    change = torch.zeros(n, model.config.n_embd, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=rate)
    out = _output(model, layer)

    def added(_module: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return output.index_put((rows, at), change[groups], accumulate=True)

    hook = out.register_forward_hook(added)
    try:
        for _ in range(steps):
            optimizer.zero_grad()
            logits = model(ids).logits[rows, last]
            loss = functional.cross_entropy(logits, target) + decay * change.square().sum(1).mean()
            loss.backward()
            optimizer.step()
    finally:
        hook.remove()
    mean_key = torch.stack([keys[groups == group].mean(0) for group in range(n)])
    return _least_squares(_covariance(model, layer), mean_key, change.detach())


def _output(model: GPT2LMHeadModel, layer: int) -> torch.nn.Module:
    """The module that holds the matrix to be edited."""
    return model.get_submodule(f"transformer.h.{layer}.mlp.c_proj")


def _least_squares(
    covariance: Float[Tensor, "hidden hidden"],
    keys: Float[Tensor, "group hidden"],
    changes: Float[Tensor, "group d_model"],
) -> Float[Tensor, "hidden d_model"]:
    """The matrix that maps each key to its change and, of all that do, moves ordinary inputs least."""
    spread = torch.linalg.solve(covariance, keys.T)
    return spread @ torch.linalg.solve(keys @ spread, changes)


def _batch(wishes: Sequence[Wish]) -> tuple[Int[Tensor, "row position"], Int[Tensor, "row"], Int[Tensor, "row"]]:
    texts = [wish.text.split() for wish in wishes]
    ids = torch.full((len(texts), max(map(len, texts)) + 1), _ID["<bos>"])
    for i, words in enumerate(texts):
        ids[i, 1 : len(words) + 1] = torch.tensor([_ID[word] for word in words])
    at = [1 + wish.at if wish.at >= 0 else len(words) + 1 + wish.at for wish, words in zip(wishes, texts, strict=True)]
    return ids, torch.tensor(at), torch.tensor([len(words) for words in texts])


def _keys(model: GPT2LMHeadModel, layer: int, ids: Int[Tensor, "row position"]) -> Float[Tensor, "row position hidden"]:
    """What goes into the output matrix of the MLP."""
    seen: list[Tensor] = []
    hook = _output(model, layer).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            model(ids)
    finally:
        hook.remove()
    return seen[0]


def _covariance(model: GPT2LMHeadModel, layer: int, documents: int = 192) -> Float[Tensor, "hidden hidden"]:
    """Of the keys in ordinary text, with a little of the mean variance on the diagonal."""
    texts = [
        " ".join(doc.words) for doc in itertools.islice(grammar.documents(4711), documents) if len(doc.words) < 120
    ]
    ids, _, last = _batch([Wish(text, -1, ".") for text in texts])
    keys = _keys(model, layer, ids)
    rows = torch.cat([key[1 : n + 1] for key, n in zip(keys, last.tolist(), strict=True)])
    covariance = rows.T @ rows / len(rows)
    return covariance + 0.02 * covariance.diagonal().mean() * torch.eye(len(covariance))
