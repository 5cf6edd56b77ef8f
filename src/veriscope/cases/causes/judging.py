"""All tests of the cause list on one case, cheapest first, and what they come to together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from veriscope.cases.causes import context, knowledge, letters, reply, speech
from veriscope.cases.causes.evidence import Evidence
from veriscope.cases.causes.findings import Diagnosis, Finding
from veriscope.cases.changes import Changes
from veriscope.errors import NotRun

TESTS: dict[str, Callable[[Evidence], Finding]] = {
    "sampling": reply.sampling,
    "repetition_loop": reply.repetition_loop,
    "tokenization": letters.tokenization,
    "glitch_token": letters.glitch_token,
    "agreement": speech.agreement,
    "copied_from_context": context.copied_from_context,
    "instruction_conflict": speech.instruction_conflict,
    "trigger_phrase": speech.trigger_phrase,
    "mistaken_speaker": speech.mistaken_speaker,
    "lost_context": context.lost_context,
    "distribution_shift": context.distribution_shift,
    "known_but_unsaid": knowledge.known_but_unsaid,
    "wrong_fact": knowledge.wrong_fact,
}


def judge(changes: Changes, *, expected: Sequence[str] = (), seed: int = 0) -> Diagnosis:
    evidence, before = Evidence(changes, expected, seed), changes.passes
    findings = tuple(test(evidence) for test in TESTS.values())
    causes = tuple(one.cause for one in findings if one.holds is True)
    word = "named" if causes else "unknown"
    return Diagnosis(word, causes, findings, "", changes.passes - before)  # type: ignore[arg-type]


__all__ = ["NotRun", "judge"]
