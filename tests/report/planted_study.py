"""A study as a ledger would hold it, with one claim for each way of ending and hostile text wherever text can stand."""

from __future__ import annotations

from veriscope.errors import NotRun
from veriscope.ledger import Ledger
from veriscope.trials.evidence import Control, Estimate, GateResult, Spread, Verdict, to_plain

SCRIPT = "<script>alert(1)</script>"
HOSTILE = f"\"><img src=x onerror=alert(2)> {SCRIPT} ' & {'w' * 300} \u202egnp.exe\u202c שלום \x1b[31mred\x00 http://example.invalid/a"


def estimate(value: float, half: float = 0.04, n: int = 1000, clusters: int = 60) -> Estimate:
    return Estimate(value, value - half, value + half, n, clusters)


CLAIMED = estimate(0.62)


def gate(name: str, title: str, outcome: str, controls: dict[str, float], excess: float, **rest) -> GateResult:
    """A gate of the common shape: excess over the strongest control, margin 0.05 bits."""
    strongest = max(controls, key=lambda c: controls[c])
    listed = tuple(Control(c, estimate(v, 0.03)) for c, v in controls.items())
    settings = {"role": "gate", "unit": "bits", "margin": 0.05} | rest
    return GateResult(
        gate=name,
        title=title,
        outcome=outcome,
        estimate=estimate(excess),
        raw=CLAIMED,
        controls=listed,
        strongest=strongest,
        **settings,
    )


def represents(
    salmon: float = 0.02, outcome: str = "pass", note: str = "5 twins, the probe fitted afresh on each"
) -> tuple[GateResult, ...]:
    """A C1 battery; `salmon` is what the strongest random-weight twin reaches, in bits."""
    spread = Spread((-0.9, -0.2, 0.31, 0.74, 0.95, 1.0, 1.0), 0.07, "film 'The Long Wait'", 0.18)
    return (
        GateResult("i0", "planted feature", "instrument", "bits", "pass", margin=0.05, estimate=estimate(0.7)),
        GateResult("g1", "held-out clusters", "gate", "bits", "pass", margin=0.05, estimate=CLAIMED, spread=spread),
        gate(
            "g2",
            "control task",
            "pass",
            {"redrawn per type": 0.11, "redrawn per context": 0.05, "redrawn per item": 0.0},
            0.51,
        ),
        gate(
            "g3",
            "dead salmon",
            outcome,
            {"random-weight twin 1": salmon, "random-weight twin 2": 0.01},
            0.62 - salmon,
            note=note,
        ),
        gate(
            "g4", "surface baseline", "pass", {"bag of n-grams": 0.34, "majority": 0.0, "embedding probe": 0.28}, 0.28
        ),
        gate(
            "g5",
            "search-matched null",
            "pass",
            {"best of 64 random directions": 0.16, "best of 20 shuffled-label probes": 0.03},
            0.46,
        ),
        GateResult(
            "d6",
            "online code",
            "diagnostic",
            "ratio",
            "printed",
            estimate=Estimate(1.9, 1.9, 1.9, 1000, 60),
            controls=(Control("shuffled labels", Estimate(0.98, 0.98, 0.98, 1000, 60)),),
        ),
        GateResult(
            "f7",
            "shift",
            "falsifier",
            "bits",
            "quiet",
            estimate=estimate(0.5, 0.07),
            note="fires if the upper bound is under 0.310 bits",
            controls=(Control("the gate pool", CLAIMED),),
        ),
        GateResult(
            "f8",
            "capacity",
            "falsifier",
            "bits",
            "quiet",
            estimate=estimate(0.55),
            series={"training items": (250.0, 500.0, 1000.0), "bits": (0.41, 0.55, 0.62)},
        ),
        gate(
            "r9",
            "asking the model",
            "pass",
            {"asked, zero-shot": 0.21, "asked, few-shot": 0.33},
            0.29,
            role="rival",
            margin=0.0,
        ),
    )


def steers() -> tuple[GateResult, ...]:
    """A C4 battery in logits with a dose-response curve and the curve of its control."""
    doses = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
    controls = (
        Control("best of 100 random edits", estimate(0.83, 0.2)),
        Control("shuffled-label vector", NotRun("one class only")),
    )
    curve = {"dose": doses, "logits": tuple(0.9 * d for d in doses), "control": tuple(0.8 * d for d in doses)}
    return (
        GateResult(
            "g1", "dose-response", "gate", "logits", "pass", margin=0.5, estimate=estimate(0.9, 0.2), series=curve
        ),
        GateResult(
            "g2",
            "random edits",
            "gate",
            "logits",
            "unclear",
            margin=0.5,
            estimate=estimate(0.41, 0.2),
            raw=estimate(0.9, 0.2),
            controls=controls,
            strongest="best of 100 random edits",
            items_needed=1400,
        ),
        GateResult("g4", "reliability", "gate", "share", "pass", "lower", margin=0.25, estimate=estimate(0.12)),
        GateResult(
            "g5",
            "side effects",
            "gate",
            "nats",
            "not run",
            margin=0.02,
            better="within",
            note="no neutral text was given",
        ),
    )


def verdict(name: str, word: str, gates: tuple[GateResult, ...], sentence: str, **rest) -> Verdict:
    settings = {
        "claim": "C1 REPRESENTS",
        "card": f"{name:x<8.8}".encode().hex() * 4,
        "level": 2,
        "useful": False,
        "advantage": False,
        "effect": CLAIMED,
        "unit": "bits",
        "strongest_control": "bag of n-grams",
        "best_rival": "asked, few-shot",
        "not_tested": ("other languages", "longer prompts"),
        "looks": 1,
        "tries": 12,
        "seconds": 41.2,
        "error_rates": "No exam of this battery has been run yet, so its own error rates are not known.",
    } | rest
    return Verdict(name=name, word=word, gates=gates, sentence=sentence, **settings)


SUPPORTED = verdict(
    "film mood",
    "SUPPORTED",
    represents(),
    "SUPPORTED at L2+useful [C1 REPRESENTS]. In planted-model, 'positive' at blocks.6.resid_post, position last: is "
    "linearly readable. Held-out clusters: 0.62 bits [0.58, 0.66] on 1,000 items (60 clusters). Strongest control: bag "
    "of n-grams, 0.34; excess over it 0.28 bits [0.24, 0.32], margin 0.05 (g4 surface baseline).",
    useful=True,
    advantage=True,
)
REFUTED = verdict(
    "hidden truth",
    "REFUTED",
    represents(0.66, "fail"),
    "REFUTED (not supported) at the claimed size of at least 0.05 bits [C1 REPRESENTS]. "
    "A random-weight twin reads as much.",
    level=1,
    strongest_control="random-weight twin 1",
)
INCONCLUSIVE = verdict(
    "cheerful push",
    "INCONCLUSIVE",
    steers(),
    "INCONCLUSIVE (not supported) [C4 STEERS]. About 1,400 more gate items needed.",
    claim="C4 STEERS",
    level=1,
    effect=estimate(0.9, 0.2),
    unit="logits",
    strongest_control="best of 100 random edits",
    best_rival="",
    not_tested=("side effects: no neutral text was given",),
)
INVALID = verdict(
    "broken rule",
    "INVALID",
    (GateResult("i0", "planted feature", "instrument", "bits", "fail", margin=0.05, estimate=estimate(0.01)),),
    "INVALID (nothing shown either way) [C1 REPRESENTS]. The planted feature was not found: "
    "the instrument, not the claim, failed.",
    level=0,
    effect=NotRun("the instrument check was not passed"),
    strongest_control="",
    best_rival="",
    not_tested=(),
    looks=0,
)
HOSTILE_VERDICT = verdict(
    f"name {HOSTILE}",
    "REFUTED",
    (
        gate(
            "g1",
            HOSTILE,
            "fail",
            {HOSTILE: 0.6, "other": 0.1},
            0.02,
            note=HOSTILE,
            spread=Spread((0.0,) * 7, 0.5, HOSTILE, -1.0),
            series={"dose": (0.0, 1.0), HOSTILE: (0.0, 1.0)},
        ),
    ),
    HOSTILE,
    claim=HOSTILE,
    strongest_control=HOSTILE,
    best_rival=HOSTILE,
    not_tested=(HOSTILE,),
    error_rates=HOSTILE,
    unit=HOSTILE,
    effect=NotRun(HOSTILE),
    card="ab" * 32,
)

ASKS = {
    "i0": "is a feature that we planted in the same activations found?",
    "g1": "can the variable be read on clusters never seen?",
    "g2": "does it beat the same probe on labels redrawn per token type, context and item?",
    "g3": "does it beat the same probe on five random-weight twins?",
    "g4": "does it beat what can be read off the input itself?",
    "g5": "does it beat the best of as many random directions, chosen the same way?",
    "f7": "is more than half of it lost on another distribution?",
    "d6": "how much shorter than the labels themselves is an online code?",
    "r9": "does reading inside beat asking the model?",
}
PURPOSE = {
    "question": "does the model track sentiment?",
    "problem_class": "sycophancy",
    "cheaper": "ask it",
    "harm": "none known",
    "stop": "after 3 looks",
}


def study(*verdicts: Verdict, toy: bool = False, told: str = "", name: str = "reviews") -> Ledger:
    """A ledger with a study row, and for each verdict its card, its look and the verdict."""
    ledger = Ledger.in_memory()
    ledger.append(
        "study",
        {
            "name": name,
            "purpose": PURPOSE,
            "text": f"subject: planted-model\n# {told}",
            "subject": {
                "name": "planted-model",
                "hash": "6c0e608e",
                "n_parameters": 124439808,
                "toy": toy,
                "described": told,
            },
            "examples": {"reviews": {"hash": "9f" * 32, "n": 2000, "n_clusters": 120}},
            "versions": {"veriscope": "0.1.0", "torch": "2.13.0"},
        },
    )
    for v in verdicts:
        card = {
            "type": v.claim,
            "name": v.name,
            "statement": f"On the examples, '{v.name}' is readable {told}".strip(),
            "subject_name": "planted-model",
            "scope": f"English film reviews {told}".strip(),
            "smallest_effect": 0.05,
            "search": v.tries,
            "settings": {"seed": 0, "note": told},
        }
        ledger.append("card", {"hash": v.card, "name": v.name, "card": card})
        if v.looks:
            ledger.append("look", {"examples": "9f" * 32, "pool": "gate", "by": v.card, "n": 1000, "again": False})
        ledger.append(
            "verdict",
            {
                "card": v.card,
                "name": v.name,
                "seed": v.seed,
                "asks": ASKS if v.claim.startswith("C1") else {},
                "verdict": to_plain(v),
            },
        )
    return ledger
