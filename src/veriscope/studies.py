"""A study file: one subject, some examples, findings and claims, checked whole before anything is run.

    plan = read_study("study.yaml")        # pydantic models; an unknown key is refused by name
    outcome = run_study(plan, ledger)      # findings, then all cards, then every trial; resumes where it stopped

All findings are made and all cards are written before the first gate pool is opened, so no claim is written
with another's result in sight. Across the claims of a study: Benjamini and Hochberg at 0.05 (rule R13).
"""

from __future__ import annotations

import dataclasses
import os
import pkgutil
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from veriscope.claims.card import Card, Purpose
from veriscope.errors import UserError, nearest
from veriscope.examples import Examples, examples, pairs
from veriscope.ledger import Ledger, use, versions
from veriscope.methods import method
from veriscope.subjects import Subject, load
from veriscope.trials.evidence import Verdict, to_plain
from veriscope.trials.judge import Effort
from veriscope.trials.statistics import benjamini_hochberg
from veriscope.trials.trial import Progress, check, run_card, write_card

CLAIMS = {
    "represents": "veriscope.claims.represents:Represents",
    "mediates": "veriscope.claims.mediates:Mediates",
    "necessary": "veriscope.claims.necessary:Necessary",
    "steers": "veriscope.claims.steers:Steers",
}


class BadStudy(UserError):
    """A study file that can't be run as it stands."""

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}. {mend}")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which only true and false are booleans: `on`, `yes` and `no` are words in a study."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|false|False)$"), list("tTfF"))


class ExamplesPlan(BaseModel):
    """Where examples come from: a file, or a bed's generator (`bed` and `skill`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None
    bed: str | None = None
    skill: str | None = None
    n: int = 2_000
    seed: int = 0
    text: str = "text"
    label: str | None = None
    cluster: str | None = None
    answer: str | None = None
    foil: str | None = None
    source_text: str | None = None
    expected: str | None = None
    factors: tuple[str, ...] | None = None
    shift: dict[str, Any] | str | None = None
    dev_share: float = 0.5
    encoding: str = "utf-8"
    vary: str | None = None
    hold: tuple[str, ...] = ()
    isolate: bool = False


class StudyPlan(BaseModel):
    """A study file as written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    subject: str
    purpose: Purpose
    mode: str = Field("exploratory", pattern="^(targeted|exploratory)$")
    seed: int = 0
    effort: dict[str, int] = {}
    examples: dict[str, ExamplesPlan]
    findings: dict[str, dict[str, Any]]
    claims: tuple[dict[str, dict[str, Any]], ...] = Field(min_length=1)


@dataclass(frozen=True)
class Study:
    """A checked study: the plan, the text it was read from and the folder that its paths start from."""

    plan: StudyPlan
    text: str
    folder: Path
    name: str


@dataclass(frozen=True)
class Outcome:
    """What a study came to."""

    verdicts: tuple[Verdict, ...]
    seconds: float
    passes: int


def read_study(path: str | Path) -> Study:
    """Read and check a study file.

    Raises:
        BadStudy: It is not YAML, has an unknown or missing key, two types or two primary outcomes in one claim,
            or a claim that names a finding or examples that are not there.
    """
    path = Path(path)
    if not path.is_file():
        raise BadStudy(str(path), "there is no such file", "Name a study file: veriscope try study.yaml")
    text = path.read_text(encoding="utf-8")
    return parse_study(text, str(path), path.parent, path.stem)


def parse_study(text: str, where: str, folder: Path, name: str) -> Study:
    """`read_study` on text that is already in memory."""
    try:
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as broken:
        raise BadStudy(where, f"it is not valid YAML ({str(broken).splitlines()[0]})", "Mend that line.") from broken
    if not isinstance(raw, dict):
        raise BadStudy(where, "it holds no keys", "Begin with `subject:`, `purpose:`, `examples:`, `findings:`, `claims:`.")
    try:
        plan = StudyPlan.model_validate(raw)
    except ValidationError as wrong:
        raise BadStudy(where, *_first_problem(wrong)) from None
    for number, claim in enumerate(plan.claims, 1):
        _check_claim(where, number, claim, plan)
    for title, finding in plan.findings.items():
        if finding.get("on") not in plan.examples:
            known = list(plan.examples)
            raise BadStudy(where, f"finding '{title}' is made on '{finding.get('on')}', which is not among the examples",
                           f"{nearest(str(finding.get('on')), known)}Known: {', '.join(known)}")  # fmt: skip
    return Study(plan, text, folder, plan.name or name)


def _first_problem(wrong: ValidationError) -> tuple[str, str]:
    first = wrong.errors()[0]
    at = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        parent = {"purpose": Purpose, "examples": ExamplesPlan}.get(str(first["loc"][0]), StudyPlan)
        known = list(parent.model_fields)
        return f"unknown key '{at}'", f"{nearest(str(first['loc'][-1]), known)}Known here: {', '.join(known)}."
    if first["type"] == "missing":
        field = Purpose.model_fields.get(str(first["loc"][-1])) if first["loc"][0] == "purpose" else None
        about = f" ({field.description})" if field is not None and field.description else ""
        return f"'{at}' is missing", f"Add `{first['loc'][-1]}:`{about}; a study without it does not run."
    return f"'{at}': {first['msg']}", "Mend that entry."


def _check_claim(where: str, number: int, claim: Mapping[str, Any], plan: StudyPlan) -> None:
    title = f"claim {number}"
    if len(claim) != 1:
        raise BadStudy(where, f"{title} has {len(claim)} types ({', '.join(claim)})", "One claim, one type: split it in two.")
    kind, fields = next(iter(claim.items()))
    if kind not in CLAIMS and ":" not in kind:
        raise BadStudy(where, f"{title} has the unknown type '{kind}'", f"{nearest(kind, list(CLAIMS))}Known: {', '.join(CLAIMS)}.")
    known = [f.name for f in dataclasses.fields(pkgutil.resolve_name(CLAIMS.get(kind, kind)))]
    for key in fields:
        if key == "primary":
            if not isinstance(fields[key], str):
                raise BadStudy(where, f"{title} has {len(fields[key])} primary outcomes",
                               "One primary outcome a claim: make a claim of each, they are corrected together.")  # fmt: skip
        elif key not in known:
            raise BadStudy(where, f"{title} ({kind}) has the unknown key '{key}'",
                           f"{nearest(key, known)}Known here: {', '.join(known)}.")  # fmt: skip
    for key, among in (("finding", plan.findings), ("on", plan.examples)):
        if fields.get(key) not in among:
            raise BadStudy(where, f"{title} names {key} '{fields.get(key)}', which the study does not have",
                           f"{nearest(str(fields.get(key)), list(among))}Known: {', '.join(among)}.")  # fmt: skip


def load_examples(plan: ExamplesPlan, title: str, folder: Path) -> Examples:
    """Examples of a study: from its file, or written by a bed of the zoo."""
    given = plan.model_dump(exclude={"path", "bed", "skill", "n", "seed", "vary", "hold", "isolate"}, exclude_none=True)
    if (plan.path is None) == (plan.bed is None):
        raise BadStudy(f"examples.{title}", "it needs a `path` or a `bed`, one of the two", "Write `path: rows.jsonl`.")
    source: Any
    if plan.bed is not None:
        from veriscope.zoo.tables import BEDS

        if plan.bed not in BEDS:
            raise BadStudy(f"examples.{title}", f"unknown bed '{plan.bed}'", f"Known: {', '.join(BEDS)}.")
        source = BEDS[plan.bed](plan.skill, plan.n, plan.seed)
    else:
        source = folder / os.path.expandvars(str(plan.path))
    if isinstance(plan.shift, str):
        given["shift"] = folder / os.path.expandvars(plan.shift)
    if plan.vary is not None:
        source = pairs(source, vary=plan.vary, hold=plan.hold, seed=plan.seed, isolate=plan.isolate)
    return examples(source, name=title, **given)


@dataclass(frozen=True)
class Ready:
    """A study whose findings are made and whose cards are written; no gate pool has been opened."""

    study: Study
    subject: Subject
    claims: tuple[Any, ...]
    cards: tuple[Card, ...]


def prepare(study: Study, ledger: Ledger, say: Callable[[str], None] = lambda text: None) -> Ready:
    """Load, fit and write the cards; refuse what can be refused before any gate pool is opened."""
    plan = study.plan
    folder = study.folder / os.path.expandvars(plan.subject)
    subject = load(folder if folder.is_dir() else plan.subject)
    say(f"subject {subject.name}: {subject.n_parameters:,} parameters")
    data = {title: load_examples(p, title, study.folder) for title, p in plan.examples.items()}
    for title, found in data.items():
        say(f"examples {title}: {found.n:,} rows")
    with use(ledger):
        findings = {}
        for title, settings in plan.findings.items():
            rest = {k: v for k, v in settings.items() if k not in ("method", "on")}
            say(f"finding {title}: {settings['method']}")
            findings[title] = method(settings["method"], **rest).fit(subject, data[settings["on"]].dev)
        claims = tuple(_claim(c, findings, data) for c in plan.claims)
        for claim in claims:
            check(claim, subject)
        _enter(study, subject, data, ledger)
        cards = tuple(write_card(claim, subject, ledger, plan.purpose) for claim in claims)
    return Ready(study, subject, claims, cards)


def _claim(entry: Mapping[str, Mapping[str, Any]], findings: Mapping[str, Any], data: Mapping[str, Examples]) -> Any:
    kind, fields = next(iter(entry.items()))
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k != "primary"}
    given |= {"finding": findings[fields["finding"]], "on": data[fields["on"]]}
    given.setdefault("of", given["on"].variable)
    given.setdefault("name", f"{fields['finding']} {kind} {given['of']}")
    return pkgutil.resolve_name(CLAIMS.get(kind, kind))(**given)


def _enter(study: Study, subject: Subject, data: Mapping[str, Examples], ledger: Ledger) -> None:
    body = {
        "name": study.name, "text": study.text, "purpose": study.plan.purpose.model_dump(), "mode": study.plan.mode,
        "subject": {"name": subject.name, "hash": subject.hash, "n_parameters": subject.n_parameters},
        "examples": {t: {"hash": d.hash, "n": d.n, "described": d.describe()} for t, d in data.items()},
        "versions": versions(),
    }  # fmt: skip
    if not any(row.body == body for row in ledger.rows("study", name=study.name)):
        ledger.append("study", body)


def run_study(
    study: Study,
    ledger: Ledger,
    *,
    seed: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[str], Progress] | None = None,
    ready: Ready | None = None,
) -> Outcome:
    """Every claim of a study goes to trial; what the ledger already holds is not run again.

    Args:
        progress: Given a claim's name, returns the (gate, state) callback of its trial.
    """
    began = time.monotonic()
    ready = ready or prepare(study, ledger, say)
    engine_seed = study.plan.seed if seed is None else seed
    effort = Effort(**study.plan.effort)
    verdicts = []
    with use(ledger):
        for claim, card in zip(ready.claims, ready.cards, strict=True):
            told = progress(card.name) if progress else (lambda gate, state: None)
            try:
                verdicts.append(run_card(claim, card, ready.subject, ledger, engine_seed, effort, told))
            except Exception as failed:
                ledger.append("failure", {"card": card.hash, "name": card.name, "what": f"{type(failed).__name__}: {failed}"})
                raise
    settled = across(verdicts)
    for before, after in zip(verdicts, settled, strict=True):
        if before != after:
            body = {"card": after.card, "name": after.name, "seed": engine_seed, "verdict": to_plain(after)}
            if not any(row.body == body for row in ledger.rows("verdict", card=after.card, seed=engine_seed)):
                ledger.append("verdict", body)
    return Outcome(tuple(settled), time.monotonic() - began, ready.subject.passes)


def across(verdicts: Sequence[Verdict], q: float = 0.05) -> list[Verdict]:
    """Correct for the number of claims: a SUPPORTED that the false-discovery control drops becomes INCONCLUSIVE."""
    tested = [v for v in verdicts if v.p_value is not None]
    kept = dict(zip([v.card for v in tested], benjamini_hochberg([v.p_value or 0.0 for v in tested], q), strict=True))
    out = []
    for verdict in verdicts:
        if verdict.word == "SUPPORTED" and not kept.get(verdict.card, True):
            sentence = (
                f"INCONCLUSIVE (not supported) [{verdict.claim}]. Every gate was passed, but not after correction for the "
                f"{len(tested)} claims of this study (Benjamini-Hochberg at {q:g}). " + verdict.sentence
            )
            verdict = dataclasses.replace(verdict, word="INCONCLUSIVE", sentence=sentence)
        out.append(verdict)
    return out


@dataclass(frozen=True)
class Guess:
    """What a study will cost, reckoned from a timed forward pass before any gate pool is opened."""

    seconds: tuple[float, ...]  # one a claim
    memory_gib: float
    basis: str

    @property
    def total_s(self) -> float:
        return sum(self.seconds)


def estimate(ready: Ready, effort: Effort | None = None) -> Guess:
    """Time a few forward passes on dev texts and multiply by what each claim's bench says it will run."""
    subject, effort = ready.subject, effort or Effort(**ready.study.plan.effort)
    texts = ready.claims[0].on.dev.texts[:32]
    logits: Any = "last" if subject.has_logits else None
    subject.run(texts[:4], logits=logits)
    began = time.perf_counter()
    subject.run(texts, logits=logits)
    each = (time.perf_counter() - began) / len(texts)
    passes = [pkgutil.resolve_name(claim.bench).passes(claim, effort) for claim in ready.claims]
    weights = 4 * subject.n_parameters * 2  # the subject and one twin at a time
    held = max((c.on.n * (subject.d_model or 0) * 4 * 8 for c in ready.claims), default=0)
    return Guess(
        tuple(each * n for n in passes), (weights + held) / 2**30 + 0.4, f"{sum(passes):,} forward passes at {1000 * each:.1f} ms"
    )
