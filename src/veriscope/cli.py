"""The command line: words in, one public call, words out.

Every error that a user can mend ends with one message and exit status 2; anything else keeps its traceback.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from veriscope.errors import UserError

if TYPE_CHECKING:
    from veriscope.studies import Outcome, Ready

app = typer.Typer(
    name="veriscope",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Puts claims about the inside of a neural network on trial.",
)
books = typer.Typer(no_args_is_help=True, help="Look into a ledger: verify the chain, list rows, export.")
app.add_typer(books, name="ledger")
WIDTH_OF_A_FILE = 132  # where output goes to a file or another program there is no window to fit: rows stay whole
console = Console()


def _say_version(asked: bool) -> None:
    if asked:
        from veriscope import __version__

        print(f"veriscope {__version__}")
        raise typer.Exit


@app.callback()
def _before(
    version: Annotated[bool, typer.Option("--version", callback=_say_version, help="print the version")] = False,
) -> None:
    """Options that stand before any command."""


def main() -> None:
    """Entry point of the `veriscope` command."""
    if not console.is_terminal:
        console.width = int(os.environ.get("COLUMNS") or WIDTH_OF_A_FILE)
    try:
        app()
    except UserError as mendable:
        Console(stderr=True).print(f"[bold red]veriscope:[/] {_escape(str(mendable))}", highlight=False, soft_wrap=True)
        sys.exit(2)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@app.command("try")
def try_(
    study: Annotated[Path, typer.Argument(help="a study file (YAML)")],
    seed: Annotated[int | None, typer.Option(help="seed of the engine; the study's own by default")] = None,
    ledger: Annotated[
        Path | None, typer.Option(envvar="VERISCOPE_LEDGER", help="ledger file; STUDY.ledger by default")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="report page; STUDY.html beside the ledger by default")] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="show the plan and the estimate, run nothing")] = False,
) -> None:
    """Every claim of a study goes to trial; resumes where it stopped."""
    from veriscope.studies import read_study

    _try(read_study(study), ledger or study.with_suffix(".ledger"), report, seed, plan_only)


def _try(
    study: Any, ledger_path: Path, report: Path | None, seed: int | None, plan_only: bool = False
) -> Outcome | None:
    from veriscope.ledger import Ledger
    from veriscope.report.page import write
    from veriscope.report.terminal import show
    from veriscope.studies import draft, enter, estimate, run_study
    from veriscope.trials.trial import TOY_PARAMETERS

    began = time.monotonic()
    if not plan_only:
        _usable(ledger_path)
    with console.status("reading the study, loading the subject, making the findings") as status:
        drafted = draft(study, status.update)
    # A ledger is begun only now, so that a study that is refused leaves none behind.
    with closing(Ledger.in_memory() if plan_only else Ledger(ledger_path)) as ledger:
        ready: Ready = enter(drafted, ledger)
        console.print(_plan_table(ready, estimate(ready)))
        if plan_only:
            return None
        with _bar(len(ready.claims)) as bar:
            outcome = run_study(study, ledger, seed=seed, progress=bar.claim, ready=ready)
        show(outcome.verdicts, toy=ready.subject.n_parameters < TOY_PARAMETERS, console=console)
        page = write(ledger, report or ledger_path.with_suffix(".html"), study=study.name)
        console.print(f"[dim]{time.monotonic() - began:.0f} s, {outcome.passes:,} forward passes of single examples[/]")
        console.print(f"report  {page}\nledger  {ledger_path}", highlight=False, soft_wrap=True, markup=False)
        return outcome


def _usable(path: Path) -> None:
    """Refuse early: a ledger whose past was changed must not be added to, and a new one needs a folder."""
    from veriscope.errors import LedgerUnwritable
    from veriscope.ledger import Ledger

    if path.exists():
        with closing(Ledger(path, read_only=True)) as ledger:
            ledger.verify()
    elif not path.parent.is_dir():
        raise LedgerUnwritable(str(path), f"there is no folder {path.parent}")


def _plan_table(ready: Any, guess: Any) -> Table:
    title = _escape(f"{ready.study.name} on {ready.subject.name}")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("claim", "type", "at", "gate pool", "time"):
        table.add_column(column, justify="right" if column == "time" else "left", style="dim" if column == "at" else "")
    for claim, card, seconds in zip(ready.claims, ready.cards, guess.seconds, strict=True):
        pool = f"{claim.on.gate.n:,} items, {claim.on.gate.n_clusters:,} clusters"
        table.add_row(_escape(card.name), card.type, f"{card.site} @ {card.position}", pool, f"{max(seconds, 1):.0f} s")
    table.caption = f"about {guess.total_s:.0f} s and {guess.memory_gib:.1f} GiB; {guess.basis}"
    table.caption_justify = "left"
    return table


class _bar:
    """A progress bar over claims, with the gate that is running; silent where nobody watches."""

    def __init__(self, claims: int) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} claims"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._claims = claims
        self._begun = 0

    def __enter__(self) -> _bar:
        self._progress.start()
        self._task = self._progress.add_task("trials", total=self._claims)
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def claim(self, name: str) -> Any:
        self._progress.update(self._task, completed=self._begun)
        self._begun += 1

        def told(gate: str, state: str) -> None:
            self._progress.update(self._task, description=_escape(f"{name}: {gate} {state}"))

        return told


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="where the ledger and the report go")] = Path("veriscope-demo"),
    seed: Annotated[int, typer.Option(help="seed of the engine")] = 0,
) -> None:
    """The main job on the model that ships: true and seductive false claims, a verdict table, a report page."""
    from importlib import resources

    from veriscope.studies import parse_study

    folder.mkdir(parents=True, exist_ok=True)
    text = resources.files("veriscope").joinpath("demo.yaml").read_text(encoding="utf-8")
    study = parse_study(text, "demo.yaml", folder, "demo")
    _try(study, folder / f"demo-seed{seed}.ledger", folder / "report.html", seed)


@app.command()
def find(
    name: Annotated[str, typer.Argument(metavar="METHOD", help="MeanDifference, or my_package.file:MyMethod")],
    model: Annotated[str, typer.Option(help="hub id, local folder or zoo name")],
    on: Annotated[Path, typer.Option(help="examples: .jsonl, .csv, .tsv, .parquet")],
    label: Annotated[str, typer.Option(help="the label column")],
    site: Annotated[str, typer.Option(help="a site, or a pattern such as 'blocks.*.resid_post'")],
    out: Annotated[Path, typer.Option(help="folder that the finding is kept in")],
    text: Annotated[str, typer.Option(help="the text column")] = "text",
    cluster: Annotated[str | None, typer.Option(help="the column that splits keep together")] = None,
    position: Annotated[str, typer.Option(help="last, first, a number, or a column that names a word")] = "last",
    seed: int = 0,
) -> None:
    """Make a finding on the dev pool and keep it."""
    from veriscope.examples import examples
    from veriscope.findings import save
    from veriscope.methods import method
    from veriscope.subjects import load

    data = examples(on, text=text, label=label, cluster=cluster)
    at: str | int = int(position) if position.lstrip("-").isdigit() else position
    finding = method(name, site=site, position=at, seed=seed).fit(load(model), data.dev)
    save(finding, out)
    console.print(
        f"kept {name} at {finding.site} in {out} ({finding.origin.tried} tried)", highlight=False, soft_wrap=True
    )


@app.command()
def sites(
    model: Annotated[str, typer.Argument(help="hub id, local folder or zoo name")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """List a model's sites with their axes, and those that were refused with the reason."""
    from veriscope.subjects import load

    subject = load(model)
    if as_json:
        found = [{"site": s.name, "axes": list(s.axes), "width": s.width} for s in subject.sites.values()]
        return print(json.dumps({"model": subject.name, "sites": found, "refused": dict(subject.refused)}))
    table = Table(title=f"{subject.name}: {len(subject.sites)} sites", title_justify="left", box=None)
    for column in ("site", "axes", "width"):
        table.add_column(column)
    for site in subject.sites.values():
        table.add_row(site.name, ", ".join(site.axes), str(site.width or ""))
    console.print(table)
    for name, why in subject.refused.items():
        console.print(f"refused  {name}: {why}", style="yellow", highlight=False)


@app.command()
def zoo() -> None:
    """The models whose truth is known, with what is known of each."""
    from veriscope.zoo import listing

    table = Table(box=None, pad_edge=False)
    for column in ("bed", "model", "what is known"):
        table.add_column(column)
    for row in listing():
        table.add_row(*row)
    console.print(table)


@app.command()
def exam(
    only: Annotated[str, typer.Option(help="claim types: C1, or C2,C3; all by default; or cases: the cause list")] = "",
    bed: Annotated[str, typer.Option(help="bed of the zoo, all of them, or the import path of your own")] = "all",
    count: Annotated[
        int | None,
        typer.Option(help="claims of each grade, shared among its kinds: 60 by default; of each cause: 30", min=1),
    ] = None,
    each_kind: Annotated[bool, typer.Option("--each-kind", help="as many claims of every kind")] = False,
    seed: Annotated[int, typer.Option(help="first seed of the beds", min=0)] = 0,
    grade: Annotated[str, typer.Option(help="only this grade: F0 to F3, T0, T1x0.5 to T1x4, T2")] = "",
    trap: Annotated[str, typer.Option(help="only kinds with this text in their name")] = "",
    final: Annotated[bool, typer.Option("--final", help="final claims: seeds and sizes not developed on")] = False,
    flips: Annotated[int, typer.Option(help="engine seeds that a few claims of each kind are tried under", min=1)] = 1,
    without: Annotated[str, typer.Option(help="decide again without this gate; nothing is run for it")] = "",
    mutate: Annotated[bool, typer.Option("--mutations", help="what each gate holds back")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one list of rows")] = False,
    processes: Annotated[
        int | None,
        typer.Option(help="worker processes, one thread each; by default the cores, 4 at most", min=1),
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="folder of kept outcomes; the user's cache by default")] = None,
    results: Annotated[Path | None, typer.Option(help="put all figures into this result file")] = None,
    write_docs: Annotated[bool, typer.Option("--write-docs", help="fill in the tables of README and docs")] = False,
    methods: Annotated[bool, typer.Option("--methods", help="the methods' own errors, on `count` beds")] = False,
) -> None:
    """Planted claims through the trials: the verifier's error rates. A killed exam goes on where it was."""
    from veriscope.exam import again, beds, check_frozen, examine, packaged, pages, record, rows, terminal
    from veriscope.trials.rates import exam_results

    aside = Console(stderr=True, highlight=False, soft_wrap=True)
    if only.strip() == "cases":
        return _exam_of_cases(count or 30, seed, processes, keep, results, as_json, write_docs)
    count = count or 60
    types = beds.known(tuple(name.strip() for name in only.split(",")) if only else beds.TYPES)
    if write_docs:
        return console.print("wrote", *pages.write(Path(), exam_results()), highlight=False, soft_wrap=True)
    if methods:
        return _exam_of_methods(types, count, seed, processes, results, as_json)
    if results is not None and (grade or trap or without):
        raise UserError("A result file holds whole exams. Leave out --grade, --trap and --without, or --results.")
    if final:
        for changed in check_frozen(results or packaged(), types):
            aside.print(f"{changed}: the same gates and margins as were frozen, but the code has changed since.")
    with _exam_bar() as told:
        outcomes = examine(
            types, bed, count=count, seed=seed, final=final, grade=grade, trap=trap, each_kind=each_kind,
            flips=flips, processes=processes, keep=keep, told=told,
            ahead=lambda found: aside.print(terminal.begins(found)),
        )  # fmt: skip
    if without:
        outcomes = again.removed(outcomes, without)
    if results is not None:
        record(results, outcomes, final=final, date=time.strftime("%Y-%m-%d"))
    if mutate:
        found = again.mutations(outcomes)
        return print(json.dumps([vars(m) for m in found])) if as_json else console.print(terminal.mutation_table(found))
    if as_json:
        return print(json.dumps(rows(outcomes)))
    console.print(terminal.table(rows(outcomes)))
    console.print(terminal.figure_table(outcomes))
    console.print(terminal.weak_table(outcomes))


def _exam_of_methods(
    types: Sequence[str], beds: int, seed: int, processes: int | None, results: Path | None, as_json: bool
) -> None:
    from veriscope.exam.examine import usual_processes
    from veriscope.exam.methods import calibrate_methods, record_methods
    from veriscope.exam.terminal import method_table
    from veriscope.trials.evidence import to_plain

    with _exam_bar() as told:
        found = calibrate_methods(beds, types=types, seed=seed, processes=processes or usual_processes(), told=told)
    if results is not None:
        record_methods(results, found, time.strftime("%Y-%m-%d"))
    print(json.dumps(to_plain(found))) if as_json else console.print(method_table(found))


def _exam_of_cases(
    count: int, seed: int, processes: int | None, keep: Path | None, results: Path | None, as_json: bool, docs: bool
) -> None:
    from veriscope.cases import exam as cases
    from veriscope.cases.causes.catalogue import results as packaged
    from veriscope.cases.exam_table import case_table, total_table, write

    if docs:
        return console.print("wrote", write(Path(), packaged()), highlight=False, soft_wrap=True)
    with _exam_bar() as told:
        outcomes = cases.examine(count=count, seed=seed, processes=processes, keep=keep, told=told)
    if results is not None:
        cases.record(results, outcomes, seed, time.strftime("%Y-%m-%d"))
    found = cases.rows(outcomes)
    if as_json:
        return print(json.dumps(found))
    console.print(case_table(found))
    console.print(total_table(found))


@contextmanager
def _exam_bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar over planted claims, with the time that is left; where nobody watches, a line for each tenth."""
    shown = Console(stderr=True, highlight=False)
    if not shown.is_terminal:
        yield _tenths(shown)
        return
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} claims"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown, transient=True, speed_estimate_period=3600) as bar:
        task = bar.add_task("exam", total=None)
        yield lambda done, every: bar.update(task, completed=done, total=every)


def _tenths(shown: Console) -> Callable[[int, int], None]:
    """Tell a log file of each tenth of the claims, with the minutes that are left at the speed so far."""
    began, first, told = time.monotonic(), -1, 0

    def tell(done: int, every: int) -> None:
        nonlocal first, told
        first = done if first < 0 else first
        if done > first and done * 10 // every > told:
            left = (time.monotonic() - began) / (done - first) * (every - done) / 60
            shown.print(f"{done} of {every} claims, about {left:.0f} min left")
        told = done * 10 // every

    return tell


@app.command("case")
def case_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="chat logs (.json, .jsonl, .eval) or folders")],
    model: Annotated[
        str | None, typer.Option(help="who spoke: hub id, local folder or zoo name; else what the log names in the zoo")
    ] = None,
    span: Annotated[
        str | None, typer.Option(help="the strange words; else those marked, or the least expected")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the pages")] = Path("veriscope-cases"),
    as_json: Annotated[bool, typer.Option("--json", help="one list of cases, and no pages")] = False,
    template: Annotated[str, typer.Option(help="auto, chat (insist on the tokenizer's template) or plain")] = "auto",
    expected: Annotated[str | None, typer.Option(help="what should have been said; else what the log says")] = None,
    repair: Annotated[bool, typer.Option("--repair/--no-repair", help="try the repairs of the causes named")] = True,
    patience: Annotated[
        float, typer.Option(help="how many times as much repairs may cost as suits a model of GPT-2's size", min=0.01)
    ] = 1.0,
    readings: Annotated[
        Path | None, typer.Option(help="folder of readings of the user, made by `veriscope readings`")
    ] = None,
    topics: Annotated[
        Path | None, typer.Option(help="folder of readings of topics, made by `veriscope topics`")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="folder of finished parts; the user's cache by default")] = None,
    seed: Annotated[int, typer.Option(help="of everything that is drawn", min=0)] = 0,
) -> None:
    """From a strange answer in a chat log to its causes: a page for each log. A killed run goes on where it was."""
    from veriscope.cases.case import Options, home
    from veriscope.cases.many import gather, prepare, with_readings, with_topics, work_all
    from veriscope.cases.plain import plain
    from veriscope.report.case_folder import CaseFolder
    from veriscope.report.case_terminal import plan_table, short

    if template not in ("auto", "chat", "plain"):
        raise UserError(f"There is no template '{template}'. Give --template auto, chat or plain.")
    aside = Console(stderr=True, highlight=False, soft_wrap=True)
    wanted = (expected,) if expected else ()
    options = Options(template=template, expected=wanted, repair=repair, patience=patience, seed=seed)  # type: ignore[arg-type]
    logs, failed = gather(files)
    with aside.status("opening the model, reading the logs"):
        ready = prepare(logs, model, span, options)
        ready = with_readings(ready, readings) if readings is not None else ready
        ready = with_topics(ready, topics) if topics is not None else ready
    aside.print(plan_table(ready))
    folder = CaseFolder.of(out, [one.log for one in ready])
    with _case_bar(len(ready), aside) as told:
        found = work_all(ready, options, keep or home(), told, None if as_json else folder.write)
    if as_json:
        print(json.dumps([plain(one.case) for one in found if not isinstance(one.case, UserError)]))
    for number, one in enumerate(() if as_json else found):
        if not isinstance(one.case, UserError):
            console.print(short(one.case), highlight=False, soft_wrap=True, markup=False)
            console.print(f"page  {folder.page(number)}\n", highlight=False, soft_wrap=True, markup=False)
    if len(found) > 1 and not as_json:
        console.print(f"all   {folder.write_index(found)}", highlight=False, soft_wrap=True, markup=False)
    failed += [one.case for one in found if isinstance(one.case, UserError)]
    if failed:
        raise UserError("\n".join(map(str, failed)))


@app.command("readings")
def readings_(
    labelled: Annotated[
        Path, typer.Argument(metavar="LABELLED.jsonl", help="logs of which it is known who the user is")
    ],
    model: Annotated[str, typer.Option(help="hub id, local folder or zoo name")],
    out: Annotated[Path, typer.Option(help="folder of the readings")] = Path("veriscope-readings"),
    taxonomy: Annotated[
        Path | None, typer.Option(help="YAML of attributes; else the built-in list, and labels that it lacks")
    ] = None,
    only: Annotated[str, typer.Option(help="attributes, like trust,view; all that the labels have by default")] = "",
    seed: Annotated[int, typer.Option(help="of folds, halves, twins and draws", min=0)] = 0,
) -> None:
    """Train readings of what a model takes its user to be, and put each on trial. A killed run goes on where it was."""
    from veriscope.cases import labelled as logs
    from veriscope.cases.readings import expected_seconds, train_readings
    from veriscope.ledger import Ledger
    from veriscope.report.case_terminal import readings_table
    from veriscope.subjects import load

    aside = Console(stderr=True, highlight=False, soft_wrap=True)
    found = logs.read_labelled(labelled)
    known = logs.taxonomy(taxonomy) if taxonomy is not None else logs.attributes_of(found)
    wanted = tuple(word.strip() for word in only.split(",") if word.strip())
    if odd := [name for name in wanted if name not in {one.name for one in known}]:
        raise UserError(f"There is no attribute '{odd[0]}'. Name some of: {', '.join(one.name for one in known)}.")
    known = tuple(one for one in known if not wanted or one.name in wanted)
    with aside.status("opening the model"):
        subject = load(model)
    guess = expected_seconds(subject, found, known)
    aside.print(f"{len(found):,} labelled logs, {', '.join(one.name for one in known)}: about {max(guess, 1):.0f} s")
    out.mkdir(parents=True, exist_ok=True)
    with closing(Ledger(out / "ledger.db")) as ledger, aside.status("reading the logs") as status:
        done = train_readings(
            subject, found, known, seed=seed, told=lambda step: status.update(_escape(step)), ledger=ledger
        )
    done.save(out)
    console.print(readings_table(done))
    console.print(f"readings  {out}   use them: veriscope case LOG.json --model {model} --readings {out}",
                  highlight=False, soft_wrap=True, markup=False)  # fmt: skip


@app.command("topics")
def topics_(
    labelled: Annotated[
        Path, typer.Argument(metavar="LABELLED.jsonl", help='logs whose turns are labelled by "topic"')
    ],
    model: Annotated[str, typer.Option(help="hub id, local folder or zoo name")],
    out: Annotated[Path, typer.Option(help="folder of the readings")] = Path("veriscope-topics"),
    declared: Annotated[Path | None, typer.Option(help="YAML of topics; else the built-in list")] = None,
    error: Annotated[float, typer.Option(help="the stated error of a claim", min=0.01, max=0.5)] = 0.1,
    traps: Annotated[int, typer.Option(help="traps of each kind for each topic", min=1)] = 60,
    represented: Annotated[bool, typer.Option(help="put each topic on trial as C1 too; some seconds each")] = False,
    seed: Annotated[int, typer.Option(help="of the split and the traps", min=0)] = 0,
) -> None:
    """Train readings of what a model is working on, and hold each to its stated error, false-topic traps included."""
    from veriscope.cases.labelled import read_labelled
    from veriscope.cases.topics import expected_seconds, train_topics
    from veriscope.cases.traps import topic_list
    from veriscope.report.case_topics import topics_table
    from veriscope.subjects import load

    aside = Console(stderr=True, highlight=False, soft_wrap=True)
    found, known = read_labelled(labelled), topic_list(declared)
    with aside.status("opening the model"):
        subject = load(model)
    guess = expected_seconds(subject, found, traps)
    aside.print(
        f"{len(found):,} labelled turns: about {max(guess, 1):.0f} s{', and the trials' if represented else ''}"
    )
    with aside.status("reading the logs") as status:
        done = train_topics(
            subject, found, known, seed=seed, error=error, trap_count=traps, represented=represented,
            told=lambda step: status.update(_escape(step)),
        )  # fmt: skip
    done.save(out)
    console.print(topics_table(done))
    console.print(f"topics  {out}   use them: veriscope case LOG.json --model {model} --topics {out}",
                  highlight=False, soft_wrap=True, markup=False)  # fmt: skip


@contextmanager
def _case_bar(logs: int, shown: Console) -> Iterator[Callable[[int, str], None]]:
    """A progress bar over logs, with the step that is running; silent where nobody watches."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} logs"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task("cases", total=logs)
        yield lambda number, step: bar.update(task, completed=number, description=_escape(step))


@books.command()
def verify(
    path: Annotated[Path, typer.Argument(help="a ledger file")],
    head: Annotated[
        str | None, typer.Option(help="a hash printed in a report, to check that its rows are still here")
    ] = None,
) -> None:
    """Check every row's hash; name the first row that was changed."""
    from veriscope.ledger import Ledger

    with closing(Ledger(path, read_only=True)) as ledger:
        console.print(
            f"{path}: {ledger.verify(head)} rows, the chain is whole; head {ledger.head()}",
            highlight=False,
            soft_wrap=True,
        )


@books.command()
def show(
    path: Annotated[Path, typer.Argument(help="a ledger file")],
    kind: Annotated[str | None, typer.Option(help="study, card, look, try, evidence, verdict, failure, note")] = None,
) -> None:
    """List the rows."""
    from veriscope.ledger import Ledger

    with closing(Ledger(path, read_only=True)) as ledger:
        for row in ledger.rows(kind):
            body = json.dumps(row.body, ensure_ascii=False)
            console.print(
                f"{row.seq:5d} {row.time} {row.kind:9s} {body[:160]}", highlight=False, markup=False, soft_wrap=True
            )


@books.command()
def export(path: Path, out: Path) -> None:
    """Write the rows as JSON Lines."""
    from veriscope.ledger import Ledger

    with closing(Ledger(path, read_only=True)) as ledger:
        ledger.export(out)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True, markup=False)


@books.command()
def report(path: Path, out: Path) -> None:
    """Write the report page again from a ledger; nothing is computed."""
    from veriscope.ledger import Ledger
    from veriscope.report.page import write

    with closing(Ledger(path, read_only=True)) as ledger:
        console.print(f"wrote {write(ledger, out)}", highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
