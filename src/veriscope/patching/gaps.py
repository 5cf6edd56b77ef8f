"""Texts with an answer and a foil each, and the logit difference of many edited runs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.errors import BadAnswer, BadPrompt, UserError
from veriscope.patching.kept import Kept, keep_in
from veriscope.patching.waiting import waiting
from veriscope.subjects import Run, Subject, Variant
from veriscope.trials.evidence import Estimate
from veriscope.trials.statistics import Resampler

SAME = 1e-4  # a mean logit difference below this can't be divided by
_VALUES_AT_ONCE = 2**25  # numbers that the edits of one sweep may hold: 128 MiB in float32
_EDITS_AT_ONCE = 4096
_TOKENS_KEPT = 2**16  # tokens of edited prompts in a piece that is kept: what a kill may cost, a minute or two at most
_EDITS_KEPT = 16  # but at least so many edits, since each piece takes a base run of its own


class UnequalPairs(UserError):
    """A clean and a corrupt text whose tokens do not stand over each other."""

    def __init__(self, pair: int, clean: int, corrupt: int, n: int, of: int) -> None:
        super().__init__(
            f"Pair {pair} has {clean} tokens in the clean text and {corrupt} in the corrupt one ({n} of {of} pairs "
            f"differ). Patching carries a value to the same position, so both texts of a pair need the same number "
            f"of tokens: swap words for words of as many tokens (count them with subject.tokens), or leave such "
            f"pairs out."
        )


class NoGap(UserError):
    """Clean and corrupt runs that answer alike, so that there is nothing to restore or to destroy."""

    def __init__(self, clean: float, corrupt: float) -> None:
        super().__init__(
            f"The mean logit difference is {clean:.4f} in the clean runs and {corrupt:.4f} in the corrupt ones, so an "
            f"effect can't be given as a share of the way between them. Choose corrupt texts that change which "
            f"answer is right, and check that answers and foils belong to the clean texts."
        )


class BadChoice(UserError):
    """A setting of patching that is none of those there are."""

    def __init__(self, setting: str, given: object, must: str) -> None:
        super().__init__(f"{setting}={given!r} will not do: {must}.")


@dataclass(frozen=True, eq=False)
class Asked:
    """Texts and the two tokens whose logits are compared at the last token of each.

    Attributes:
        tokens: Ids of answer and foil.
        clusters: Which texts are resampled together (template, entity, conversation).
        kept: Where finished pieces are kept, if they are.
    """

    subject: Subject
    texts: tuple[str, ...]
    tokens: Int[Tensor, "text 2"]
    lengths: Int[Tensor, "text"]
    clusters: tuple[str, ...]
    kept: Kept | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def base(self) -> Float[Tensor, "text"]:
        """Logit difference of the unedited runs."""
        return self.read(())[0]

    def read(self, sites: Sequence[str]) -> tuple[Float[Tensor, "text"], Run]:
        """Logit difference of the unedited runs, and from the same runs the activations at all positions."""
        run = self.subject.run(self.texts, read=sites, logits="last")
        assert run.logits is not None
        return gap_of(run.logits.gather(1, self.tokens.to(run.logits.device))), run

    def some(self, rows: slice, times: int = 1) -> Asked:
        """A few of the texts, all of them several times over."""
        return replace(
            self,
            texts=self.texts[rows] * times,
            tokens=self.tokens[rows].repeat(times, 1),
            lengths=self.lengths[rows].repeat(times),
            clusters=self.clusters[rows] * times,
        )

    def gaps(
        self, variants: Iterable[Variant], total: int, progress: bool = False, what: str = "patching"
    ) -> Float[Tensor, "variant text"]:
        """Logit difference of every text under every edit, replayed in pieces that fit into memory.

        Where they are kept, pieces are smaller, so that a kill costs little, and each is stored when it is done.

        Args:
            variants: May be made while the sweep goes on.
            total: How many there are, for the bar.
            progress: Draw a bar after two seconds.
            what: Words beside it.
        """
        done = []
        most = _EDITS_AT_ONCE if self.kept is None else max(_EDITS_KEPT, _TOKENS_KEPT // int(self.lengths.sum()))
        with waiting(what, total * len(self), progress) as told:
            for piece in _pieces(variants, min(most, _EDITS_AT_ONCE)):
                done.append(self._piece(piece, told))
        return torch.cat(done) if done else torch.zeros(0, len(self))

    def _piece(self, piece: list[Variant], told: Callable[[int], None]) -> Float[Tensor, "variant text"]:
        def sweep() -> Tensor:
            return gap_of(self.subject.sweep(self.texts, piece, tokens=self.tokens, told=told).logits)

        if self.kept is None:
            return sweep()
        question = ("gaps", self.subject.tokens(self.texts), self.tokens, piece)
        found, there = self.kept.once(question, lambda: {"gaps": sweep()})
        if there:
            told(len(piece) * len(self))
        return found["gaps"]

    def resampler(self, seed: int = 0) -> Resampler:
        return Resampler(self.clusters, seed)


def gap_of(logits: Float[Tensor, "*rest 2"]) -> Float[Tensor, "*rest"]:
    """logit(answer) - logit(foil), on the CPU in single precision or better."""
    precise = wide(logits)
    return precise[..., 0] - precise[..., 1]


def wide(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Detached, on the CPU, in single precision or better."""
    x = x.detach().cpu()
    return x if x.dtype == torch.float64 else x.float()


def ask(
    subject: Subject,
    texts: Sequence[str],
    answers: Sequence[str],
    foils: Sequence[str],
    clusters: Sequence[str] | None = None,
    keep: str | Path | None = None,
) -> Asked:
    """Check texts, answers and foils, before anything runs.

    Raises:
        BadPrompt, BadAnswer, BadChoice: None were given, they do not match in number, or an answer is its foil.
    """
    if isinstance(texts, str) or isinstance(answers, str) or isinstance(foils, str):
        raise BadPrompt("Texts, answers and foils are lists, one entry for each text: put them into [ ].")
    if not texts:
        raise BadPrompt("There are no texts to patch: give at least one.")
    if clusters is not None and len(clusters) != len(texts):
        raise BadChoice("clusters", f"{len(clusters)} names", f"give one name for each of the {len(texts)} texts")
    ids = torch.stack([subject.answer_ids(texts, answers), subject.answer_ids(texts, foils)], 1)
    same = (ids[:, 0] == ids[:, 1]).nonzero().flatten().tolist()
    if same:
        first = same[0]
        raise BadAnswer(
            f"Answer '{answers[first]}' and foil '{foils[first]}' of text {first} begin with the same token "
            f"({len(same)} of {len(texts)} texts), so their logits can't differ. Choose foils that begin otherwise."
        )
    lengths = torch.tensor([len(row) for row in subject.tokens(texts)])
    names = tuple(str(number) for number in range(len(texts))) if clusters is None else tuple(map(str, clusters))
    return Asked(subject, tuple(texts), ids, lengths, names, keep_in(keep, subject))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Runs that are patched, and the runs that the values come from.

    Attributes:
        into: The texts whose runs are edited: clean when noising, corrupt when denoising.
        source: The other texts, over the same answers and foils.
        base, other: Their logit differences without any edit.
    """

    direction: str
    into: Asked
    source: Asked
    base: Float[Tensor, "pair"]
    other: Float[Tensor, "pair"]

    @property
    def clean(self) -> Float[Tensor, "pair"]:
        return self.base if self.direction == "noising" else self.other

    @property
    def corrupt(self) -> Float[Tensor, "pair"]:
        return self.other if self.direction == "noising" else self.base


def pair_up(
    subject: Subject,
    clean: Sequence[str],
    corrupt: Sequence[str],
    answers: Sequence[str],
    foils: Sequence[str],
    direction: str,
    clusters: Sequence[str] | None,
    keep: str | Path | None = None,
) -> Pairs:
    """Check pairs of texts and measure both ends.

    Raises:
        UnequalPairs, NoGap, BadPrompt, BadAnswer, BadChoice.
    """
    into, source = couple(subject, clean, corrupt, answers, foils, direction, clusters, keep)
    return measured(direction, into, source, into.base(), source.base())


def couple(
    subject: Subject,
    clean: Sequence[str],
    corrupt: Sequence[str],
    answers: Sequence[str],
    foils: Sequence[str],
    direction: str,
    clusters: Sequence[str] | None,
    keep: str | Path | None = None,
) -> tuple[Asked, Asked]:
    """Check pairs of texts, and run nothing.

    Returns:
        The texts whose runs are edited, and those that the values come from.

    Raises:
        UnequalPairs, BadPrompt, BadAnswer, BadChoice.
    """
    if direction not in ("noising", "denoising"):
        raise BadChoice("direction", direction, "use 'noising' (corrupt into clean) or 'denoising' (the reverse)")
    asked = ask(subject, clean, answers, foils, clusters, keep)
    if isinstance(corrupt, str) or len(corrupt) != len(clean):
        raise BadPrompt(f"There are {len(clean)} clean texts and {len(corrupt)} corrupt ones: give one for each.")
    lengths = torch.tensor([len(row) for row in subject.tokens(corrupt)])
    wrong = (lengths != asked.lengths).nonzero().flatten().tolist()
    if wrong:
        first = wrong[0]
        raise UnequalPairs(first, int(asked.lengths[first]), int(lengths[first]), len(wrong), len(clean))
    other = replace(asked, texts=tuple(corrupt))
    return (asked, other) if direction == "noising" else (other, asked)


def measured(
    direction: str, into: Asked, source: Asked, base: Float[Tensor, "pair"], other: Float[Tensor, "pair"]
) -> Pairs:
    """Pairs whose two ends have been run.

    Raises:
        NoGap: They answer alike.
    """
    pairs = Pairs(direction, into, source, base, other)
    if abs(float((base - other).mean())) < SAME:
        raise NoGap(float(pairs.clean.mean()), float(pairs.corrupt.mean()))
    return pairs


def share(
    gaps: Float[Tensor, "*cell pair"], base: Float[Tensor, "pair"], other: Float[Tensor, "pair"]
) -> Float[Tensor, "*cell"]:
    """Mean change of the logit difference as a share of that between the two runs: 0 = patched into, 1 = other.

    The quotient of means, so that a pair whose two runs hardly differ does not blow up.
    """
    return (gaps - base).mean(-1) / (other - base).mean()


def share_estimate(
    gaps: Float[Tensor, "pair"], base: Float[Tensor, "pair"], other: Float[Tensor, "pair"], clusters: Sequence[str]
) -> Estimate:
    """The same of one cell, with bounds from resampling clusters of pairs."""
    return Resampler(tuple(clusters)).ratio((gaps - base).double().numpy(), (other - base).double().numpy())


def _pieces(variants: Iterable[Variant], most: int) -> Iterator[list[Variant]]:
    """Variants in lists whose values fit into memory together."""
    piece: list[Variant] = []
    held, known = 0, set()  # a tensor that edits share is counted once
    for variant in variants:
        piece.append(variant)
        for value in chain.from_iterable(vars(edit.how).values() for edit in variant.edits):
            if isinstance(value, Tensor) and id(value) not in known:
                known.add(id(value))
                held += value.numel()
        if held >= _VALUES_AT_ONCE or len(piece) >= most:
            yield piece
            piece, held, known = [], 0, set()
    if piece:
        yield piece
