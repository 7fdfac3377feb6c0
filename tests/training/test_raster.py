"""The raster: lines lie where they should, letters are distinct, joints don't darken."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.training.raster import STROKES, Canvas


def darkness(canvas: Canvas) -> np.ndarray:
    return 255.0 - canvas._pixels[..., 0]


def test_a_line_covers_its_own_width():
    canvas = Canvas(40, 20, 1)
    canvas.line([(5, 10), (35, 10)], "#000000", width=4)
    column = darkness(canvas)[:, 20] / 255
    assert column.sum() == pytest.approx(4, abs=0.01)
    assert np.flatnonzero(column).tolist() == [8, 9, 10, 11]
    assert darkness(canvas)[:, :2].sum() == 0


def test_joints_of_a_translucent_line_are_no_darker():
    canvas = Canvas(40, 20, 1)
    canvas.line([(5, 10), (20, 10), (35, 10)], "#000000", width=4, opacity=0.5)
    assert darkness(canvas).max() == pytest.approx(127.5)


def test_colors():
    canvas = Canvas(10, 10, 1)
    canvas.line([(5, 5), (5, 5)], "#2563eb", width=6)
    assert canvas._pixels[5, 5].tolist() == [0x25, 0x63, 0xEB]


def test_what_lies_outside_is_cut():
    canvas = Canvas(10, 10, 2)
    canvas.line([(-50, -50), (-20, -20)], "#000000")
    assert darkness(canvas).sum() == 0
    canvas.line([(-50, 5), (50, 5)], "#000000", width=2)
    assert (darkness(canvas)[10] > 0).all()


def test_letters_are_distinct():
    drawn = {}
    for letter in STROKES:
        canvas = Canvas(20, 24, 2)
        canvas.text((4, 18), letter, "#000000", size=16, anchor="start")
        assert darkness(canvas).sum() > 0, letter
        assert darkness(canvas)[:, [0, -1]].sum() == 0, letter
        drawn.setdefault(darkness(canvas).tobytes(), []).append(letter)
    assert [same for same in drawn.values() if len(same) > 1] == []


@pytest.mark.parametrize(("anchor", "at"), [("start", 10), ("middle", 50), ("end", 90)])
def test_anchors(anchor, at):
    canvas = Canvas(100, 30, 1)
    canvas.text((at, 20), "0000", "#000000", size=12, anchor=anchor)
    columns = np.flatnonzero(darkness(canvas).sum(axis=0))
    edges = {"start": columns[0], "middle": columns.mean(), "end": columns[-1]}
    assert edges[anchor] == pytest.approx(at, abs=1.6)


def test_unknown_letters_are_boxes_and_blanks_are_blank():
    one, other = Canvas(20, 20, 1), Canvas(20, 20, 1)
    one.text((2, 15), "→", "#000000", size=12, anchor="start")
    assert darkness(one).sum() > 0
    other.text((2, 15), "   ", "#000000", size=12, anchor="start")
    other.text((2, 15), "", "#000000", size=12, anchor="start")
    assert darkness(other).sum() == 0
