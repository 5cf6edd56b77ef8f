"""Words and numbers as the report prints them, the same on a page and in a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from veriscope.errors import NotRun
from veriscope.trials.evidence import Estimate, GateResult, Verdict, Word

# What stands first, in words that nobody can mistake. A claim that did not stand says "not supported".
PLAIN: dict[Word, str] = {
    "SUPPORTED": "Supported",
    "REFUTED": "Not supported (refuted)",
    "INCONCLUSIVE": "Not supported (inconclusive)",
    "CONDITIONAL": "Not supported in general (conditional)",
    "UNDERDETERMINED": "Not supported over its rival (underdetermined)",
    "INVALID": "Not supported (the trial itself is invalid)",
}
LEVELS = (
    "L0 stated",
    "L1 observed",
    "L2 controlled",
    "L3 causal",
    "L4 useful",
    "L5 general",
)
TOY = "Toy model only. "

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff￾￿]")
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")


TINY = 1e-12  # what sums of rounded numbers leave where nothing was


def clean(text: str) -> str:
    """Text as it may be shown: no control character, and a sign that turns the writing round is spelt out.

    Models and data may hold terminal escapes, lone surrogates and direction overrides that make a
    sentence read as another one.
    """
    visible = _TURNING.sub(lambda m: f"[U+{ord(m[0]):04X}]", text)
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", visible.replace("\r\n", "\n"))


def number(value: float, decimals: int | None = None) -> str:
    """A number with a true minus sign and thousands apart; three significant digits unless told otherwise."""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) < TINY:
        value = 0.0
    if decimals is None and 0 < abs(value) < 1e-4:
        text = f"{value:.2g}"
    elif decimals is None:
        decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
        decimals = min(decimals, 4)
        text = f"{value:,.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:,.{decimals}f}"
    negative = text.startswith("-") and text.strip("-0.,")
    return ("−" if negative else "") + text.lstrip("-")


def decimals_for(width: float) -> int:
    """Digits worth printing where numbers spread over a width: the width itself in one to two significant ones."""
    if not (0 < width < math.inf):
        return 2
    return min(4, max(0, math.ceil(0.5 - math.log10(width))))


def amount(estimate: Estimate | NotRun, unit: str = "", beside: Estimate | NotRun | None = None) -> str:
    """`0.41 [0.36, 0.46] bits`, or why there is none; as exact as what it stands `beside`, if that is named."""
    if isinstance(estimate, NotRun):
        return f"not run: {estimate.reason}"
    if estimate.low == estimate.value == estimate.high:
        return f"{number(estimate.value)} {unit}".rstrip()  # counted once, so without an interval
    like = beside if isinstance(beside, Estimate) and beside.high > beside.low else estimate
    d = decimals_for(like.high - like.low)
    bounds = f"[{number(estimate.low, d)}, {number(estimate.high, d)}]"
    return f"{number(estimate.value, d)} {bounds} {unit}".rstrip()


def level(verdict: Verdict) -> str:
    """`L2`, or `L2+useful`: being of use runs beside the levels."""
    return f"L{verdict.level}{'+useful' if verdict.useful else ''}"


def asked(gate: GateResult) -> str:
    """What the gate holds its estimate against: `> 0.05 bits`."""
    if gate.margin is None:
        return "must stay quiet" if gate.role == "falsifier" else "printed, not tested"
    sign = {"higher": ">", "lower": "<", "within": "within ±"}[gate.better]
    return f"{sign} {number(gate.margin)} {gate.unit}".replace("± ", "±")


def control_named(verdict: Verdict, name: str) -> Estimate | NotRun | None:
    """The estimate of a control or rival by its name, if a gate kept one."""
    for gate in verdict.gates:
        for control in gate.controls:
            if control.name == name:
                return control.estimate
    return None


def named(verdict: Verdict, name: str) -> str:
    """A control's or rival's name with its estimate where a gate kept one."""
    if not name:
        return "none recorded"
    estimate = control_named(verdict, name)
    return name if estimate is None else f"{name}: {amount(estimate, beside=verdict.effect)}"


def headline(verdicts: Sequence[Verdict], *, toy: bool) -> str:
    """The first line of a report: one verdict in plain words, or how many claims stood and how many did not."""
    first = TOY if toy else ""
    if not verdicts:
        return f"{first}Not supported: no verdict was reached"
    if len(verdicts) == 1:
        (verdict,) = verdicts
        at = f" at {level(verdict)}" if verdict.word == "SUPPORTED" else ""
        return f"{first}{PLAIN[verdict.word]}{at}: {verdict.name}"
    stood = sum(v.word == "SUPPORTED" for v in verdicts)
    if stood == len(verdicts):
        return f"{first}{stood} of {len(verdicts)} claims supported"
    failed = len(verdicts) - stood
    return f"{first}{failed} of {len(verdicts)} claims not supported, {stood} supported"
