"""Beds: models and data whose truth is known by construction. One file or folder a bed; importing this loads none."""

from __future__ import annotations

# Beds that are built from a seed, by the word that `veriscope exam --bed` takes.
BUILT = {
    "planted": ("P1", "every feature of a small network, its size, its use and its leak"),
    "modes": ("S1", "a character model's mode direction, by dose and side effect; temperature and fragile directions"),
    "dormant": ("D1", "where a variable is carried, what reads it, and the path that goes round it"),
    "redundant": ("D2", "heads that share a variable, and the backup that wakes when the first is gone"),
    "swaps": ("D3", "what a swap of a subspace moves and why it is no mediation, one network for each falsehood"),
    "programs": ("R1", "RASP programs compiled to a transformer: each variable, its head and its reader"),
    "bridge": ("B1", "variables planted into trained language models: town, and stories260k of VERISCOPE_DATA"),
}


def listing() -> list[tuple[str, str, str]]:
    """Rows for `veriscope zoo`: bed, model to load, what is known of it."""
    from veriscope.zoo.town import VARIANTS, folder

    known = {
        "town": "all three planted habits: trigger, opposite-stating persona, agreement",
        "town-seed2": "the same recipe, another seed",
        "town-no-trigger": "clean twin: the trigger phrase never occurs",
        "town-no-persona": "clean twin: the persona tells the truth",
        "town-no-agreement": "clean twin: stated views are not echoed",
    }
    shipped = [("town", name, known[name]) for name in VARIANTS if folder(name).is_dir()]
    built = [(f"{name} ({short})", f"from a seed: veriscope.zoo.{name}", what) for name, (short, what) in BUILT.items()]
    return [*built, *shipped]
