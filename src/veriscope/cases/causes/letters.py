"""Causes that lie in single tokens: read otherwise than a person reads them, or never trained."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import numpy as np
import torch

from veriscope.cases.causes.evidence import Evidence
from veriscope.cases.causes.findings import Finding
from veriscope.cases.transcript import Chars, read
from veriscope.errors import NotRun
from veriscope.trials.statistics import clopper_pearson

ODD = 4.5  # standard deviations of an embedding's length from the vocabulary's mean
TRIED = 5  # odd tokens that are looked at
OTHERS = 6  # words put in the place of one
ASKED_OTHERS = 16  # in the place of one that is asked about: most others may happen to have the same answer
LISTS, LENGTH = 4, 6  # repeat test: lists of words, and words in each
_GLUED = re.compile(r"(\w)([.?!,:;])(?=\s|$)")


def tokenization(evidence: Evidence) -> Finding:
    """A person reads the prompt otherwise than the tokenizer does; written as in training, it is answered rightly."""
    lost = _unknown(evidence, evidence.context)
    for how, text in _mendings(evidence.context):
        fewer = len(lost) - len(_unknown(evidence, text))
        said = evidence.ask([text])[0]
        if said is not None and said.mended and (fewer > 0 or how != _SPACED):
            return Finding("tokenization", True, 1.0, 0.0, 1.0, 1.0, evidence=(
                f"{how}, the same text is answered by '{said.word}'.",
                f"The tokenizer then finds {fewer} more of its words.",))  # fmt: skip
    if not lost:
        return Finding("tokenization", False, evidence=("The tokenizer knows every word of the prompt.",))
    return _lost_words(evidence, lost)


def _lost_words(evidence: Evidence, lost: list[Chars]) -> Finding:
    """Words for which the tokenizer has no token: others in their place alter the answer."""
    by_word: dict[str, list[Chars]] = {}
    for span in lost:
        by_word.setdefault(evidence.context[slice(*span)], []).append(span)
    return max((_lost_word(evidence, word, spans) for word, spans in by_word.items()),
               key=lambda one: (bool(one.holds), one.score))  # fmt: skip


def _lost_word(evidence: Evidence, word: str, spans: list[Chars]) -> Finding:
    """One such word. Another unknown one leaves every token as it is, so one change shows that the answer hangs on it.

    Of a word that is not asked about it must be half: any sentence may sway an answer now and then.
    """
    asked = any(span[0] >= evidence.core for span in spans)
    others = evidence.foreseen(spans[0], ASKED_OTHERS if asked else OTHERS)
    said = [one for other in others if (one := evidence.ask([_all(evidence, spans, other)])[0]) is not None]
    hits, n = sum(not one.same for one in said), len(said)
    low, high = clopper_pearson(hits, n) if n else (0.0, 1.0)
    holds = hits > 0 and (asked or hits / n >= 0.5)
    return Finding("tokenization", holds, hits / max(n, 1), 0.0, low, high, (word,), (
        f"The tokenizer has no token for '{word}': the model can't tell it from any other unknown word.",
        f"With a known word in its place the answer changes in {hits} of {n} cases.",))  # fmt: skip


_SPACED = "With a space before every stop"


def _mendings(context: str) -> Iterator[tuple[str, str]]:
    """The text as a person reads it."""
    shown = "".join(char for char in unicodedata.normalize("NFKC", context) if unicodedata.category(char) != "Cf")
    if shown != context:
        yield "Without hidden signs", shown
    spaced = _GLUED.sub(r"\1 \2", shown)
    if spaced != shown:
        yield _SPACED, spaced


def _unknown(evidence: Evidence, text: str) -> list[Chars]:
    """Words for which the tokenizer has no token."""
    unknown = getattr(evidence.subject.reader.tokenizer, "unk_token_id", None)
    if unknown is None:
        return []
    ids, chars = read(evidence.subject, text, evidence.transcript.special)
    return [span for token, span in zip(ids, chars, strict=True) if token == unknown and span[1] > span[0]]


def _all(evidence: Evidence, spans: list[Chars], word: str) -> str:
    return evidence.transcript.edited([(*span, word) for span in spans])


def glitch_token(evidence: Evidence) -> Finding:
    """A token of the prompt was hardly trained: odd embedding, the model can't repeat it, and another word mends it.

    Source: Fishing for Magikarp (Land and Bartolo 2024): embedding anomaly, confirmed by asking to repeat.
    """
    table = evidence.embedding
    if table is None:
        return Finding("glitch_token", NotRun("the model has no embedding that is known"))
    norms = table.norm(dim=1)
    odd = ((norms - norms.mean()) / norms.std()).abs()
    places: dict[int, list[Chars]] = {}
    for token, span in zip(evidence.transcript.before, evidence.transcript.chars, strict=False):
        if span[1] > span[0] and token not in evidence.subject.reader.special:
            places.setdefault(token, []).append(span)
    tokens = sorted((t for t in places if odd[t] > ODD), key=lambda t: -float(odd[t]))[:TRIED]
    most = max((float(odd[t]) for t in places), default=0.0)
    if not tokens:
        return Finding("glitch_token", False, most, ODD, most, most, evidence=(
            f"No token's embedding is odd: the oddest lies {most:.1f} standard deviations off (limit {ODD}).",
        ))  # fmt: skip
    return max((_glitch(evidence, token, places[token], float(odd[token]), odd) for token in tokens),
               key=lambda one: (bool(one.holds), one.score))  # fmt: skip


def _glitch(evidence: Evidence, token: int, spans: list[Chars], off: float, odd: torch.Tensor) -> Finding:
    word = evidence.context[slice(*spans[0])].strip()
    again, usual = _repeats(evidence, token, odd)
    others = [w for w in evidence.foreseen(spans[0], 2 * OTHERS) if float(odd[evidence.token_of(w) or 0]) < ODD][
        :OTHERS
    ]
    hits = n = 0
    for other in others:
        text = _all(evidence, spans, other)
        said = evidence.ask([text])[0]
        if said is not None:
            named = word in evidence.expected and evidence.would_say(text, other)
            hits, n = hits + bool(said.mended or named), n + 1
    holds = again < usual and n > 0 and hits / n >= 0.5
    return Finding("glitch_token", holds, off, ODD, off, off, (word,), (
        f"The embedding of '{word}' lies {off:.1f} standard deviations off the usual length (limit {ODD}).",
        f"In lists said twice it gets {again:.1f} nats the second time, ordinary tokens {usual:.1f} or more.",
        f"With another word in its place the answer is mended in {hits} of {n} cases.",
    ))  # fmt: skip


def _repeats(evidence: Evidence, token: int, odd: torch.Tensor) -> tuple[float, float]:
    """Log-probability of a token where a list is said again, and the 10% quantile of ordinary tokens there."""
    rng = np.random.default_rng([evidence.seed, 0x61])
    ordinary = _ordinary(evidence, odd, rng)
    mine: list[float] = []
    theirs: list[float] = []
    texts = []
    for _ in range(LISTS):
        words = rng.choice(ordinary, LENGTH, replace=False).tolist()
        place = int(rng.integers(1, LENGTH - 1))
        with_it = [*words[:place], token, *words[place + 1 :]]
        texts += [([*with_it, *with_it[:place]], [token]), ([*words, *words[:place]], [words[place]])]
    found = evidence.changes.endings.run([(ids, ending) for ids, ending in texts])
    for n, one in enumerate(found):
        (theirs if n % 2 else mine).append(one.total)
    return float(np.mean(mine)), float(np.quantile(theirs, 0.1))


def _ordinary(evidence: Evidence, odd: torch.Tensor, rng: np.random.Generator) -> list[int]:
    """Tokens of whole words with an ordinary embedding."""
    reader, out = evidence.subject.reader, []
    for token in rng.permutation(min(len(odd), evidence.subject.vocab_size or len(odd))).tolist():
        if float(odd[token]) < 1.5 and token not in reader.special and reader.decode([token]).strip().isalpha():
            out.append(token)
        if len(out) == 4 * LENGTH:
            break
    return out
