"""The four forms: what they compute, and that they come back from disk as they were or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from veriscope.errors import BadFinding, FindingExists, PositionNeedsExamples, TwoClassesOnly, UnknownClass
from veriscope.findings import (
    Change,
    Finding,
    Origin,
    Part,
    Parts,
    Prediction,
    Reading,
    finding_hash,
    load_finding,
    save,
)
from veriscope.subjects import Add, Erase, Zero

ORIGIN = Origin(
    method="veriscope.methods.mean_difference:MeanDifference",
    settings={"site": "blocks.0.resid_post", "position": "last", "whiten": False, "seed": 0},
    subject="s" * 64,
    examples="e" * 64,
    variable="mood",
    site="blocks.0.resid_post",
    position="last",
    seed=0,
    tried=3,
)


def reading(classes: tuple[str, ...] = ("False", "True"), d: int = 6, position: str | int = "last") -> Reading:
    source = torch.Generator().manual_seed(0)
    k = 1 if len(classes) == 2 else len(classes)
    weight = torch.randn(d, k, generator=source)
    gaps = tuple(2.0 + i for i in range(k))
    return Reading(
        "blocks.0.resid_post", position, weight, torch.randn(k, generator=source), classes, torch.ones(d), ORIGIN, gaps
    )


def every_form() -> list[Finding]:
    parts = (Part("blocks.0.heads.z", 1), Part("blocks.1.mlp_out"))
    return [
        reading(),
        reading(("a", "b", "c")),
        reading().as_change("add"),
        reading().as_change("erase"),
        Parts(parts, (1.0, 0.5), (*parts, Part("blocks.2.mlp_out")), ORIGIN),
        Prediction("who", (("Anna", "kitchen"), ("Ben", "garden")), "street", ORIGIN),
    ]


@pytest.mark.parametrize("finding", every_form(), ids=lambda f: type(f).__name__)
def test_a_finding_comes_back_from_disk_as_it_was(finding: Finding, tmp_path: Path) -> None:
    back = load_finding(save(finding, tmp_path / "kept"))

    assert type(back) is type(finding)
    assert finding_hash(back) == finding_hash(finding)
    for f in dataclasses.fields(finding):
        was, now = getattr(finding, f.name), getattr(back, f.name)
        assert torch.equal(was, now) if isinstance(was, torch.Tensor) else was == now


def test_saving_twice_changes_nothing_and_saving_something_else_is_refused(tmp_path: Path) -> None:
    save(reading(), tmp_path / "kept")
    save(reading(), tmp_path / "kept")

    with pytest.raises(FindingExists, match="already holds a different finding"):
        save(reading(position=3), tmp_path / "kept")
    assert finding_hash(load_finding(tmp_path / "kept")) == finding_hash(reading())


def _json(change: object) -> object:
    def damage(folder: Path) -> None:
        record = json.loads((folder / "finding.json").read_text())
        change(record)  # type: ignore[operator]
        (folder / "finding.json").write_text(json.dumps(record))

    return damage


def _tensors(change: object) -> object:
    def damage(folder: Path) -> None:
        tensors = safetensors.torch.load_file(folder / "tensors.safetensors")
        change(tensors)  # type: ignore[operator]
        safetensors.torch.save_file(tensors, folder / "tensors.safetensors")

    return damage


DAMAGE = {
    "schema 99": _json(lambda r: r.update(schema=99)),
    "unknown entries: surprise": _json(lambda r: r.update(surprise=1)),
    "missing or unknown entries: form": _json(lambda r: r.pop("form")),
    "its form 'Pickle' is none of": _json(lambda r: r.update(form="Pickle")),
    "does not match its hash": _json(lambda r: r["finding"].update(site="elsewhere")),
    "not JSON": lambda folder: (folder / "finding.json").write_text("{"),
    "finding.json cannot be read": lambda folder: (folder / "finding.json").unlink(),
    "tensors.safetensors cannot be read": lambda folder: (folder / "tensors.safetensors").unlink(),
    "tensors.safetensors is damaged": lambda folder: (folder / "tensors.safetensors").write_bytes(b"nonsense"),
    "missing or unknown tensors: bias": _tensors(lambda t: t.pop("bias")),
    "missing or unknown tensors: more": _tensors(lambda t: t.update(more=torch.ones(1))),
    r"'weight' has shape \[5, 1\], not \[6, 1\]": _tensors(lambda t: t.update(weight=t["weight"][1:].contiguous())),
    "'bias' has values that are not finite": _tensors(lambda t: t.update(bias=t["bias"] * torch.nan)),
    "was changed after it was saved": _tensors(lambda t: t.update(bias=t["bias"] + 1)),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_damaged_finding_is_refused_with_the_reason(message: str, tmp_path: Path) -> None:
    folder = save(reading(), tmp_path / "kept")
    DAMAGE[message](folder)  # type: ignore[operator]

    with pytest.raises(BadFinding, match=message):
        load_finding(folder)


def test_a_consistent_record_of_the_wrong_shapes_is_refused(tmp_path: Path) -> None:
    from veriscope.findings import _hash, _take_apart

    plain, tensors = _take_apart(reading())
    tensors["centre"] = torch.ones(3)
    (tmp_path / "kept").mkdir()
    safetensors.torch.save_file(tensors, tmp_path / "kept" / "tensors.safetensors")
    shapes = {name: list(t.shape) for name, t in tensors.items()}
    record = {"schema": 1, "form": "Reading", "finding": plain, "tensors": shapes, "hash": _hash(plain, tensors)}
    (tmp_path / "kept" / "finding.json").write_text(json.dumps(record))

    with pytest.raises(BadFinding, match=r"centre has shape \(3,\), not \(6,\)"):
        load_finding(tmp_path / "kept")


def test_not_a_number_is_not_saved(tmp_path: Path) -> None:
    broken = dataclasses.replace(reading(), bias=torch.tensor([float("nan")]))

    with pytest.raises(BadFinding, match="not finite"):
        save(broken, tmp_path / "kept")
    assert not (tmp_path / "kept" / "finding.json").exists()


def test_a_reading_scores_and_points() -> None:
    found = reading()
    acts = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))

    assert torch.allclose(found.score(acts)[:, 0], acts @ found.weight[:, 0] + found.bias)
    assert torch.allclose(found.direction * found.weight.norm(), found.weight[:, 0])
    assert torch.allclose(found.basis.T @ found.basis, torch.eye(1), atol=1e-6)
    assert torch.allclose((found.basis[:, 0] @ found.direction).abs(), torch.tensor(1.0))


def test_the_basis_of_several_classes_spans_their_differences() -> None:
    found = reading(("a", "b", "c"))
    differences = found.weight - found.weight.mean(1, keepdim=True)

    basis = found.basis

    assert basis.shape == (6, 2)
    assert torch.allclose(basis.T @ basis, torch.eye(2), atol=1e-5)
    assert torch.allclose(basis @ (basis.T @ differences), differences, atol=1e-5)


def test_one_dose_is_one_gap_towards_the_class_named() -> None:
    found = reading()

    (edit,) = found.as_change("add").edits(dose=-0.5)
    there, back = found.as_change("add", "True").vector, found.as_change("add", "False").vector

    assert isinstance(edit.how, Add)
    assert edit.at == "last"
    assert torch.allclose(edit.how.vector, -0.5 * 2.0 * found.direction)
    assert there is not None and back is not None
    assert torch.allclose(there, -back)


def test_of_several_classes_one_must_be_named() -> None:
    found = reading(("a", "b", "c"))

    with pytest.raises(TwoClassesOnly, match="this one has 3: a, b, c"):
        found.as_change("add")
    with pytest.raises(UnknownClass, match=r"no class 'd'.*It has: a, b, c"):
        found.as_change("add", "d")
    with pytest.raises(TwoClassesOnly):
        _ = found.direction
    vector = found.as_change("add", "b").vector
    assert vector is not None
    assert float(vector.norm()) == pytest.approx(3.0, rel=1e-5)


def test_erasing_takes_the_direction_out_around_the_centre() -> None:
    found = reading()
    acts = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))

    (edit,) = found.as_change("erase").edits()

    assert isinstance(edit.how, Erase)
    after = acts - (acts - edit.how.origin) @ edit.how.right.T @ edit.how.left.T
    assert torch.allclose(after @ found.direction, (found.centre @ found.direction).expand(5), atol=1e-5)


def test_a_position_that_differs_between_examples_must_be_given() -> None:
    change = reading(position="name").as_change("add")

    with pytest.raises(PositionNeedsExamples, match=r"at=subject.where\('name', sample\)"):
        change.edits()
    assert change.edits(at=[1, 2, 3])[0].at == [1, 2, 3]


def test_a_change_is_either_an_addition_or_an_erasure() -> None:
    with pytest.raises(ValueError, match="has a vector and nothing else"):
        Change("add", "x", "last", ORIGIN)
    with pytest.raises(ValueError, match="left, right and centre"):
        Change("erase", "x", "last", ORIGIN, vector=torch.ones(3))


def test_parts_know_their_complement_and_edit_by_site() -> None:
    z = "blocks.0.heads.z"
    universe = (Part(z, 0), Part(z, 1), Part(z, 2), Part("blocks.0.mlp_out"))
    found = Parts((Part(z, 2), Part(z, 0)), (1.0, 1.0), universe, ORIGIN)

    edits = found.edits(Zero())

    assert found.mask == (True, False, True, False)
    assert found.complement().parts == (Part(z, 1), Part("blocks.0.mlp_out"))
    assert [(e.site, e.units) for e in edits] == [(z, (0, 2))]
    assert [(e.site, e.units) for e in found.complement().edits(Zero())] == [(z, (1,)), ("blocks.0.mlp_out", None)]
    with pytest.raises(ValueError, match="not in the universe"):
        Parts((Part("elsewhere"),), (1.0,), universe, ORIGIN)


def test_a_prediction_answers_what_it_lists_and_falls_back() -> None:
    found = Prediction("who", (("Anna", "kitchen"),), "street", ORIGIN)

    assert (found.predict("Anna"), found.predict("Zoe")) == ("kitchen", "street")
