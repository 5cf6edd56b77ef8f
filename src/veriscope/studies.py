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
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from veriscope.claims.battery import with_margins
from veriscope.claims.card import Card, Purpose
from veriscope.errors import UserError, nearest
from veriscope.examples import Examples, examples, pairs
from veriscope.ledger import Ledger, use, versions
from veriscope.methods import method
from veriscope.subjects import Subject, load
from veriscope.trials.evidence import Verdict
from veriscope.trials.judge import Effort
from veriscope.trials.trial import Progress, check, corrected, enter_verdict, run_card, write_card

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
    """Safe YAML in which only true and false are booleans (`on`, `yes` and `no` are words) and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


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
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as broken:
        raise BadStudy(str(path), "it is not UTF-8 text", "Save it as UTF-8.") from broken
    return parse_study(text, str(path), path.parent, path.stem)


def parse_study(text: str, where: str, folder: Path, name: str) -> Study:
    """`read_study` on text that is already in memory."""
    try:
        raw = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as broken:
        mark = getattr(broken, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        why = getattr(broken, "problem", None) or str(broken).splitlines()[0]
        raise BadStudy(where, f"it is not valid YAML ({line}{why})", "Mend that line.") from broken
    if not isinstance(raw, dict):
        raise BadStudy(
            where, "it holds no keys", "Begin with `subject:`, `purpose:`, `examples:`, `findings:`, `claims:`."
        )
    try:
        plan = StudyPlan.model_validate(raw)
    except ValidationError as wrong:
        raise BadStudy(where, *_first_problem(wrong)) from None
    for number, claim in enumerate(plan.claims, 1):
        _check_claim(where, number, claim, plan)
    costs = [f.name for f in dataclasses.fields(Effort)]
    for key, n in plan.effort.items():
        if key not in costs:
            mend = f"{nearest(key, costs)}Known here: {', '.join(costs)}."
            raise BadStudy(where, f"unknown key 'effort.{key}'", mend)
        if n < (2 if key == "folds" else 1):
            raise BadStudy(where, f"'effort.{key}' is {n}", "Give at least 2 folds, and at least 1 of all else.")
    for title, finding in plan.findings.items():
        if not isinstance(finding.get("method"), str):
            raise BadStudy(where, f"finding '{title}' names no method", "Add `method:`, such as MeanDifference.")
        if str(finding.get("on")) not in plan.examples:
            known = list(plan.examples)
            raise BadStudy(
                where,
                f"finding '{title}' is made on '{finding.get('on')}', which is not among the examples",
                f"{nearest(str(finding.get('on')), known)}Known: {', '.join(known)}",
            )
    return Study(plan, text, folder, plan.name or name)


def _first_problem(wrong: ValidationError) -> tuple[str, str]:
    first = wrong.errors()[0]
    at = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        kinds: dict[str, type[BaseModel]] = {"purpose": Purpose, "examples": ExamplesPlan}
        parent = kinds.get(str(first["loc"][0]), StudyPlan)
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
        raise BadStudy(
            where, f"{title} has {len(claim)} types ({', '.join(claim)})", "One claim, one type: split it in two."
        )
    kind, fields = next(iter(claim.items()))
    if kind not in CLAIMS and ":" not in kind:
        raise BadStudy(
            where, f"{title} has the unknown type '{kind}'", f"{nearest(kind, list(CLAIMS))}Known: {', '.join(CLAIMS)}."
        )
    try:
        claim_type = pkgutil.resolve_name(CLAIMS.get(kind, kind))
    except (ImportError, AttributeError, ValueError) as nowhere:
        raise BadStudy(where, f"{title} has a type that can't be imported ({nowhere})", "Mend that path.") from nowhere
    known = [f.name for f in dataclasses.fields(claim_type)]
    for key in fields:
        if key == "primary":
            if not isinstance(fields[key], str):
                raise BadStudy(
                    where,
                    f"{title} has {len(fields[key])} primary outcomes",
                    "One primary outcome a claim: make a claim of each, they are corrected together.",
                )
        elif key not in known:
            raise BadStudy(
                where,
                f"{title} ({kind}) has the unknown key '{key}'",
                f"{nearest(key, known)}Known here: {', '.join(known)}.",
            )
    for key, among in (("finding", plan.findings), ("on", plan.examples)):
        if str(fields.get(key)) not in among:
            raise BadStudy(
                where,
                f"{title} names {key} '{fields.get(key)}', which the study does not have",
                f"{nearest(str(fields.get(key)), list(among))}Known: {', '.join(among)}.",
            )
    _check_values(where, f"{title} ({kind})", claim_type, fields)


def _check_values(where: str, title: str, claim_type: Any, fields: Mapping[str, Any]) -> None:
    """What the claim can't do without is there, and every value is of its field's type."""
    hints = typing.get_type_hints(claim_type)
    for f in dataclasses.fields(claim_type):
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if needed and f.name not in fields and f.name != "of":
            raise BadStudy(where, f"{title} lacks '{f.name}'", f"Add `{f.name}:` to it.")
        named = f.name in ("finding", "on", "off_target") or (
            f.name == "neutral" and isinstance(fields.get(f.name), str)
        )
        if f.name in fields and not named:  # what names a part of the study is looked up elsewhere
            try:
                TypeAdapter(hints[f.name]).validate_python(_frozen(fields[f.name]), strict=True)
            except ValidationError as wrong:
                problem = f"{title}: '{f.name}' is {fields[f.name]!r}: {wrong.errors()[0]['msg']}"
                raise BadStudy(where, problem, "Mend that entry.") from None


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


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
class Draft:
    """A study whose findings are made and whose claims were checked; no ledger knows of it yet."""

    study: Study
    subject: Subject
    data: Mapping[str, Examples]
    claims: tuple[Any, ...]
    tries: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Ready:
    """A study whose findings are made and whose cards are written; no gate pool has been opened."""

    study: Study
    subject: Subject
    claims: tuple[Any, ...]
    cards: tuple[Card, ...]


def prepare(study: Study, ledger: Ledger, say: Callable[[str], None] = lambda text: None) -> Ready:
    """Load, fit and write the cards: `enter` after `draft`."""
    return enter(draft(study, say), ledger)


def draft(study: Study, say: Callable[[str], None] = lambda text: None) -> Draft:
    """Load, fit and check; whatever can be refused is refused here, before anything is written."""
    plan = study.plan
    folder = study.folder / os.path.expandvars(plan.subject)
    subject = load(folder if (folder / "config.json").is_file() else plan.subject)
    say(f"subject {subject.name}: {subject.n_parameters:,} parameters")
    data = {title: load_examples(p, title, study.folder) for title, p in plan.examples.items()}
    for title, found in data.items():
        say(f"examples {title}: {found.n:,} rows")
    with use(Ledger.in_memory()) as aside:
        findings = {}
        for title, settings in plan.findings.items():
            rest = {k: v for k, v in settings.items() if k not in ("method", "on")}
            say(f"finding {title}: {settings['method']}")
            findings[title] = method(settings["method"], **rest).fit(subject, data[settings["on"]].dev)
        claims = tuple(_claim(c, findings, data) for c in plan.claims)
        for claim in claims:
            check(claim, subject)
        return Draft(study, subject, data, claims, tuple(row.body for row in aside.rows("try")))


def enter(drafted: Draft, ledger: Ledger) -> Ready:
    """Write down what was tried, the study and all its cards; no gate pool has been opened."""
    study, subject = drafted.study, drafted.subject
    for body in drafted.tries:
        ledger.append_once("try", body)
    _enter(study, subject, drafted.data, ledger)
    purpose = study.plan.purpose
    cards = tuple(write_card(claim, subject, ledger, purpose, study.name) for claim in drafted.claims)
    return Ready(study, subject, drafted.claims, cards)


def _named(title: str, data: Mapping[str, Examples], key: str) -> Examples:
    """Examples of the study that a claim names under another key than `on`."""
    if title not in data:
        raise BadStudy(f"{key}: {title}", "the study has no such examples", f"Known: {', '.join(data)}.")
    return data[title]


def _claim(entry: Mapping[str, Mapping[str, Any]], findings: Mapping[str, Any], data: Mapping[str, Examples]) -> Any:
    kind, fields = next(iter(entry.items()))
    given = {k: _frozen(v) for k, v in fields.items() if k != "primary"}
    given |= {"finding": findings[fields["finding"]], "on": data[fields["on"]]}
    if isinstance(given.get("neutral"), str):
        given["neutral"] = tuple(_named(given["neutral"], data, "neutral").dev.texts)
    if "off_target" in given:
        given["off_target"] = tuple(_named(title, data, "off_target") for title in given["off_target"])
    given.setdefault("of", data[fields["on"]].variable)
    given.setdefault("name", f"{fields['finding']} {kind} {given['of']}")
    return pkgutil.resolve_name(CLAIMS.get(kind, kind))(**given)


def _enter(study: Study, subject: Subject, data: Mapping[str, Examples], ledger: Ledger) -> None:
    body = {
        "name": study.name,
        "text": study.text,
        "purpose": study.plan.purpose.model_dump(),
        "mode": study.plan.mode,
        "subject": {"name": subject.name, "hash": subject.hash, "n_parameters": subject.n_parameters},
        "examples": {t: {"hash": d.hash, "n": d.n, "described": d.describe()} for t, d in data.items()},
        "versions": versions(),
    }
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
                verdicts.append(run_card(claim, card, ready.subject, ledger, engine_seed, effort, told, study.name))
            except Exception as failed:
                ledger.append(
                    "failure",
                    {
                        "card": card.hash,
                        "name": card.name,
                        "study": study.name,
                        "what": f"{type(failed).__name__}: {failed}",
                    },
                )
                raise
    settled, together = across(verdicts), _p_values(verdicts)
    for claim, before, after in zip(ready.claims, verdicts, settled, strict=True):
        if before != after:
            battery = with_margins(claim.battery, claim.margins)
            enter_verdict(ledger, after, battery, ready.subject.n_parameters, study.name, effort, together)
    return Outcome(tuple(settled), time.monotonic() - began, ready.subject.passes)


def across(verdicts: Sequence[Verdict], q: float = 0.05) -> list[Verdict]:
    """Correct for the number of claims: a SUPPORTED that the false-discovery control drops becomes INCONCLUSIVE."""
    together = _p_values(verdicts)
    return [corrected(verdict, together, q) for verdict in verdicts]


def _p_values(verdicts: Sequence[Verdict]) -> list[float]:
    return [v.p_value for v in verdicts if v.p_value is not None]


@dataclass(frozen=True)
class Guess:
    """What a study will cost, reckoned from a timed forward pass before any gate pool is opened."""

    seconds: tuple[float, ...]  # one a claim
    memory_gib: float
    basis: str

    @property
    def total_s(self) -> float:
        return sum(self.seconds)


def _passes(claim: Any, effort: Effort) -> int:
    """What the claim's bench says it will run; a bench of someone else's that says nothing is taken for C1's size."""
    reckon = getattr(pkgutil.resolve_name(claim.bench), "passes", None)
    return reckon(claim, effort) if reckon else (3 + effort.twins) * claim.on.n


def estimate(ready: Ready, effort: Effort | None = None) -> Guess:
    """Time a few forward passes on dev texts and multiply by what each claim's bench says it will run."""
    subject, effort = ready.subject, effort or Effort(**ready.study.plan.effort)
    texts = ready.claims[0].on.dev.texts[:32]
    logits: Any = "last" if subject.has_logits else None
    subject.run(texts[:4], logits=logits)
    began = time.perf_counter()
    subject.run(texts, logits=logits)
    each = (time.perf_counter() - began) / len(texts)
    passes = [_passes(claim, effort) for claim in ready.claims]
    weights = 4 * subject.n_parameters * 2  # the subject and one twin at a time
    held = max((c.on.n * (subject.d_model or 0) * 4 * 8 for c in ready.claims), default=0)
    return Guess(
        tuple(each * n for n in passes),
        (weights + held) / 2**30 + 0.4,
        f"{sum(passes):,} forward passes at {1000 * each:.1f} ms",
    )
