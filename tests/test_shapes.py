"""The shape checks of the tests themselves: where they were not installed, nothing would be heard of it."""

from __future__ import annotations

import ast

import pytest
import torch
from jaxtyping import TypeCheckError

import shapes
from veriscope.findings import Origin, Reading
from veriscope.methods.mean_difference import class_means

ORIGIN = Origin("m:M", {}, "model", "rows", "tone", "x", "last", seed=0, tried=1)


def test_axes_of_one_name_must_agree() -> None:
    acts, codes, train = torch.zeros(4, 2), torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool)

    assert class_means(acts, codes, train, 2).shape == (1, 2, 2)
    for wrong in (torch.zeros(5, 2), torch.zeros(4, 2, 1), torch.zeros(4, 2, dtype=torch.int64)):
        with pytest.raises(TypeCheckError):
            class_means(wrong, codes, train, 2)


def test_fields_of_a_dataclass_must_agree() -> None:
    def reading(centre: int) -> Reading:
        weight, bias = torch.zeros(3, 1), torch.zeros(1)
        return Reading("x", "last", weight, bias, ("a", "b"), torch.zeros(centre), ORIGIN, (1.0,))

    assert reading(3).centre.shape == (3,)
    with pytest.raises(TypeCheckError):
        reading(4)


def test_only_what_states_a_shape_is_checked() -> None:
    source = """
from __future__ import annotations
def f(a: int, *b: str) -> int: ...
def g(a: Float[Tensor, "x"]) -> int: ...
class A:
    a: int
    @property
    def b(self) -> tuple[int, Int[Tensor, "x"] | None]:
        def c(*a: Bool[Tensor, "y"]) -> None: ...
@dataclass
class B:
    a: Float[Tensor, "x y"]
"""
    tree = shapes._Stated().visit(ast.parse(source))

    marked = {
        getattr(node, "name", ""): [ast.unparse(d) for d in node.decorator_list]
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    mark = "checked_shapes"
    assert marked == {"f": [], "g": [mark], "A": [], "b": ["property", mark], "c": [mark], "B": [mark, "dataclass"]}
