"""Beds: models and data whose truth is known by construction. One file or folder a bed; importing this loads none."""

from __future__ import annotations


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
    return [
        ("planted (P1)", "built from a seed: veriscope.zoo.planted", "every feature, its use and its leak"),
        *shipped,
    ]
