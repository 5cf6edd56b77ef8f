"""Rows of the beds for study files: `examples: {scenes: {bed: town, skill: scene_place, n: 2000, label: place}}`.

One function a bed: skill, number and seed in; plain rows with every hidden factor as a column out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from veriscope.errors import UserError, nearest


def town(skill: str | None, n: int, seed: int) -> list[dict[str, Any]]:
    """Held-out rows of a skill of the bed town.

    Columns: text, answer, foil, template, every factor by its name (nested ones in brackets are left out), and
    derived ones: `place`, `colour` or `mood` of the asked one, `truth` of a statement and the `pair` of things it is
    about, `opened` (a filler sentence comes first). Two columns are made to be false claims of: `coin`, drawn for
    each text, and `charm`, drawn once for each asked thing, name or subject.
    """
    from veriscope.zoo.town.grammar import SKILLS, rows, true_claim

    if skill not in SKILLS:
        raise UserError(
            f"The bed town has no skill '{skill}'. {nearest(str(skill), list(SKILLS))}Known: {', '.join(SKILLS)}"
        )
    out = []
    for row in rows(skill, n, seed):
        factors = dict(row.factors)
        flat = {k: str(v) for k, v in factors.items() if isinstance(v, str | int | bool)}
        if "stated" in factors:
            flat |= {"truth": str(true_claim(factors)), "pair": f"{factors['subject']} {factors['relation']}"}
        if "asked" in factors:
            asked = factors["asked"]
            flat |= {k[:-1]: factors[k][asked] for k in ("places", "colours", "moods") if asked in factors.get(k, {})}
        if "opening" in factors:
            flat["opened"] = str(bool(factors["opening"]))
        named = str(factors.get("asked") or factors.get("subject") or row.answer)
        flat |= {"named": named, "charm": _coin(f"charm {named}"), "coin": _coin(f"{seed} {row.text}")}
        out.append({"text": row.text, "answer": row.answer, "foil": row.foil, "template": row.template, **flat})
    return out


def _coin(key: str) -> str:
    return ("no", "yes")[hashlib.sha256(key.encode()).digest()[0] & 1]


def planted(skill: str | None, n: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the bed P1; `skill` is not used, any of its variables may be the label."""
    from veriscope.zoo.planted import Planted

    return Planted(seed=seed, rows=n).table()


BEDS: Mapping[str, Any] = {"town": town, "planted": planted}
