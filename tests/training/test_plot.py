"""Loss curves: the SVG is well formed and says what it shows, the PNG is a PNG."""

from __future__ import annotations

import math
import struct
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tunesmith.training import plot

LINES = [{"step": s, "loss": 2 + 4 * math.exp(-s / 20)} for s in range(1, 101)]
LINES += [{"step": s, "eval_loss": 3.0 - s / 100} for s in (0, 50, 100)]


def svg(lines, title=""):
    shapes = plot.layout(plot.curve(lines, "loss"), plot.curve(lines, "eval_loss"), title)
    return ET.fromstring(plot.to_svg(shapes, title))


def texts(root):
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def pixels(png: bytes) -> np.ndarray:
    """Decodes a PNG of our own kind, checking every checksum."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, size = 8, b"", (0, 0)
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", png[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(kind + body)
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        if kind == b"IDAT":
            data += body
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(size[1], 1 + 3 * size[0])
    return rows[:, 1:].reshape(size[1], size[0], 3)


def test_both_files_are_written(tmp_path):
    assert plot.write(LINES, tmp_path, "20261121-0655-sft-tiny-k7f3")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["loss.png", "loss.svg"]
    root = ET.parse(tmp_path / "loss.svg").getroot()
    assert root.get("viewBox") == "0 0 860 480"
    image = pixels((tmp_path / "loss.png").read_bytes())
    assert image.shape == (960, 1720, 3)
    for color in (plot.TRAIN, plot.EVAL):
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (image == wanted).all(axis=-1).sum() > 500


def test_it_says_what_it_shows():
    found = texts(svg(LINES, "my <run> & more"))
    assert found[0] == "my <run> & more"
    assert "train 2.027" in found
    assert "eval 2" in found
    assert {"step", "loss", "0", "100"} <= set(found)


def test_curves_end_where_the_data_ends():
    root = svg(LINES)
    lines = [e for e in root.iter("{http://www.w3.org/2000/svg}polyline")]
    (evals,) = [e for e in lines if e.get("stroke") == plot.EVAL and e.get("stroke-width") == "2.2"]
    points = [tuple(map(float, p.split(","))) for p in evals.get("points").split()]
    assert [x for x, _ in points] == pytest.approx([72, 452, 832], abs=0.1)
    assert points[0][1] < points[1][1] < points[2][1]


def test_nothing_to_draw(tmp_path):
    assert not plot.write([], tmp_path)
    assert not plot.write([{"step": 1, "loss": float("nan")}, {"step": 2}], tmp_path)
    assert list(tmp_path.iterdir()) == []


NUMBERS = st.floats(-1e6, 1e6, allow_nan=False) | st.sampled_from([math.nan, math.inf, 0.0, 1e-9])


@given(st.lists(st.tuples(st.integers(0, 10**6), NUMBERS), max_size=30), st.text(max_size=60))
def test_any_history_can_be_drawn(history, title):
    lines = [{"step": step, "loss": value} for step, value in sorted(history)]
    if plot.curve(lines, "loss"):
        printable = "".join(c for c in title if c.isprintable())
        for element in svg(lines, printable).iter("{http://www.w3.org/2000/svg}polyline"):
            for point in element.get("points").split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= plot.WIDTH
                assert 0 <= y <= plot.HEIGHT


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e5), st.integers(2, 10))
def test_ticks_span_the_data_in_round_steps(low, span, most):
    found = plot.ticks(low, low + span, most)
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= low + span - 1e-6 * step
    assert len(found) <= most + 2
    leading = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(leading - m) for m in (1, 2, 5, 10)) < 1e-3


def test_tick_texts_have_just_the_decimals_they_need():
    assert [plot.number(v, [0.0, 0.005]) for v in (0.0, 0.005)] == ["0.000", "0.005"]
    assert plot.number(1000.0, [0.0, 200.0]) == "1000"


def test_long_curves_are_thinned_to_means():
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    thinned = plot.thin(points)
    assert len(thinned) == plot.MOST_POINTS
    assert sum(y for _, y in thinned) / len(thinned) == pytest.approx(0.5)
    assert plot.thin(points[:10]) == points[:10]


def test_smoothing_does_not_lag():
    """A straight slope stays where it is; noise shrinks."""
    slope = [(float(i), 10.0 - i) for i in range(50)]
    assert [y for _, y in plot.smooth(slope, 5)] == pytest.approx([y for _, y in slope])
    noise = [(float(i), float((-1) ** i)) for i in range(50)]
    assert max(abs(y) for _, y in plot.smooth(noise, 5)[5:-5]) < 0.1


def test_hostile_titles_stay_text():
    text = plot.to_svg(plot.layout([(1.0, 1.0)], [], '"><script>x</script>'), '"><script>')
    assert "<script" not in text
    ET.fromstring(text)
