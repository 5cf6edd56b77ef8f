"""Causes that lie in how the reply was written: one draw among many, or a loop."""

from __future__ import annotations

from math import exp, log

import numpy as np

from veriscope.cases.causes.evidence import Evidence
from veriscope.cases.causes.findings import Finding
from veriscope.errors import NotRun

LEAST_GAP = log(5)  # nats below the most likely word, where nobody said what was expected
LONGEST_CYCLE = 12  # tokens
CYCLES, LEAST_LOOP = 3, 12  # repetitions, and tokens of a loop
FOREIGN = 1.645  # standard deviations: a reply that the model drew itself costs more in one case of 20
_PICKED = NotRun(
    "nobody called these words strange, and the least expected ones of a reply are always an unlikely draw"
)
_FOREIGN = NotRun("the rest of the reply costs more than what this model would draw, so it is hardly its own")


def sampling(evidence: Evidence) -> Finding:
    """The strange word was drawn although the model holds another one, the right one, for more likely."""
    base, ending = evidence.base, evidence.transcript.ending
    if not evidence.marked and not evidence.told and evidence.among_others:
        return Finding("sampling", _PICKED)
    found = evidence.changes.base
    place = found.changed(ending)
    if place is None:
        chance = exp(float(found.nats.sum()))
        return Finding("sampling", False, 0.0, evidence=(
            f"The strange words are the most likely ones: not a draw (probability {chance:.2f}).",))  # fmt: skip
    if _foreign(evidence):
        return Finding("sampling", _FOREIGN)
    best = [*ending[:place], int(found.best[place])]
    other = evidence.changes.endings.run([(evidence.transcript.before, best)])[0]
    gap = float(other.nats[-1] - found.nats[place])
    holds = base.right if base.right is not None else gap >= LEAST_GAP
    word = evidence.subject.reader.decode([best[-1]]).strip()
    said = "which is what was expected" if base.right else "which was not expected either"
    return Finding("sampling", holds, gap, 0.0, gap, gap, evidence=(
        f"In this place '{word}' is {exp(gap):.3g} times as likely as what was said"
        + (f", {said}." if base.right is not None else "."),
        f"One draw in {exp(-float(found.nats[place])):.3g} gives the strange word; at temperature 0 it never comes.",
    ))  # fmt: skip


def repetition_loop(evidence: Evidence) -> Finding:
    """The reply repeats itself, and each round makes the next one likelier.

    Source: Learning to Break the Loop (Xu et al. 2022): probability rises with each repetition.
    """
    transcript = evidence.transcript
    first = evidence.reply
    found = loop_of(transcript.ids[max(first, 1) :])
    if found is None:
        return Finding("repetition_loop", False, evidence=("The reply does not end in a loop.",))
    start, cycle = found[0] + max(first, 1), found[1]
    round_ = transcript.ids[start : start + cycle]
    if _within(round_, transcript.ids[:first]):
        return Finding("repetition_loop", False, evidence=("What repeats stands in the prompt: it may be a copy.",))
    if _foreign(evidence):
        return Finding("repetition_loop", _FOREIGN)
    ids = transcript.ids
    nats = evidence.changes.endings.run([(ids[:1], ids[1:])])[0].nats.double().cpu().numpy()
    rounds = [float(np.mean(nats[at - 1 : at - 1 + cycle])) for at in range(start, len(ids) - cycle + 1, cycle)]
    gain = rounds[-1] - rounds[0]
    words = evidence.subject.reader.decode(list(round_)).strip()
    return Finding("repetition_loop", gain > 0, gain, 0.0, gain, gain, evidence=(
        f"'{words}' comes {len(rounds)} times in a row and does not stand in the prompt.",
        f"Each word of the last round was {gain:+.2f} nats likelier than in the first one: the loop feeds itself.",
    ))  # fmt: skip


def _foreign(evidence: Evidence) -> bool:
    """Whether somebody else wrote the reply: then neither luck nor a habit of this model is the cause."""
    return evidence.foreign is not None and evidence.foreign > FOREIGN


def loop_of(ids: tuple[int, ...]) -> tuple[int, int] | None:
    """Where tokens that end in a loop begin to loop, and the length of its cycle; None without a loop."""
    for cycle in range(1, LONGEST_CYCLE + 1):
        start = len(ids) - cycle
        while start > 0 and ids[start - 1] == ids[start - 1 + cycle]:
            start -= 1
        if start >= 0 and len(ids) - start >= max(CYCLES * cycle, LEAST_LOOP):
            return start, cycle
    return None


def _within(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return any(whole[n : n + len(part)] == part for n in range(len(whole) - len(part) + 1))
