"""Causes that lie in the context as a whole: copied from it, lost in it, or unlike any text that was learned."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest

from veriscope.cases.causes.evidence import LEAST_MATCH, Evidence
from veriscope.cases.causes.findings import Finding
from veriscope.cases.neutral import nothing
from veriscope.errors import NotRun
from veriscope.subjects.endings import continuations
from veriscope.trials.statistics import clopper_pearson

OTHERS = 4
FEW = 4  # of the crowd, that are left where it is thinned
MENDED = 0.6  # of the thinned contexts
CROWD = 8  # sentences in which another one can be lost
TEXTS = 48  # that the model draws, to learn what it takes for usual
LONGEST = 60  # tokens of each
USUAL = 0.95
SLIP, LEAST_TOKENS = 0.01, 6  # in fewer tokens one name is half of all
UNFORESEEN, MOSTLY = 4.0, 0.5  # nats of a token, and share of such tokens in a prompt that is odd all over


def copied_from_context(evidence: Evidence) -> Finding:
    """The same words stood behind the same words before, and what stood there is said again.

    Source: In-context Learning and Induction Heads (Olsson et al. 2022): match what stands before, copy what follows.
    """
    best, place = evidence.earlier
    if best < LEAST_MATCH:
        return Finding("copied_from_context", False, evidence=(
            "The strange words do not stand earlier behind the words that they stand behind here.",))  # fmt: skip
    span = evidence.transcript.chars[place]
    first = evidence.transcript.chars[place - best][0]
    unit = next((u for u in evidence.parts if u.spans[0][0] <= span[0] < u.spans[0][1]), None)
    cuts = [[span], [(first, span[1])], *([[*unit.spans]] if unit else [])]
    gone = [one.mended for one in evidence.ask([evidence.without(some) for some in cuts]) if one is not None]
    others = [word for word in evidence.answers if word != evidence.strange]
    follows = [bool(evidence.would_say(evidence.put(span, other), other)) for other in others]
    idle = evidence.ask([evidence.inserted(evidence.core, text) for text in evidence.plain(OTHERS, 4, 9)])
    mere = [not one.same for one in idle if one is not None]
    share, floor = _share(follows), _share(mere)
    low, high = clopper_pearson(sum(follows), len(follows)) if follows else (0.0, 1.0)
    holds = any(gone) and share >= 0.5 and floor < share
    return Finding("copied_from_context", holds, share, floor, low, high,
        (unit.name if unit else "", evidence.strange), (
        f"'{evidence.strange}' stands earlier behind the same {best} tokens as here.",
        f"Another word in the earlier place is said in {sum(follows)} of {len(follows)} cases; "
        f"neutral sentences before the question alter the answer in {sum(mere)} of {len(mere)}.",
        "Without the earlier words the strange ones are gone." if any(gone) else
        "Without the earlier words the strange ones stay.",
    ))  # fmt: skip


def lost_context(evidence: Evidence) -> Finding:
    """The sentence that answers stands there, but is lost in a crowd: alone, or said again at the end, it is used.

    Source: Lost in the Middle (Liu et al. 2023).
    """
    if len(evidence.beside) < CROWD:
        return Finding("lost_context", False, evidence=(
            f"Only {len(evidence.beside)} sentences stand before the question: no crowd to be lost in.",))  # fmt: skip
    units = evidence.beside
    needed = [unit for unit in units if evidence.shares(unit.spans[0], evidence.question)]
    if not needed or len(needed) > len(units) / 2:
        return Finding("lost_context", False, evidence=("No single sentence of the context speaks of the question.",))
    rest = [unit for unit in units if unit not in needed]
    said = " ".join(unit.text for unit in needed)
    alone = evidence.ask([f"{said} {evidence.question}"])[0]
    again = evidence.ask([evidence.inserted(evidence.core, said)])[0]
    place = np.linspace(0, len(rest) - 1, OTHERS).round().astype(int)
    idle = evidence.ask([evidence.inserted(evidence.core, rest[n].text) for n in place])
    mends = [one is not None and one.mended and _stands(one.word, said) for one in (alone, again)]
    rng = np.random.default_rng([evidence.seed, 0x1C])
    kept = [{*rng.choice(len(rest), FEW, replace=False).tolist()} for _ in range(2 * OTHERS)]
    thin = evidence.ask([evidence.without([u.spans[0] for n, u in enumerate(rest) if n not in some]) for some in kept])
    few, m = sum(one.mended for one in thin if one is not None), len([one for one in thin if one is not None])
    moved, mere = (
        np.array([evidence.base.nats - one.nats for one in some if one is not None]) for some in (thin, idle)
    )
    if not len(moved) or not len(mere):
        return Finding("lost_context", NotRun("the context is too long for a sentence to be said again"))
    score, floor = float(np.median(moved)), float(mere.max())
    holds = all(mends) and few >= MENDED * m and score > floor
    return Finding("lost_context", holds, score, floor, float(moved.min()), float(moved.max()),
        tuple(unit.name for unit in needed), (
        f"'{said}' answers the question. Alone before it the answer is '{alone.word if alone else ''}', "
        f"said again at the end '{again.word if again else ''}'.",
        f"With {FEW} of the other sentences left it is answered rightly in {few} of {m} cases, and the strange words "
        f"lose {score:.1f} nats (median); another sentence said again at the end takes {floor:.1f} nats at most.",
        f"{len(units)} sentences stand before the question.",
    ))  # fmt: skip


def distribution_shift(evidence: Evidence) -> Finding:
    """The prompt is unlike what the model learned: it costs more nats a token than the model's own texts do.

    Most of the prompt must be odd, or most of the question where the question alone is answered alike: else it is one
    odd sentence, which is another cause.
    """
    whole = _cost(evidence, evidence.token_nats)
    if isinstance(whole, NotRun):
        return Finding("distribution_shift", whole)
    finding = _unlike(whole, "prompt")
    alone = evidence.ask([evidence.question])[0]
    if finding.holds or not whole.above or not evidence.core or alone is None or not alone.same:
        return finding
    question = _cost(evidence, evidence.nats_of(evidence.question))
    return finding if isinstance(question, NotRun) else _unlike(question, "question, which is answered alike alone,")


@dataclass(frozen=True)
class _Cost:
    """What a text costs beside the model's own.

    Attributes:
        mine, usual: Nats a token of the text, and what 95% of the model's own stay below.
        odd, tokens: How many of its tokens are hardly foreseen, of how many.
        chance: Share of such tokens in the model's own texts.
        texts: How many of those.
    """

    mine: float
    usual: float
    odd: int
    tokens: int
    chance: float
    texts: int

    @property
    def above(self) -> bool:
        """Whether it costs more, and holds more odd tokens than the model's own texts do (exact binomial test)."""
        return self.mine > self.usual and bool(binomtest(self.odd, self.tokens, self.chance, "greater").pvalue <= SLIP)

    @property
    def mostly(self) -> bool:
        return self.odd >= MOSTLY * self.tokens


def _unlike(cost: _Cost, what: str) -> Finding:
    return Finding(
        "distribution_shift", cost.above and cost.mostly, cost.mine, cost.usual, cost.mine, cost.mine, evidence=(
        f"{cost.odd} of {cost.tokens} tokens have a probability below {np.exp(-UNFORESEEN):.0%} (limit {MOSTLY:.0%}): "
        + ("it is odd all over." if cost.mostly else "no more than an odd sentence would."),
        f"The {what} costs {cost.mine:.2f} nats a token; {USUAL:.0%} of {cost.texts} beginnings of texts that it draws "
        f"itself cost less than {cost.usual:.2f}, and {cost.chance:.0%} of their tokens are as odd.",))  # fmt: skip


def _cost(evidence: Evidence, token_nats: Float[np.ndarray, "token"]) -> _Cost | NotRun:
    """Of a text, the first token left out: nothing tells it."""
    nats = -token_nats[1:]
    if len(nats) < LEAST_TOKENS:
        return NotRun("the prompt is too short to say how usual it is")
    texts = _drawn(evidence, len(nats))
    if not texts:
        return NotRun("the model draws no text to compare with")
    words = [token for _, ids in texts for token in ids]
    if max(Counter(words).values()) > len(words) / 2:
        return NotRun("the model's own texts say one word over and over: any prompt is odd beside them")
    own = [-found.nats.double().cpu().numpy() for found in evidence.changes.endings.run(texts)]
    return _Cost(
        float(nats.mean()), float(np.quantile([one.mean() for one in own], USUAL)), int((nats > UNFORESEEN).sum()),
        len(nats), float((np.concatenate(own) > UNFORESEEN).mean()), len(texts),
    )  # fmt: skip


def _drawn(evidence: Evidence, size: int) -> list[tuple[list[int], list[int]]]:
    """Texts that the model draws with nothing before them, as long as a prompt (60 at most): first token, and rest."""
    start = nothing(evidence.subject)
    drawn, _ = continuations(evidence.subject, [start], tokens=min(size + 1, LONGEST), draws=TEXTS, seed=evidence.seed)
    return [([*start, *ids[:1]], ids[1:]) for ids in drawn[0][1:] if len(ids) > 3]


def _stands(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def _share(found: list[bool]) -> float:
    return sum(found) / len(found) if found else 0.0
