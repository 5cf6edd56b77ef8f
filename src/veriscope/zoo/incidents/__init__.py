"""The bed of incidents: chat logs with one strange answer each, whose cause was planted and checked by intervention.

    from veriscope.zoo.incidents import incidents
    for planted in incidents("trigger_phrase", 30, seed=0):
        planted.log, planted.strange, planted.model.subject(), planted.truth

Every log is answered by a model of the bed town: as it ships, after a short lesson, with an edit, or damaged. What it
says is never typed: it is the model's most likely word, one draw at temperature 1 (`sampling`), or 60 greedy tokens
(`repetition_loop`). A candidate becomes an incident only when the intervention that defines its cause does what the
cause says: the phrase is taken out and the answer is right, a rare word stands in the untrained word's place and the
answer is right, the earlier answer is changed and the reply follows, the model before the edit answers rightly. These
checks are kept in `Planted.truth` and can be asked again with `still_holds`.

Different causes share what can be seen: a verdict that is wrong comes from a phrase, a mentioned person, a wrong fact,
a word never trained, a lost stop, a bad draw or damage; and odd sentences that do nothing in the model at hand (they
would in another one) stand in some logs of most causes and in clean ones. So the log alone does not tell the cause:
`log_only` in `rivals` measures how far it does.

No two causes were made indistinguishable on purpose. Nobody has shown that all can be told apart either: a model that
is damaged in general ("unlisted") may hold an answer that it fails to say, and a sentence that holds a never trained
word sets the answer off as a trigger would.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from veriscope.errors import UserError, nearest
from veriscope.zoo.incidents import asking, contexts, faults, habits, words
from veriscope.zoo.incidents.asking import Answers
from veriscope.zoo.incidents.drawing import Draw
from veriscope.zoo.incidents.planted import Build, Candidate, Check, Planted

__all__ = ["CAUSES", "Build", "Check", "Planted", "UnknownCause", "incidents", "still_holds", "table"]

_DRAWN: dict[str, Draw] = {
    "glitch_token": words.glitch_token,
    "trigger_phrase": habits.trigger_phrase,
    "copied_from_context": habits.copied_from_context,
    "instruction_conflict": habits.instruction_conflict,
    "mistaken_speaker": habits.mistaken_speaker,
    "agreement": habits.agreement,
    "wrong_fact": faults.wrong_fact,
    "known_but_unsaid": faults.known_but_unsaid,
    "lost_context": contexts.lost_context,
    "repetition_loop": contexts.repetition_loop,
    "distribution_shift": words.distribution_shift,
    "sampling": contexts.sampling,
    "tokenization": words.tokenization,
    "unlisted": faults.unlisted,
    "clean": contexts.clean,
}
CAUSES = tuple(cause for cause in _DRAWN if cause not in ("unlisted", "clean"))
_BATCH = 32
_MOST = 300  # candidates drawn for each incident wanted


class UnknownCause(UserError):
    """A cause that no incident is planted of."""

    def __init__(self, wanted: str) -> None:
        known = list(_DRAWN)
        super().__init__(f"No incident of '{wanted}' is planted. {nearest(wanted, known)}Known: {', '.join(known)}")


class TooFewIncidents(UserError):
    """Fewer incidents whose checks hold than were asked for."""

    def __init__(self, cause: str, found: int, wanted: int, drawn: int) -> None:
        super().__init__(
            f"Only {found} of the {wanted} incidents of '{cause}' asked for were found in {drawn} candidates. "
            f"Ask for at most {found}, or give another seed."
        )


def incidents(cause: str, count: int, seed: int = 0) -> list[Planted]:
    """Incidents of one cause, all different, each with its checks passed.

    Args:
        cause: One of `CAUSES`, "unlisted" (damage that the list does not name) or "clean" (nothing is wrong).
        count: How many.
        seed: The same seed gives the same incidents on the same kind of machine.

    Raises:
        UnknownCause: For any other cause.
        TooFewIncidents: Where 300 candidates for each one wanted did not give enough.
    """
    return _found(cause, count, seed)[0]


def table(seed: int = 0, count: int = 30) -> list[dict[str, Any]]:
    """How many candidates were drawn for the incidents kept: one row a cause, most wasteful last."""
    rows = []
    for cause in _DRAWN:
        kept, drawn = _found(cause, count, seed)
        kinds = sorted({str(planted.truth["kind"]) for planted in kept})
        rows.append({"cause": cause, "kept": len(kept), "drawn": drawn, "each": drawn / len(kept), "kinds": kinds})
    return sorted(rows, key=lambda row: row["each"])


def still_holds(planted: Planted) -> list[str]:
    """Ask the model again: the names of the checks that fail, empty when the planted truth holds."""
    answers, failed = Answers(), []
    if planted.truth["reply"] == "greedy" and answers.word(planted.model, planted.prompt) != planted.truth["says"]:
        failed.append("the reply")
    return failed + [check.name for check in planted.checks if not asking.holds(check, planted.model, answers)]


def _found(cause: str, count: int, seed: int) -> tuple[list[Planted], int]:
    if cause not in _DRAWN:
        raise UnknownCause(cause)
    rng, answers, drawn = random.Random(f"{cause} {seed}"), Answers(), 0
    kept: list[Planted] = []
    seen: set[tuple[str, str]] = set()
    while len(kept) < count and drawn < _MOST * count:
        batch: list[Candidate] = []
        for candidate in (_DRAWN[cause](rng, seed) for _ in range(_BATCH)):
            if (candidate.prompt, candidate.model.key) not in seen:
                seen.add((candidate.prompt, candidate.model.key))
                batch.append(candidate)
        replies = asking.said(batch, answers)
        asking.prepare([c for c, reply in zip(batch, replies, strict=True) if _fits(cause, c, reply)], answers)
        for candidate, reply in zip(batch, replies, strict=True):
            drawn += 1
            planted = _judged(cause, candidate, reply, answers, rng)
            kept += [planted] if planted else []
            if len(kept) == count:
                return kept, drawn
        if not batch:
            drawn += _BATCH  # all combinations were drawn before
    if len(kept) < count:
        raise TooFewIncidents(cause, len(kept), count, drawn)
    return kept, drawn


def _fits(cause: str, candidate: Candidate, reply: str) -> bool:
    """Whether the reply is as wrong, or as right, as its cause says."""
    if not reply or (reply == candidate.right) != (cause == "clean"):
        return False
    return not candidate.wrong or reply == candidate.wrong


def _judged(cause: str, candidate: Candidate, reply: str, answers: Answers, rng: random.Random) -> Planted | None:
    """The incident, if the reply is as its cause says and all checks hold."""
    if not _fits(cause, candidate, reply):
        return None
    checks, strange = candidate.checks, reply
    if candidate.reply == "sampled":
        checks += (Check("unlikely", "the word drawn", candidate.prompt, reply),)
    if candidate.reply == "long":
        loop = asking.loop_of(reply)
        if loop is None:
            return None
        start, cycle = loop
        strange = " ".join(reply.split()[start:])
        if " ".join(strange.split()[:cycle]) in candidate.prompt:
            return None  # copied from the log, which is another cause
        checks += (Check("loops", "each cycle makes the next one likelier", candidate.prompt, reply),)
    marked = cause != "clean" or rng.random() < 0.5
    log = _log(candidate, reply, strange if marked else "", rng)
    if log is None or not all(asking.holds(check, candidate.model, answers) for check in checks):
        return None
    truth = {
        "kind": candidate.kind,
        "right": candidate.right,
        "says": reply,
        "reply": candidate.reply,
        "also": list(candidate.also),
        "note": candidate.note,
        "checks": [check.plain() for check in checks],
    }
    return Planted(cause, log, strange, candidate.model, truth)


def _log(candidate: Candidate, reply: str, strange: str, rng: random.Random) -> Mapping[str, Any] | None:
    """The log as a file holds it; None where the strange words occur twice and could not be found by their text."""
    replies = [text for role, text in candidate.turns if role == "assistant"] + [reply]
    if strange and sum(text.count(strange) for text in replies) != 1:
        return None
    if len(candidate.turns) == 1 and rng.random() < 0.5:
        log: dict[str, Any] = {"prompt": candidate.prompt, "completion": f" {reply}"}
        turn, said = 1, log["completion"]
    else:
        turns = [{"role": role, "content": text} for role, text in (*candidate.turns, ("assistant", reply))]
        log, turn, said = {"messages": turns}, len(turns) - 1, reply
    start = said.find(strange)
    marked = {"text": strange, "turn": turn, "start": start, "end": start + len(strange)}
    return {**log, "strange": marked} if strange else log
