"""Bed R1: RASP programs compiled to a small transformer, with rotations, noise, duplicated branches and idle heads."""

from __future__ import annotations

from veriscope.zoo.programs.bed import Fact, ProgramBed
from veriscope.zoo.programs.claims import plantings
from veriscope.zoo.programs.compiler import Compiled, compile_program
from veriscope.zoo.programs.effects import interchange_accuracy, removal_effect, self_test
from veriscope.zoo.programs.rasp import Program, interpret

__all__ = [
    "Compiled", "Fact", "Program", "ProgramBed", "compile_program", "interchange_accuracy", "interpret", "plantings",
    "removal_effect", "self_test",
]  # fmt: skip
