"""Causes that lie in what the model knows: a wrong fact, or a right one that is not said."""

from __future__ import annotations

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
LIKE = 12  # nearest embeddings that are of the same kind
VALUES = 5  # in the place of the one stated
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
        kinds = len({word for _, word in said})
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
    for span in spans[: -SLOTS - 1 : -1]:
        own = evidence.context[slice(*span)]
        others = evidence.neighbours(own, VALUES)
        said = {value: _with(evidence, span, value) for value in (own, *others)}
        if set(said.values()) - labels or len(set(said.values())) < 2:
            continue
        held, sure = _completion(evidence, span)
        if sure >= SURE and held in (own, *evidence.neighbours(own, LIKE)):
            said.setdefault(held, _with(evidence, span, held))
            rest = [verdict for value, verdict in said.items() if value != held]
            apart = sum(verdict != said[held] for verdict in rest)
            fits = held == own or said[held] != evidence.strange
            least = 0.6
            how = f"The model itself would write '{held}' there (probability {sure:.2f})"
        elif sure < SURE and evidence.surprise(span) > OPEN:
            rest, held, fits = [said[value] for value in others], own, True
            apart = sum(verdict != evidence.strange for verdict in rest)
            least = 0.8  # no second witness: it must be told apart from nearly all others
            how = f"The model singles out '{held}'"
        else:
            continue
        if fits and apart >= least * len(rest):
            low, high = clopper_pearson(apart, len(rest))
            return Finding("wrong_fact", True, apart / len(rest), 0.5, low, high, (held,), (
                f"{how}, and gives it the verdict '{said[held]}', and {apart} of {len(rest)} other values another one.",
                "What it says is what it holds for true, and the user holds something else for true.",))  # fmt: skip
    return None


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
    usual, m = _readable(evidence, block, among)
    holds = top == right and float(gap[block]) > LEAST_GAP and m > 0 and usual / m >= 0.3
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
