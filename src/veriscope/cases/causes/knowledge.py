"""Causes that lie in what the model knows: a wrong fact, or a right one that is not said."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from scipy.stats import binomtest

from veriscope.cases.causes.evidence import OPEN, Evidence
from veriscope.cases.causes.findings import Finding
from veriscope.cases.transcript import Chars
from veriscope.errors import NotRun
from veriscope.trials.statistics import clopper_pearson

OTHERS = 8  # words of like embedding put in the place of one
PLAIN = 3
SURE = 0.4  # probability of what the model would write itself
LEAST_GAP = 1.0  # nats that the right word is read above the one said
PLACES, SLOTS = 4, 12  # words of the question that are exchanged: the least foreseen ones, and the last ones
SUBJECTS = 24  # asked about in the place of one
SLIP = 0.05
LIKE = 12  # nearest embeddings that are of the same kind
VALUES = 5  # in the place of the one stated
UNREAD = NotRun("the right answer is read inside, but too few like questions show that what is read there is known")
_UNTOLD = NotRun("nobody said what the answer should be, and a fact can't be judged from the model alone")


def wrong_fact(evidence: Evidence) -> Finding:
    """The model holds something wrong: asked alone and in other words it stays with it, and nothing inside differs."""
    if not evidence.told:
        return Finding("wrong_fact", _UNTOLD)
    stays, n = _alone(evidence)
    if n == 0 or stays < n:
        return Finding("wrong_fact", False, stays / max(n, 1), evidence=(
            f"Asked without the rest of the log the model says the same in only {stays} of {n} cases.",))  # fmt: skip
    return _belief(evidence) or _verdict(evidence) or Finding("wrong_fact", False, evidence=(
        "What the model says elsewhere about this does not add up to a belief.",))  # fmt: skip


def _alone(evidence: Evidence) -> tuple[int, int]:
    """How often the question alone, or behind neutral statements, is answered alike."""
    texts = [evidence.question, *(f"{text} {evidence.question}" for text in evidence.plain(PLAIN, 4, 5))]
    said = [one for one in evidence.ask(texts) if one is not None]
    return sum(one.same for one in said), len(said)


def _places(evidence: Evidence) -> list[Chars]:
    """Words of the question that carry what it is about: those that the model foresaw least, in their order."""
    found = evidence.words((evidence.core, len(evidence.context)))
    known = [
        span for span in found if evidence.surprise(span) > OPEN and evidence.token_of(evidence.context[slice(*span)])
    ]
    return sorted(sorted(known, key=evidence.surprise)[-PLACES:])


def _answers(evidence: Evidence, span: Chars) -> list[tuple[str, str]]:
    """What is said with other words in one place of the question, beside those words."""
    others = evidence.neighbours(evidence.context[slice(*span)], OTHERS)
    start, end = span[0] - evidence.core, span[1] - evidence.core
    texts = [evidence.question[:start] + other + evidence.question[end:] for other in others]
    return [(other, one.word) for other, one in zip(others, evidence.ask(texts), strict=True) if one is not None]


def _belief(evidence: Evidence) -> Finding | None:
    """Asked for directly: it says this of this subject, and other things of others."""
    if evidence.stands(evidence.strange):
        return None  # what stands in the prompt need not be known
    for span in _places(evidence):
        said = _answers(evidence, span)
        same = sum(word == evidence.strange for _, word in said)
        kinds = len({evidence.strange, *(word for _, word in said)})
        like = {evidence.strange, *evidence.expected, *evidence.neighbours(evidence.strange, LIKE)}
        fits = sum(word in like for _, word in said)
        if kinds >= 3 and fits >= 0.7 * len(said) and same <= len(said) / 2:
            subject = evidence.context[slice(*span)]
            low, high = clopper_pearson(len(said) - same, len(said))
            return Finding("wrong_fact", True, 1 - same / len(said), 0.5, low, high, (subject,), (
                f"Asked without the rest of the log the model says '{evidence.strange}' all the same.",
                f"It says so of '{subject}', and of others other things ({kinds} different answers).",))  # fmt: skip
    return None


def _verdict(evidence: Evidence) -> Finding | None:
    """Asked for a verdict: it agrees with what the model itself would put there, or singles out the value stated."""
    spans = [span for span in evidence.words((evidence.core, len(evidence.context)))
             if evidence.token_of(evidence.context[slice(*span)]) and span[1] - span[0] > 2]  # fmt: skip
    labels = {evidence.strange, *evidence.expected}
    if len({evidence.stands(label, (evidence.core, len(evidence.context))) is None for label in labels}) > 1:
        return None  # a verdict's words are offered together or not at all: else one of them is copied
    for span in spans[: -SLOTS - 1 : -1]:
        own = evidence.context[slice(*span)]
        others = evidence.neighbours(own, VALUES)
        said = {value: _with(evidence, span, value) for value in (own, *others)}
        if set(said.values()) - labels or len(set(said.values())) < 2:
            continue
        held, sure = _completion(evidence, span)
        like = held in (own, *evidence.neighbours(own, LIKE))
        if like:
            said.setdefault(held, _with(evidence, span, held))
            # The less sure the model is of what it would write, the more clearly its verdicts must single that out.
            rest = [verdict for value, verdict in said.items() if value != held]
            apart, least = sum(verdict != said[held] for verdict in rest), 0.6 if sure >= SURE else 0.8
            if (held == own or said[held] != evidence.strange) and apart >= least * len(rest):
                how = f"The model itself would write '{held}' there (probability {sure:.2f})"
                return _held(held, said[held], apart, len(rest), how)
        if sure < SURE and evidence.surprise(span) > OPEN:
            apart = sum(said[value] != evidence.strange for value in others)
            if apart >= 0.8 * len(others):  # no second witness: it must be told apart from nearly all others
                return _held(own, evidence.strange, apart, len(others), f"The model singles out '{own}'")
    return None


def _held(held: str, verdict: str, apart: int, n: int, how: str) -> Finding:
    low, high = clopper_pearson(apart, n)
    return Finding("wrong_fact", True, apart / n, 0.5, low, high, (held,), (
        f"{how}, and gives it the verdict '{verdict}', and {apart} of {n} other values another one.",
        "What it says is what it holds for true, and the user holds something else for true.",))  # fmt: skip


def _with(evidence: Evidence, span: Chars, word: str) -> str:
    start, end = span[0] - evidence.core, span[1] - evidence.core
    return evidence.says(evidence.question[:start] + word + evidence.question[end:])


def _completion(evidence: Evidence, span: Chars) -> tuple[str, float]:
    """What the model itself would put in a place of the question, and its probability."""
    before = evidence.context[evidence.core : span[0]].rstrip()
    read = evidence.lens([before]) if before else NotRun("nothing stands before")
    if isinstance(read, NotRun):
        return "", 0.0
    chance, token = read[0, -1].exp().max(-1)
    return evidence.subject.reader.decode([int(token)]).strip(), float(chance)


def known_but_unsaid(evidence: Evidence) -> Finding:
    """The right answer is looked up inside and can be read there; what is said is another one.

    Source: the logit lens (nostalgebraist 2020) behind each block; Inference-Time Intervention (Li et al. 2023) for the
    gap between what is known inside and what is said.
    """
    if not evidence.told:
        return Finding("known_but_unsaid", _UNTOLD)
    bare = evidence.ask([evidence.question])[0]
    right, strange = evidence.first_token(evidence.expected[0]), evidence.transcript.ending[0]
    if bare is None or not bare.same or right is None:
        return Finding("known_but_unsaid", False, evidence=(
            "What is said hangs on the rest of the log: it is not a fact that is asked for.",))  # fmt: skip
    among = sorted(
        {right, strange, *(t for w in evidence.neighbours(evidence.strange, 5) if (t := evidence.token_of(w)))}
    )
    read = evidence.lens([evidence.context])
    if isinstance(read, NotRun):
        return Finding("known_but_unsaid", read)
    gap = read[0, :-1, right] - read[0, :-1, strange]
    middle = range(evidence.subject.n_blocks // 2, evidence.subject.n_blocks - 1)
    if not middle:
        return Finding("known_but_unsaid", NotRun("the model has too few blocks to have a middle"))
    block = max(middle, key=lambda n: float(gap[n]))
    top = among[int(read[0, block, among].argmax())]
    score = float(gap[block])
    inside = f"Behind block {block} '{evidence.expected[0]}' is read {score:+.1f} nats above what is said."
    finding = Finding("known_but_unsaid", False, score, 0.0, score, score, (f"block {block}",), (inside,))
    if top != right or score <= LEAST_GAP:
        return finding
    like = _readable(evidence, block, among)
    return replace(finding, holds=like.shown or UNREAD, evidence=(inside,
        f"Of {like.n} like questions about others, what is read there is what is said in {like.agree}; were the two "
        f"unrelated, in {like.chance:.0%} of them.",))  # fmt: skip


@dataclass(frozen=True)
class _Like:
    """Like questions about others: in how many what is read behind a block is what is said in the end.

    Attributes:
        chance: To what share it would be if what is read and what is said were unrelated.
    """

    agree: int
    n: int
    chance: float

    @property
    def shown(self) -> bool:
        """Whether it is more than chance, by an exact binomial test at 5%."""
        return self.n > 0 and bool(binomtest(self.agree, self.n, min(1.0, self.chance), "greater").pvalue <= SLIP)


def _readable(evidence: Evidence, block: int, among: list[int]) -> _Like:
    """Asks about others of the kind; those that get the strange answer too are left out: the fault may be theirs."""
    best, strange = _Like(0, 0, 1.0), evidence.transcript.ending[0]
    for span in _places(evidence):
        others = evidence.neighbours(evidence.context[slice(*span)], SUBJECTS)
        start, end = span[0] - evidence.core, span[1] - evidence.core
        read = evidence.lens([evidence.question[:start] + other + evidence.question[end:] for other in others])
        if isinstance(read, NotRun):
            continue
        pairs = [(among[int(row[block, among].argmax())], int(row[-1].argmax())) for row in read]
        pairs = [(inside, said) for inside, said in pairs if said in among and said != strange]
        if len({said for _, said in pairs}) < 2:
            continue
        inside, said = (Counter(column) for column in zip(*pairs, strict=True))
        chance = sum(inside[token] * said[token] for token in among) / len(pairs) ** 2
        found = _Like(sum(a == b for a, b in pairs), len(pairs), chance)
        best = max(best, found, key=lambda one: (one.shown, one.n))
    return best
