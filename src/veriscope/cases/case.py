"""One case from end to end: a log, a model and the strange words go in; what was found comes out as plain data.

case = work(read_logs("chat.json")[0], subject)
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from veriscope.cases.causes import Diagnosis, judge, version
from veriscope.cases.changes import Changes
from veriscope.cases.cruxes import Cruxes, cruxes
from veriscope.cases.flow import Flow
from veriscope.cases.kept_readings import Readings
from veriscope.cases.kept_topics import Topics, WorkedOn, worked_on
from veriscope.cases.logs import Log, Mark
from veriscope.cases.outside import Depth, Outside, outside
from veriscope.cases.plain import made, plain
from veriscope.cases.repair import Effort, Repair, repairs
from veriscope.cases.shapley import Shapley, shapley
from veriscope.cases.transcript import Transcript, mark, transcript
from veriscope.cases.travel import Travel, travel
from veriscope.cases.units import units
from veriscope.cases.user_model import UserModel, user_model
from veriscope.errors import NotRun
from veriscope.exam.code import code_hash
from veriscope.subjects import Subject

Told = Callable[[str], None]
STEPS = ("outside causes", "contributions", "cruxes", "flow", "user model", "topics", "causes", "repairs")
MOST_REPAIRED = 2  # causes whose repairs are tried, most likely first
NO_READINGS = NotRun(
    "no readings were given: train them on labelled logs with `veriscope readings LABELLED.jsonl --model MODEL --out "
    "FOLDER`, and give them with --readings FOLDER"
)
NO_TOPICS = NotRun(
    "no readings of topics were given: train them on labelled logs with `veriscope topics LABELLED.jsonl --model MODEL "
    "--out FOLDER`, and give them with --topics FOLDER"
)
DRAW = "sampling"
FAR_SHARE = 0.6  # of the nats a token that a word drawn from the whole vocabulary costs
FAR = 14.0  # nats in all: less likely than one in a million, so no draw explains it
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How a case is worked; the defaults suit a chat of a page on a model of GPT-2's class.

    Attributes:
        template: How turns become one text: "auto", "chat" or "plain", as in `transcript`.
        depth: How much is run for outside causes.
        shapley_passes: Most that contributions may cost, in whole passes of the context.
        expected: What should have been said in the place of the strange words; empty takes what the log says.
        repair: Whether repairs are tried.
        patience: How many times as much repairs may cost as suits a model of GPT-2's size (see `repair.Effort.work`).
        seed: Of everything that is drawn.
    """

    template: Literal["auto", "chat", "plain"] = "auto"
    depth: Depth = Depth()
    shapley_passes: float = 8.0
    expected: tuple[str, ...] = ()
    repair: bool = True
    patience: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Model:
    """Who spoke."""

    name: str
    hash: str
    parameters: int
    blocks: int
    vocabulary: int


@dataclass(frozen=True)
class Plan:
    """What a case will take, before it is begun: half of it to twice as much, as it goes by a few timed passes.

    Attributes:
        tokens: Of the text up to the end of the strange span.
        units: That will be taken out and changed.
        seconds: On this machine, as busy as it is now.
    """

    tokens: int
    units: int
    seconds: float


@dataclass(frozen=True)
class Case:
    """All that was found about one strange span. A part that could not be made is a `NotRun` with its reason.

    Attributes:
        model: Who spoke.
        outside: Effects of what stands in the log; it holds the transcript and the units.
        shapley: What each sentence contributes.
        cruxes: Smallest sets whose change flips the answer.
        flow: How changes travel through the network.
        diagnosis: What the cause list says.
        repairs: What each named cause suggests, tried.
        user_model: What the model took its user to be, turn by turn.
        topics: What it was working on, turn by turn.
        expected: What should have been said, if anybody said so.
        seed: Of everything drawn.
        seconds: What it took when it was worked.
    """

    model: Model
    outside: Outside
    shapley: Shapley | NotRun
    cruxes: Cruxes | NotRun
    flow: Travel | NotRun
    diagnosis: Diagnosis
    repairs: tuple[Repair, ...] | NotRun
    user_model: UserModel | NotRun
    topics: WorkedOn | NotRun
    expected: tuple[str, ...]
    seed: int
    seconds: float

    @property
    def transcript(self) -> Transcript:
        """The text as the model read it."""
        return self.outside.transcript

    @property
    def log(self) -> Log:
        return self.transcript.log

    @property
    def strange(self) -> str:
        """The strange words."""
        return self.transcript.text[slice(*self.transcript.span)]


@dataclass(frozen=True)
class _Engine:
    """What one set of runs gives."""

    outside: Outside
    shapley: Shapley | NotRun
    cruxes: Cruxes | NotRun
    flow: Travel | NotRun


def begin(log: Log, subject: Subject, strange: Mark | None = None, options: Options = Options()) -> Changes:
    """Read a log as the model does and cut it into units; costs a pass where nobody marked what is strange.

    Raises:
        NoSuchSpan, BadOffsets, NoTemplate, BadTemplate, TooLong, NothingBefore.
    """
    seen = transcript(log, mark(log, strange, subject), subject, options.template)
    return Changes(seen, units(seen), subject, seed=options.seed)


def expected(changes: Changes, options: Options = Options()) -> Plan:
    """What working it will take, by the time of one pass."""
    one, depth, parts = _one_pass(changes), options.depth, len(changes.parts)
    pairs = min(depth.strongest, parts) * (min(depth.strongest, parts) - 1) / 2
    edits = len(changes.units) * (1 + depth.substitutes) + 2 * depth.floor + pairs + 2 * 12
    spoken = (depth.shown + 1) * depth.tokens * STEP + START
    passes = edits * SHARED + min(options.shapley_passes, 2.0**parts) + spoken
    tokens = len(changes.transcript.ids)
    if not _as_expected(changes, options):
        spent = min(REPAIRS, patient(options).work / changes.subject.n_parameters) if options.repair else 0.0
        passes += CAUSES + spent / max(tokens, SHORT)
    return Plan(tokens, len(changes.units), passes * one)


def _as_expected(changes: Changes, options: Options) -> bool:
    """Whether the strange words are those that were expected: then no cause is looked for."""
    wanted = options.expected or changes.transcript.log.expected
    return changes.transcript.text[slice(*changes.transcript.span)].strip() in wanted


def _one_pass(changes: Changes) -> float:
    """Seconds of a whole pass, by contexts without an early sentence: the text itself is hardly run a second time."""
    begun = time.perf_counter()
    changes.base  # noqa: B018 (also warms up)
    took = [time.perf_counter() - begun]
    for unit in changes.parts[:TIMED]:
        context = changes.removed([unit.name])
        if (cost := changes.cost([context])) > 0:
            begun = time.perf_counter()
            changes.run([context])
            took.append((time.perf_counter() - begun) / cost)
    return statistics.median(took[1:] or took)


TIMED = 3  # passes, of which the middle one counts: a busy machine makes single ones far too slow
SHARED = 0.55  # of a pass that a changed context costs: what stands before the change is not run again
STEP = 0.3  # of a pass that a token said by all draws together costs
CAUSES = 80.0  # passes for the tests of the cause list: 50 to 150 were measured, hardly more for longer logs
REPAIRS = 60_000.0  # tokens: a quarter of it to half as much again was measured, by how many causes are named and which
SHORT = 60  # tokens: a pass of fewer takes hardly less time
START = 12.0  # passes for neutral text, saliency, patches


def work(
    log: Log,
    subject: Subject,
    strange: Mark | None = None,
    *,
    options: Options = Options(),
    readings: Readings | NotRun = NO_READINGS,
    topics: Topics | NotRun = NO_TOPICS,
    keep: Path | None = None,
    told: Told = lambda step: None,
) -> Case:
    """Work a case.

    Args:
        log: From `read_logs` or `log_of`.
        subject: The model that spoke, or one that may be like it.
        strange: Text, (turn, start, end), or None for what the log marks, else the least expected words.
        readings: Of what the model takes its user to be, trained on this model.
        topics: Of what it works on, trained on this model.
        keep: Folder in which finished parts stay, each under a hash of log, model, options and code, so that a case
            that was killed goes on where it was; None keeps nothing.
        told: Is given the name of each of the `STEPS` as it begins.

    Raises:
        UserError: The log can't be worked on this model at all; see `begin`.
    """
    changes = begin(log, subject, strange, options)
    return finish(changes, options, readings=readings, topics=topics, keep=keep, told=told)


def finish(
    changes: Changes,
    options: Options = Options(),
    *,
    readings: Readings | NotRun = NO_READINGS,
    topics: Topics | NotRun = NO_TOPICS,
    keep: Path | None = None,
    told: Told = lambda step: None,
) -> Case:
    """Work a case that was begun; arguments as in `work`."""
    subject, expected = changes.subject, options.expected or changes.transcript.log.expected
    kept = _Kept(keep, _key(changes, options) if keep is not None else "")
    engine = kept.get("outside", _Engine, lambda: _engine(changes, options, told))
    user = _user_model(kept, changes, readings, told)
    worked = _worked_on(changes, topics, told)
    told("causes")
    found = kept.get("causes", Diagnosis, lambda: judge(changes, expected=expected, seed=options.seed))
    diagnosis = _own(found, engine.outside, subject.vocab_size or 1)
    mended = _repaired(kept, changes, diagnosis, expected, options, told)
    model = Model(subject.name, subject.hash, subject.n_parameters, subject.n_blocks, subject.vocab_size or 1)
    return Case(
        model, engine.outside, engine.shapley, engine.cruxes, engine.flow, diagnosis, mended, user, worked,
        expected, options.seed, kept.seconds,
    )  # fmt: skip


def _engine(changes: Changes, options: Options, told: Told) -> _Engine:
    flow = Flow(changes)
    told("outside causes")
    causes = outside(changes, depth=options.depth, recorder=flow, seed=options.seed)
    told("contributions")
    shares = shapley(changes, passes=options.shapley_passes, seed=options.seed)
    told("cruxes")
    sets = cruxes(changes, causes, seed=options.seed) if changes.parts else NotRun("the context has no sentence")
    told("flow")
    drawn = flow.map(causes) if causes.units else NotRun("the context has no unit to take out")
    short = drawn if isinstance(drawn, NotRun) else travel(drawn, causes.units)
    return _Engine(causes, shares, sets, short)


def _user_model(kept: _Kept, changes: Changes, readings: Readings | NotRun, told: Told) -> UserModel | NotRun:
    """What the readings tell; kept under their own hash as well."""
    if isinstance(readings, NotRun):
        return readings
    told("user model")
    part = f"user-{readings.digest[:16]}"
    return kept.get(part, UserModel, lambda: user_model(changes, changes.subject, readings))


def _worked_on(changes: Changes, topics: Topics | NotRun, told: Told) -> WorkedOn | NotRun:
    """What the readings of topics tell; a pass a turn, so it is not kept."""
    if isinstance(topics, NotRun):
        return topics
    told("topics")
    return worked_on(changes.transcript, changes.subject, topics)


def hardly_said(outside: Outside, vocabulary: int) -> bool:
    """Whether the model would say the strange words so rarely that they are hardly its own."""
    lost, blind = -outside.nats, math.log(vocabulary) * len(outside.token_nats)
    return not outside.holds and lost > max(FAR, FAR_SHARE * blind)


def _own(diagnosis: Diagnosis, outside: Outside, vocabulary: int) -> Diagnosis:
    """A diagnosis in which no luck of the draw is named for words that this model would not draw in a million tries."""
    if DRAW not in diagnosis.causes or not hardly_said(outside, vocabulary):
        return diagnosis
    why = NotRun("less than one draw in a million says these words: that is no luck, they are hardly this model's own")
    findings = tuple(replace(one, holds=why) if one.cause == DRAW else one for one in diagnosis.findings)
    causes = tuple(one for one in diagnosis.causes if one != DRAW)
    sentence = diagnosis.sentence if causes else "No cause of the list explains it."
    word = diagnosis.word if causes else "unknown"
    return replace(diagnosis, word=word, causes=causes, findings=findings, sentence=sentence)


def _repaired(
    kept: _Kept, changes: Changes, diagnosis: Diagnosis, expected: tuple[str, ...], options: Options, told: Told
) -> tuple[Repair, ...] | NotRun:
    """What each named cause suggests, tried; the best prompt edit where none is named."""
    if not options.repair:
        return NotRun("not wanted")
    if diagnosis.word == "clean":
        return NotRun("nothing wrong was found, so there is nothing to repair")
    told("repairs")

    def tried() -> tuple[Repair, ...]:
        out: list[Repair] = []
        for cause in diagnosis.causes[:MOST_REPAIRED] or ("unknown",):
            suspects = [n for one in diagnosis.findings if one.cause == cause for n in one.units if n in changes.units]
            answer = expected[0] if expected else None
            out += repairs(
                cause, changes, suspects=suspects, expected=answer, spent=diagnosis.passes, effort=patient(options),
                seed=options.seed,
            )  # fmt: skip
        return tuple(out)

    part = "repairs" if options.patience == 1 else f"repairs-{options.patience:g}"
    return kept.get(part, tuple[Repair, ...], tried)


def patient(options: Options) -> Effort:
    """What repairs may cost."""
    return Effort(work=Effort().work * options.patience)


# ---- what is kept


def home() -> Path:
    """Where finished parts are kept unless a folder is named: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "veriscope-cases"


def _key(changes: Changes, options: Options) -> str:
    """Hash of all that a case hangs on."""
    seen = changes.transcript
    settings = plain(replace(options, repair=True, patience=1.0))  # no other part hangs on what is done for repairs
    said = [plain(seen.log.turns), seen.log.expected, plain(seen.strange), seen.text, seen.ids, settings]
    said += [changes.subject.hash, version(), code_hash("veriscope.cases.case")]
    text = json.dumps(said, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Kept:
    """Finished parts of one case, a file each, and the seconds that they took when they were made."""

    def __init__(self, folder: Path | None, key: str) -> None:
        self.folder, self.key, self.seconds = folder, key, 0.0

    def get(self, part: str, kind: Any, make: Callable[[], T]) -> T:
        """The part as it was kept, else made and kept; a file that can't be read counts as not there."""
        path = self.folder / self.key / f"{part}.json" if self.folder is not None else None
        if path is not None:
            try:
                held = json.loads(path.read_text(encoding="utf-8"))
                found: T = made(kind, held["value"])
                self.seconds += held["seconds"]
                return found
            except (OSError, ValueError, TypeError, KeyError):
                pass
        begun = time.perf_counter()
        found = make()
        took = time.perf_counter() - begun
        self.seconds += took
        if path is not None:
            put(path, json.dumps({"seconds": took, "value": plain(found)}))
        return found


def put(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)
