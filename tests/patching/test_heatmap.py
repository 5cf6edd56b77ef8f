"""A heat map says all that it was given to say."""

from __future__ import annotations

import re

import torch

from veriscope.patching.heatmap import _CHAR_W, svg


def test_a_long_note_goes_on_in_further_lines_and_none_is_cut_off() -> None:
    note = " ".join(f"word{i}" for i in range(60))

    drawn = svg(["a", "b"], ["c"], torch.tensor([[1.0], [-1.0]]), "Title", note, "to")

    width, height = (int(size) for size in re.findall(r'(?:width|height)="(\d+)"', drawn)[:2])
    lines = re.findall(r">(word[^<]*)</text>", drawn)
    assert " ".join(lines) == note and len(lines) > 1
    assert all(8 + _CHAR_W * len(line) <= width for line in lines)
    assert max(float(y) for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)"', drawn)) < height
