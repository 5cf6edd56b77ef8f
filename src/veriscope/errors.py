"""Every error that a user can mend, as one tree, and the value of what was not measured.

A `UserError` says what was asked for, where that failed, and what to type next. The command line prints
it without a traceback and exits with status 2. Anything else is our bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass


class UserError(Exception):
    """Something that the person at the keyboard can mend."""


@dataclass(frozen=True)
class NotRun:
    """The value of what was not measured: never 0.0, NaN or a missing row."""

    reason: str

    def __bool__(self) -> bool:
        return False


def nearest(wanted: str, known: Sequence[str]) -> str:
    """`Did you mean 'x'? `, or nothing where no known name is close."""
    near = difflib.get_close_matches(wanted, known, n=1)
    return f"Did you mean '{near[0]}'? " if near else ""


class UnknownSite(UserError):
    """A site name that the loaded model does not have."""

    def __init__(self, wanted: str, model: str, known: Sequence[str], reason: str = "") -> None:
        why = f"It was refused at load: {reason}. " if reason else nearest(wanted, known)
        super().__init__(f"{model} has no site '{wanted}'. {why}List all {len(known)} with: veriscope sites {model}")


class UnknownMethod(UserError):
    """A method named by a word or an import path that leads nowhere."""

    def __init__(self, wanted: str, known: Sequence[str], why: str = "") -> None:
        because = f" ({why})" if why else ""
        super().__init__(
            f"There is no method '{wanted}'{because}. {nearest(wanted, known)}Known: {', '.join(known)}. "
            f"Your own is named by its import path: my_package.my_file:MyMethod"
        )


class UnknownSetting(UserError):
    """A setting that a method or rival does not have, or one it needs and was not given."""

    def __init__(self, owner: str, wanted: str, known: Sequence[str], missing: bool = False) -> None:
        what = f"needs the setting '{wanted}'. " if missing else f"has no setting '{wanted}'. {nearest(wanted, known)}"
        super().__init__(f"{owner} {what}Its settings: {', '.join(known)}")


class BadSetting(UserError):
    """A setting whose value a method or rival cannot work with."""

    def __init__(self, owner: str, setting: str, value: object, must: str) -> None:
        super().__init__(f"{owner}: {setting}={value!r} will not do; it must {must}")


class OneClass(UserError):
    """Labels that take fewer than two values, so that there is nothing to tell apart."""

    def __init__(self, variable: str, values: Sequence[str], n: int) -> None:
        found = f"only '{values[0]}'" if values else "no value at all"
        super().__init__(
            f"The label '{variable}' takes {found} in these {n} examples. Give examples with at least two values, "
            f"or name another column with label=..."
        )


class TooFewClusters(UserError):
    """Too few independent units to hold any of them out."""

    def __init__(self, found: int, needed: int, what: str) -> None:
        super().__init__(
            f"{what} holds out whole clusters and needs at least {needed}; these examples have {found}. Add examples "
            f"of other clusters, or name the column that tells them apart with cluster=..."
        )


class OnePosition(UserError):
    """A position that means several places where one is needed."""

    def __init__(self, owner: str, position: object) -> None:
        super().__init__(
            f"{owner} reads one position of each example, not {position!r}. Use 'last', 'first', a number (negative "
            f"counts from the end), or the name of a column whose text occurs in the example"
        )


class PositionNeedsExamples(UserError):
    """An edit asked for at a position that differs between examples, without saying where."""

    def __init__(self, position: str) -> None:
        super().__init__(
            f"The position '{position}' is found in each example anew. Pass at=subject.where('{position}', sample)"
        )


class TwoClassesOnly(UserError):
    """A question about the one direction of a reading that has several."""

    def __init__(self, what: str, classes: Sequence[str]) -> None:
        super().__init__(
            f"{what} exists for a reading of two classes; this one has {len(classes)}: {', '.join(classes)}. "
            f"Use basis for the space they span, or as_change('add', toward=...) for one class"
        )


class UnknownClass(UserError):
    """A class that a finding was not fitted on."""

    def __init__(self, wanted: str, known: Sequence[str]) -> None:
        super().__init__(f"The finding has no class '{wanted}'. {nearest(wanted, known)}It has: {', '.join(known)}")


class BadFinding(UserError):
    """A folder that does not hold a finding this version can read."""

    def __init__(self, folder: object, what: str) -> None:
        super().__init__(
            f"{folder} is not a finding that can be loaded: {what}. Nothing was loaded; make the finding again, or "
            f"take the folder from where it was saved"
        )


class FindingExists(UserError):
    """Saving over a different finding."""

    def __init__(self, folder: object) -> None:
        super().__init__(f"{folder} already holds a different finding. Save to another folder, or remove that first")


class BadPosition(UserError):
    """A position that some prompt does not have, or a form of position that is not known."""


class BadEdit(UserError):
    """An edit whose values do not fit the site that they are meant for."""


class BadRead(UserError):
    """A read that was not asked for, or that is ambiguous."""


class BadPrompt(UserError):
    """A prompt that can't be run: empty, or longer than the model's context."""


class BadAnswer(UserError):
    """An answer that does not begin with one clear token after its prompt."""


class NotAvailable(UserError):
    """Something that this subject can't give, such as logits of a model without an unembedding."""


class CannotLoad(UserError):
    """A model that can't be opened as it stands."""


class BadRows(UserError):
    """A file with rows that can't be used: refused whole, so that nothing is dropped in silence."""

    def __init__(self, source: str, problems: Sequence[tuple[int, str]], unit: str = "line", mend: str = "") -> None:
        self.source, self.problems = source, tuple(sorted(problems))
        shown = "\n".join(f"  {unit} {number}: {why}" for number, why in self.problems[:10])
        more = len(self.problems) - 10
        rest = f"\n  ... and {more} more" if more > 0 else ""
        advice = mend or "Correct or remove what is listed and load it again."
        super().__init__(f"{source} has {len(self.problems)} bad row(s), so none was used:\n{shown}{rest}\n{advice}")


class CannotRead(UserError):
    """A source of examples that could not be opened or understood at all."""

    def __init__(self, source: str, why: str, mend: str) -> None:
        super().__init__(f"Cannot read examples from {source}: {why}. {mend}")


class UnknownColumn(UserError):
    """A column or factor that no row has."""

    def __init__(self, wanted: str, source: str, known: Sequence[str]) -> None:
        listed = ", ".join(known) if known else "none"
        super().__init__(f"{source} has no column '{wanted}'. {nearest(wanted, known)}Its columns: {listed}")


class MissingField(UserError):
    """A field of the examples that was asked for but never filled."""

    def __init__(self, field: str, name: str, argument: str) -> None:
        super().__init__(
            f"Examples '{name}' have no {field}. "
            f'Name the column that holds it when loading: examples(..., {argument}="column")'
        )


class MixedTypes(UserError):
    """A label or cluster column whose values have several types, so that 1, "1" and True would be confused."""

    def __init__(self, column: str, source: str, first: Sequence[tuple[str, str]]) -> None:
        seen = ", ".join(f"{kind} (first: {where})" for kind, where in first)
        super().__init__(f"Column '{column}' of {source} mixes types: {seen}. Write every value the same way.")


class OneClassInPool(UserError):
    """A pool whose labels are all the same, although the file has several classes."""

    def __init__(self, column: str, pool: str, source: str) -> None:
        super().__init__(
            f"All rows of the {pool} pool of {source} have the same '{column}'. Pools are split by cluster, so each "
            "class must occur in several: add clusters, or name a finer column with cluster=..."
        )


class UnseenClass(UserError):
    """A class that the gate or shift pool holds and the dev pool does not."""

    def __init__(self, value: str, column: str, pool: str) -> None:
        super().__init__(
            f"Class '{value}' of label column '{column}' is in the {pool} pool but not in dev, so nothing fitted "
            "on dev can predict it: it sits in too few clusters. Add clusters with this class, merge it into "
            "another class, or leave its rows out."
        )


class PoolTooSmall(UserError):
    """A pool that would hold fewer than two clusters, so that no interval can be drawn over clusters."""

    def __init__(self, pool: str, n_clusters: int, total: int, source: str) -> None:
        super().__init__(
            f"The {pool} pool of {source} would hold {n_clusters} cluster(s), and needs at least 2 (of {total} in "
            "all). Pools are split by cluster: add clusters, name a finer column with cluster=..., or move dev_share."
        )


class NoPairs(UserError):
    """No row has a partner that differs where it should and agrees where it should."""

    def __init__(self, vary: str, hold: Sequence[str], n: int) -> None:
        agree = f" and agrees in {', '.join(hold)}" if hold else ""
        super().__init__(
            f"None of {n} rows has a partner in its own pool that differs in '{vary}'{agree}. Hold fewer columns, "
            "or add rows that differ in nothing but the varied column."
        )


class LedgerBroken(UserError):
    """A ledger whose past is not what was written."""

    def __init__(self, seq: int, what: str, source: str = "the ledger") -> None:
        self.seq, self.what = seq, what
        super().__init__(
            f"{source} is broken at row {seq}: {what}. Nothing from row {seq} on can be relied on; restore the file "
            "from a copy and run: veriscope ledger verify"
        )


class NotALedger(UserError):
    """A file that exists but was not written by veriscope's ledger."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path} is not a veriscope ledger: {why}. Name another file, or a new one to start a ledger.")


class LedgerUnwritable(UserError):
    """A ledger that can't take another row."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(
            f"Cannot write to the ledger {path}: {why}. Nothing was recorded, so the step was not taken. "
            "Make the file and its folder writable, or name another with VERISCOPE_LEDGER=path"
        )


class UnequalBudget(UserError):
    """A rival that was given less to tune with than the method it is held against."""

    def __init__(self, rival: str, what: str, given: int, used: int) -> None:
        super().__init__(
            f"{rival} was given {given} {what} to tune with and the method used {used}. A rival gets no less: "
            f"pass budget=Budget(..., {what}={used}) or more"
        )
