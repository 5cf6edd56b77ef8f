"""All tests of the cause list on one case, and what they come to together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp

from veriscope.cases.causes import context, knowledge, letters, reply, speech
from veriscope.cases.causes.catalogue import catalogue
from veriscope.cases.causes.evidence import Evidence
from veriscope.cases.causes.findings import Diagnosis, Finding, Word
from veriscope.cases.causes.knowledge import UNREAD
from veriscope.cases.changes import Changes
from veriscope.errors import NotRun

# In the order in which they explain: a token explains the sentence that holds it, an order its words, a crowd the
# sentences that happen to sway it. Of several that hold the first is the most specific one.
TESTS: dict[str, Callable[[Evidence], Finding]] = {
    "sampling": reply.sampling,
    "repetition_loop": reply.repetition_loop,
    "tokenization": letters.tokenization,
    "glitch_token": letters.glitch_token,
    "agreement": speech.agreement,
    "copied_from_context": context.copied_from_context,
    "instruction_conflict": speech.instruction_conflict,
    "lost_context": context.lost_context,
    "mistaken_speaker": speech.mistaken_speaker,
    "trigger_phrase": speech.trigger_phrase,
    "distribution_shift": context.distribution_shift,
    "known_but_unsaid": knowledge.known_but_unsaid,
    "wrong_fact": knowledge.wrong_fact,
}
OF_THE_REPLY = ("sampling", "repetition_loop")  # the others ask what brings the most likely words about
STEADY = 0.5  # probability from which on the strange words are what the model plainly says


def judge(changes: Changes, *, expected: Sequence[str] = (), seed: int = 0) -> Diagnosis:
    """Run every test of the cause list on a case.

    Args:
        changes: The case's texts and their runs; what was run for its outside causes is not run again.
        expected: What the strange words should have been, where the user knows it: one or more right answers. The
            tests then ask whether a change brings the right answer, not only whether the strange one goes; and without
            it no test can say that a fact is wrong.
        seed: Of neutral words, draws and lists.

    Returns:
        Several causes may hold. Named is only what a test with its control bears out.
    """
    evidence, before = Evidence(changes, expected, seed), changes.passes
    if evidence.as_expected:
        findings = tuple(Finding(cause, NotRun("the words are those that were expected")) for cause in TESTS)
        return Diagnosis("clean", (), findings, f"'{evidence.strange}' is what was expected.", 0.0)
    findings = tuple(_tested(evidence, cause) for cause in TESTS)
    causes = tuple(one.cause for one in findings if one.holds is True or _open(one, findings))
    word, sentence = _word(evidence, causes, findings)
    return Diagnosis(word, causes, findings, sentence, changes.passes - before, _notes(evidence))


def _tested(evidence: Evidence, cause: str) -> Finding:
    if cause not in OF_THE_REPLY and not evidence.base.same:
        return Finding(
            cause, NotRun("the model would not say the strange words again: its most likely ones are others")
        )
    return TESTS[cause](evidence)


def _open(finding: Finding, findings: Sequence[Finding]) -> bool:
    """Whether a right answer that seems to be known inside can't be told from a wrong fact."""
    return finding.holds == UNREAD and {one.cause for one in findings if one.holds is True} == {"wrong_fact"}


def _word(evidence: Evidence, causes: Sequence[str], findings: Sequence[Finding]) -> tuple[Word, str]:
    """The verdict, and the answer in one sentence."""
    titles = {entry.name: entry.title for entry in catalogue()}
    by_name = {one.cause: one for one in findings}
    if causes and by_name[causes[0]].holds == UNREAD:
        one, other = (titles[name] for name in causes[:2])
        return "indistinguishable", f"{one.capitalize()} and {other} explain the evidence equally."
    if causes:
        first = by_name[causes[0]]
        also = f" Also: {', '.join(titles[name] for name in causes[1:])}." if len(causes) > 1 else ""
        return "named", f"{titles[causes[0]].capitalize()}. {first.evidence[0]}{also}"
    if evidence.told or not evidence.base.same or (chance := exp(min(0.0, evidence.base.nats))) < STEADY:
        return "unknown", "No cause of the list explains it."
    plainly = f"'{evidence.strange}' is what the model plainly says here (probability {chance:.2f})"
    if evidence.marked:
        return "unknown", (
            f"No cause of the list explains it: {plainly}. Whether that is wrong is not known: say what was expected."
        )
    return "clean", (
        f"Nothing wrong was found: {plainly}, and no cause of the list holds. Whether it is true the model can't say."
    )


def _notes(evidence: Evidence) -> tuple[str, ...]:
    out = []
    if not evidence.told:
        out.append("Nobody said what the answer should be: that the strange words go counted as mended.")
    if isinstance(evidence.changes.neutral, NotRun):
        out.append(f"There is no neutral text: {evidence.changes.neutral.reason}.")
    return tuple(out)
