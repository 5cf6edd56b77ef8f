"""Causes that lie in what the model knows: a wrong fact, or a right one that is not said."""

from __future__ import annotations

from collections import Counter

from veriscope.cases.causes.evidence import Evidence
from veriscope.cases.causes.findings import Finding
from veriscope.cases.transcript import Chars
from veriscope.errors import NotRun
from veriscope.trials.statistics import clopper_pearson

OTHERS = 8  # words of like embedding put in the place of one
PLAIN = 3
_UNTOLD = NotRun("nobody said what the answer should be, and a fact can't be judged from the model alone")


def wrong_fact(evidence: Evidence) -> Finding:
    """The model holds something wrong: asked alone and in other words it stays with it, and nothing inside differs."""
    if not evidence.told:
        return Finding("wrong_fact", _UNTOLD)
    stays, n = _alone(evidence)
    if n == 0 or stays < n:
        return Finding("wrong_fact", False, stays / max(n, 1), evidence=(
            f"Asked without the rest of the log the model says the same in only {stays} of {n} cases.",))  # fmt: skip
    inside = _inside(evidence)
    return _belief(evidence) or _verdict(evidence) or Finding("wrong_fact", False, evidence=(
        "What the model says elsewhere about this does not add up to a belief.", *inside))  # fmt: skip


def _inside(evidence: Evidence) -> tuple[str, ...]:
    return ()


def _alone(evidence: Evidence) -> tuple[int, int]:
    """How often the question alone, or behind neutral statements, is answered alike."""
    texts = [evidence.question, *(f"{text} {evidence.question}" for text in evidence.plain(PLAIN, 4, 5))]
    said = [one for one in evidence.ask(texts) if one is not None]
    return sum(one.same for one in said), len(said)


def _places(evidence: Evidence) -> list[Chars]:
    """Words of the question that carry what it is about: those that the model did not foresee."""
    found = evidence.words((evidence.core, len(evidence.context)))
    return [span for span in found if evidence.surprise(span) > 0.7 and evidence.token_of(evidence.context[slice(*span)])]


def _answers(evidence: Evidence, span: Chars) -> list[tuple[str, str]]:
    """What is said with other words in one place of the question, beside those words."""
    others = evidence.neighbours(evidence.context[slice(*span)], OTHERS)
    start, end = span[0] - evidence.core, span[1] - evidence.core
    texts = [evidence.question[:start] + other + evidence.question[end:] for other in others]
    return [(other, one.word) for other, one in zip(others, evidence.ask(texts), strict=True) if one is not None]


def _belief(evidence: Evidence) -> Finding | None:
    """Asked for directly: it says this of this subject, and other things of others."""
    for span in _places(evidence):
        said = _answers(evidence, span)
        same = sum(word == evidence.strange for _, word in said)
        kinds = len({word for _, word in said})
        if kinds >= 3 and same <= len(said) / 2:
            subject = evidence.context[slice(*span)]
            low, high = clopper_pearson(len(said) - same, len(said))
            return Finding("wrong_fact", True, 1 - same / len(said), 0.5, low, high, (subject,), (
                f"Asked without the rest of the log the model says '{evidence.strange}' all the same.",
                f"It says so of '{subject}', and of others like it other things ({kinds} different answers).",))  # fmt: skip
    return None


def _verdict(evidence: Evidence) -> Finding | None:
    """Asked for a verdict: of all values that could stand there the model holds exactly one for true."""
    for span in _places(evidence):
        said = [(evidence.context[slice(*span)], evidence.strange), *_answers(evidence, span)]
        counts = Counter(word for _, word in said)
        if len(counts) != 2 or min(counts.values()) != 1:
            continue
        odd = min(counts, key=counts.__getitem__)
        value = next(other for other, word in said if word == odd)
        if {odd, *counts} - {evidence.strange, *evidence.expected}:
            continue
        return Finding("wrong_fact", True, 1.0, 0.0, 1.0, 1.0, (value,), (
            f"Of {len(said)} values in the place of '{said[0][0]}' exactly one, '{value}', gets the verdict '{odd}'.",
            "The model holds one value for true, consistently, and it is not the one that the user holds for true.",
        ))  # fmt: skip
    return None


def known_but_unsaid(evidence: Evidence) -> Finding:
    """The right answer is looked up inside and can be read there; what is said is another one.

    Source: the logit lens (nostalgebraist 2020) behind each block; Inference-Time Intervention (Li et al. 2023) for the
    gap between what is known inside and what is said.
    """
    if not evidence.told:
        return Finding("known_but_unsaid", _UNTOLD)
    stays, n = _alone(evidence)
    right, strange = evidence.first_token(evidence.expected[0]), evidence.transcript.ending[0]
    if n == 0 or stays < n or right is None:
        return Finding("known_but_unsaid", False, stays / max(n, 1), evidence=(
            "What is said hangs on the rest of the log: it is not a fact that is asked for.",))  # fmt: skip
    among = sorted({right, strange, *(t for w in evidence.neighbours(evidence.strange, 5) if (t := evidence.token_of(w)))})
    read = evidence.lens([evidence.context])
    if isinstance(read, NotRun):
        return Finding("known_but_unsaid", read)
    gap = read[0, :-1, right] - read[0, :-1, strange]
    block = int(gap.argmax())
    top = among[int(read[0, block, among].argmax())]
    usual, m = _readable(evidence, block, among)
    holds = top == right and float(gap[block]) > 0 and m > 0 and usual / m >= 0.5
    score = float(gap[block])
    return Finding("known_but_unsaid", holds, score, 0.0, score, score, (f"block {block}",), (
        f"Behind block {block} '{evidence.expected[0]}' is read {score:+.1f} nats above what is said.",
        f"Of {m} like questions about others, what is read there is what is said in {usual}.",))  # fmt: skip


def _readable(evidence: Evidence, block: int, among: list[int]) -> tuple[int, int]:
    """For how many like questions what is read behind a block is what is said in the end."""
    agree = known = 0
    for span in _places(evidence):
        others = evidence.neighbours(evidence.context[slice(*span)], OTHERS)
        start, end = span[0] - evidence.core, span[1] - evidence.core
        texts = [evidence.question[:start] + other + evidence.question[end:] for other in others]
        read = evidence.lens(texts)
        if isinstance(read, NotRun) or len({int(row[-1, among].argmax()) for row in read}) < 3:
            continue
        agree += sum(int(row[block, among].argmax()) == int(row[-1, among].argmax()) for row in read)
        known += len(read)
    return agree, known
