"""What a mend changes on logs that it was not made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from veriscope.cases.logs import Log
from veriscope.cases.mends import Asking, Kind, Mend, Words, total, words_before
from veriscope.cases.neutral import nothing
from veriscope.errors import BadPrompt, NotRun, UserError
from veriscope.subjects.endings import continuations
from veriscope.trials.evidence import Estimate
from veriscope.trials.statistics import Resampler, clopper_pearson

ANSWER = 4  # tokens of a held-out answer
FEWEST_TOKENS = 8  # of a text drawn from the model
LONGEST_DRAWN = 64
LARGE_SHARE = 0.1  # of held-out answers: what may change before a mend counts as harmful
LARGE_NATS = 0.05  # a token of neutral text: likewise
BROKEN_NATS = 0.5  # a token: beyond that the model speaks no longer as it did


@dataclass(frozen=True)
class Share:
    """Some of several, with one-sided 95% bounds (Clopper and Pearson)."""

    hits: int
    n: int
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        for name, bound in zip(("low", "high"), clopper_pearson(self.hits, self.n), strict=True):
            object.__setattr__(self, name, bound)

    @property
    def value(self) -> float:
        return self.hits / self.n


@dataclass(frozen=True, eq=False)
class Held:
    """Logs that a mend must leave alone.

    Attributes:
        words: What the model reads in each.
        answers: What the untouched model answers, as tokens.
        source: Where they come from, in words.
    """

    words: tuple[Words, ...]
    answers: tuple[tuple[int, ...], ...]
    source: str


@dataclass(frozen=True)
class SideEffects:
    """What else a mend changed, measured on held-out logs that it was not made with.

    Attributes:
        changed: Held-out logs whose greedy answer (4 tokens) is no longer the same word for word.
        kl: Mean Kullback-Leibler divergence of the next token, before to after, a token of those answers (nats).
        neutral: Change of the cross-entropy of the held-out texts themselves, a token (nats); above 0 is worse.
        touched: Held-out logs that the model reads differently at all: all of them unless a prompt rule is tried.
        source: Where the held-out logs come from.
    """

    changed: Share
    kl: Estimate
    neutral: Estimate
    touched: int
    source: str

    def small(self, how: Kind) -> bool:
        """Whether they are shown to be small: upper bounds below 10% of answers and 0.05 nats a token.

        Of a change of decoding only the answers count: how likely a text is depends on the temperature itself.
        """
        return self.changed.high < LARGE_SHARE and (how == "decoding" or self.neutral.high < LARGE_NATS)

    def large(self, how: Kind) -> bool:
        """Whether they are shown to be larger than that."""
        return self.changed.low > LARGE_SHARE or (how != "decoding" and self.neutral.low > LARGE_NATS)

    @property
    def broken(self) -> bool:
        """Whether the model no longer speaks as it did."""
        return self.neutral.value > BROKEN_NATS


def held_out(asking: Asking, logs: Sequence[Log] | None, dev: int, test: int) -> tuple[Held, Held] | NotRun:
    """Held-out logs in two parts: one for choosing doses, one for measuring.

    Args:
        logs: Other logs of the same use; None draws texts from the model itself, cut somewhere.
        dev, test: Most of each part. Of fewer logs a third is for choosing.
    """
    source = "given"
    if logs is not None:
        words = _given(asking, logs)
    else:
        words, source = _drawn(asking, dev + test), "texts that the model itself says with nothing before them"
    words = [one for one in dict.fromkeys(words) if one.text != asking.words.text][: dev + test]
    if len(words) < 3:
        return NotRun(f"only {len(words)} held-out logs could be read: give more of them")
    order = np.random.default_rng([asking.seed, 0x4E]).permutation(len(words)).tolist()
    cut = min(dev, len(words) // 3)
    first, rest = [words[n] for n in order[:cut]], [words[n] for n in order[cut:]]
    return Held(tuple(first), _answers(asking, first), source), Held(tuple(rest), _answers(asking, rest), source)


def _given(asking: Asking, logs: Sequence[Log]) -> list[Words]:
    out = []
    for log in logs:
        try:
            words = words_before(log, asking.subject)
            if _room(asking, asking.plain.read(words)):
                out.append(words)
        except UserError:  # a log that this model can't be shown is no measure of it
            continue
    return out


def _room(asking: Asking, ids: Sequence[int]) -> bool:
    return asking.subject.context is None or len(ids) + ANSWER - 1 <= asking.subject.context


def _drawn(asking: Asking, count: int) -> list[Words]:
    """Texts that the model draws with nothing before them, each cut at a token of its later two thirds."""
    subject, start = asking.subject, nothing(asking.subject)
    room = LONGEST_DRAWN if subject.context is None else min(LONGEST_DRAWN, subject.context - len(start) - ANSWER)
    drawn, cost = continuations(subject, [start], tokens=room, draws=2 * count, seed=asking.seed)
    asking.passes += cost / asking.length
    rng, out = np.random.default_rng([asking.seed, 0x4F]), []
    for ids in drawn[0][1:]:
        if len(ids) < FEWEST_TOKENS:
            continue
        text = subject.reader.decode(ids[: int(rng.integers(len(ids) // 3, len(ids)))])
        words = Words(text, asking.words.special)
        try:
            if len(asking.plain.read(words)) >= FEWEST_TOKENS // 2:
                out.append(words)
        except BadPrompt:
            continue
    return out


def _answers(asking: Asking, words: Sequence[Words]) -> tuple[tuple[int, ...], ...]:
    """What is answered; one token, whichever it is, where the text would end at once."""
    texts = [asking.plain.read(one) for one in words]
    said = asking.greedy_all(texts, ANSWER)
    ends = [n for n, answer in enumerate(said) if not answer]
    first = asking.run(asking.plain, [(texts[n], [0]) for n in ends]) if ends else []
    for n, share in zip(ends, first, strict=True):
        said[n] = [int(share[0].argmax())]
    return tuple(tuple(answer) for answer in said)


def divergence(asking: Asking, mend: Mend, held: Held) -> float:
    """Mean divergence on held-out answers (nats a token): what doses are chosen by."""
    each = _compared(asking, mend, held)
    return sum(kl for kl, _, _ in each) / max(1, sum(tokens for _, tokens, _ in each))


def side_effects(asking: Asking, mend: Mend, held: Held | NotRun, seed: int = 0) -> SideEffects | NotRun:
    """What a mend changes on held-out logs."""
    if isinstance(held, NotRun):
        return held
    each = _compared(asking, mend, held)
    costs = _costs(asking, mend, held)
    draws = Resampler(tuple(str(n) for n in range(len(held.words))), seed)
    return SideEffects(
        changed=Share(sum(not same for _, _, same in each), len(each)),
        kl=draws.ratio(_floats([kl for kl, _, _ in each]), _floats([tokens for _, tokens, _ in each])),
        neutral=draws.ratio(_floats([more for more, _ in costs]), _floats([tokens for _, tokens in costs])),
        touched=len(held.words) if mend.rule is None and mend.reads is None else sum(
            _read(asking, mend, words) != asking.plain.read(words) for words in held.words
        ),
        source=held.source,
    )  # fmt: skip


def _floats(values: Sequence[float] | Sequence[int]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def _read(asking: Asking, mend: Mend, words: Words) -> list[int]:
    """Tokens under a mend; the text as it is where the mended one can't be read or does not fit."""
    try:
        ids = mend.read(words)
    except BadPrompt:
        return asking.plain.read(words)
    return ids if _room(asking, ids) else asking.plain.read(words)


def _compared(asking: Asking, mend: Mend, held: Held) -> list[tuple[float, int, bool]]:
    """For each held-out log: divergence summed over its answer's tokens, their number, whether the answer stays."""
    texts = [(asking.plain.read(words), answer) for words, answer in zip(held.words, held.answers, strict=True)]
    mended = [(_read(asking, mend, words), answer) for words, answer in zip(held.words, held.answers, strict=True)]
    was, now = asking.run(asking.plain, texts), asking.run(mend, mended)
    out = []
    for before, after, answer in zip(was, now, held.answers, strict=True):
        apart = before.exp() * (before - after).clamp(-1e4, 1e4)
        kl = float(torch.where(before.exp() > 0, apart, torch.zeros_like(apart)).sum())
        out.append((max(0.0, kl), len(answer), after.argmax(-1).tolist() == before.argmax(-1).tolist()))
    return out


def _costs(asking: Asking, mend: Mend, held: Held) -> list[tuple[float, int]]:
    """For each held-out text: how much less likely its own tokens became (nats), and how many tokens that were.

    Tokens are those at the end that both readings of the text share, the first of the text left out.
    """
    todo = []
    for words in held.words:
        was, now = asking.plain.read(words), _read(asking, mend, words)
        shared = 0
        while shared < min(len(was), len(now)) - 1 and was[-1 - shared] == now[-1 - shared]:
            shared += 1
        todo.append((was, now, shared))
    some = [(was, now, n) for was, now, n in todo if n]
    before = asking.run(asking.plain, [(was[:-n], was[-n:]) for was, _, n in some]) if some else []
    after = asking.run(mend, [(now[:-n], now[-n:]) for _, now, n in some]) if some else []
    more = iter([
        total(b, was[-n:]) - total(a, was[-n:]) for b, a, (was, _, n) in zip(before, after, some, strict=True)
    ])  # fmt: skip
    return [(next(more), n) if n else (0.0, 0) for _, _, n in todo]
