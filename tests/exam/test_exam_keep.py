"""What is kept, and what it hangs on: another bed, setting, engine seed or code is another outcome."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from made import an_exam, outcome

from veriscope.errors import UserError
from veriscope.exam import keep as keep_module
from veriscope.exam.beds import ZOO, UnknownBed, beds, plantings
from veriscope.exam.code import code_hash
from veriscope.exam.keep import Keep, home, key_of
from veriscope.exam.planting import Planting
from veriscope.zoo import BUILT, listing


def test_outcomes_come_back_as_they_were(tmp_path: Path) -> None:
    kept, every = Keep(tmp_path / "new"), an_exam(2)
    for one in every:
        kept.add(one)

    assert list(kept.find("C9", {o.key for o in every}).values()) == every
    assert kept.find("C9", {every[3].key}) == {every[3].key: every[3]}
    assert kept.find("C1", {every[3].key}) == {}


def test_a_line_cut_short_is_passed_over_and_the_next_one_begins_anew(tmp_path: Path) -> None:
    kept, (one, two, *_) = Keep(tmp_path), an_exam(1)
    kept.add(one)
    path = tmp_path / "C9.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")

    kept.add(two)

    assert kept.find("C9", {one.key, two.key}) == {two.key: two}


def test_the_last_of_several_rows_counts(tmp_path: Path) -> None:
    kept, one = Keep(tmp_path), outcome(True, "T0")
    kept.add(one)
    kept.add(replace(one, word="REFUTED"))

    assert kept.find("C9", {one.key})[one.key].word == "REFUTED"


def test_the_key_hangs_on_bed_settings_engine_seed_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Planting("C1", True, "T0", "x", "own_bed:build", (("seed", 1), ("n", 2)))
    keys = [
        key_of("own_bed", one, 1),
        key_of("other", one, 1),
        key_of("own_bed", one, 2),
        key_of("own_bed", replace(one, settings=(("seed", 1), ("n", 3))), 1),
    ]
    monkeypatch.setattr(keep_module, "code_hash", lambda *modules: "other code")
    keys.append(key_of("own_bed", one, 1))

    assert len(set(keys)) == len(keys)
    assert key_of("own_bed", replace(one, trap="renamed", grade="T2"), 1) == keys[-1]


def test_code_counts_and_comments_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "some_beds"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text("from some_beds import deep\nX = deep.Y\n", encoding="utf-8")

    def hashed(text: str) -> str:
        (package / "deep.py").write_text(text, encoding="utf-8")
        code_hash.cache_clear()
        return code_hash("some_beds.one")

    plain = hashed("def f():\n    return 1\n")

    assert hashed('"""Said of the file."""\n\ndef f():  # why\n    """Said of it."""\n    return (1)\n') == plain
    assert hashed("def f():\n    return 2\n") != plain


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert home() == tmp_path / "veriscope-exam"


# --- beds


def test_beds_that_are_not_built_are_left_out_of_all_and_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veriscope.exam.beds.ZOO", (*ZOO, "unbuilt"))

    assert "planted" in beds("all") and "unbuilt" not in beds("all")
    with pytest.raises(UnknownBed, match=r"no bed 'unbuilt'.*--bed my_package.my_bed"):
        beds("unbuilt")
    with pytest.raises(UnknownBed, match="Did you mean 'planted'"):
        beds("plantd")
    with pytest.raises(UnknownBed, match="has no function 'plantings'"):
        beds("veriscope.errors:")
    assert list(beds("own_bed:")) == ["own_bed"]


def test_grade_and_trap_choose_among_what_is_planted() -> None:
    found = plantings("planted", ("C1",), 2, grade="F1", trap="LEAKED")

    assert [p.trap for _, p in found] == ["leaked in the input"] * 2
    of_f1 = Counter(p.trap for _, p in plantings("planted", ("C1",), 5, grade="F1"))
    assert set(of_f1.values()) == {-(-5 // len(of_f1))}  # five shared among the kinds of the grade, rounded up
    assert set(Counter(p.trap for _, p in plantings("planted", ("C1",), 2, each_kind=True)).values()) == {2}
    with pytest.raises(UserError, match=r"grade F9.*Planted there: .*C1 F0 null label"):
        plantings("planted", ("C1",), 1, grade="F9")
    with pytest.raises(UserError, match=r"no claim type 'C13'.*C1, C2, C3, C4"):
        plantings("planted", ("C13",), 1)


def test_final_claims_share_no_seed_with_development_ones() -> None:
    seeds = [{dict(p.settings)["seed"] for _, p in plantings("own_bed", ("C1",), 5, final=f)} for f in (False, True)]

    assert not seeds[0] & seeds[1]


def test_every_bed_that_is_built_is_listed_with_what_is_known_of_it() -> None:
    assert tuple(BUILT) == ZOO
    listed = [bed for bed, *_ in listing()]
    assert listed[: len(ZOO)] == [f"{name} ({short})" for name, (short, _) in BUILT.items()]
