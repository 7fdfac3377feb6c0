"""The loss curves of a run as loss.svg and loss.png, with nothing but numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.training.raster import Canvas

WIDTH, HEIGHT = 860, 480
LEFT, RIGHT, TOP, BOTTOM = 72, 28, 64, 56
INK, MUTED, GRID, TRAIN, EVAL = "#1f2430", "#6b7280", "#e8eaee", "#2563eb", "#ea580c"
MOST_POINTS = 400
"""Longer curves are averaged into so many points: more can't be seen."""

Point = tuple[float, float]


class Line(NamedTuple):
    points: list[Point]
    color: str
    width: float = 1.0
    opacity: float = 1.0


class Dot(NamedTuple):
    at: Point
    color: str
    radius: float = 3.5


class Words(NamedTuple):
    at: Point
    text: str
    color: str = MUTED
    size: float = 12.0
    anchor: str = "start"
    """start, middle or end: which part of the text lies at the point."""


Shape = Line | Dot | Words


def write(metrics: Iterable[Mapping[str, Any]], folder: Path, title: str = "") -> bool:
    """Writes loss.svg and loss.png.

    Args:
        metrics: Lines of metrics.jsonl.
        folder: Where to.
        title: Usually the run's id.

    Returns:
        Whether there was anything to draw.
    """
    lines = list(metrics)
    train, evals = curve(lines, "loss"), curve(lines, "eval_loss")
    if not train and not evals:
        return False
    shapes = layout(train, evals, title)
    _replace(folder / "loss.svg", to_svg(shapes, title).encode())
    _replace(folder / "loss.png", to_png(shapes))
    return True


def curve(lines: Iterable[Mapping[str, Any]], name: str) -> list[Point]:
    """(step, value) of the lines that have a finite value of that name."""
    return [
        (float(line["step"]), float(line[name]))
        for line in lines
        if isinstance(line.get(name), int | float) and math.isfinite(line[name])
    ]


def layout(train: Sequence[Point], evals: Sequence[Point], title: str) -> list[Shape]:
    """What to draw where, in pixels from the top left."""
    everything = [*train, *evals]
    x_ticks = ticks(min(0.0, *(x for x, _ in everything)), max(1.0, *(x for x, _ in everything)), 8)
    lows, highs = min(y for _, y in everything), max(y for _, y in everything)
    y_ticks = ticks(lows, highs if highs > lows else lows + 1.0, 6)
    right = max(x for x, _ in everything) or 1.0

    def at(point: Point) -> Point:
        x = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / right
        share = (point[1] - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return x, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    short = title if len(title) <= 44 else f"{title[:41]}..."
    shapes: list[Shape] = [Words((LEFT, 30), short, INK, 15.0)]
    for y in y_ticks:
        row = at((0, y))[1]
        shapes.append(Line([(LEFT, row), (WIDTH - RIGHT, row)], GRID))
        shapes.append(Words((LEFT - 10, row + 4), number(y, y_ticks), anchor="end"))
    for x in x_ticks:
        if 0 <= x <= right:
            column = at((x, y_ticks[0]))[0]
            shapes.append(
                Words((column, HEIGHT - BOTTOM + 20), number(x, x_ticks), anchor="middle")
            )
    base = HEIGHT - BOTTOM
    shapes.append(Line([(LEFT, base), (WIDTH - RIGHT, base)], MUTED))
    middle = (LEFT + WIDTH - RIGHT) / 2
    shapes.append(Words((middle, HEIGHT - 14), "step", anchor="middle"))
    shapes.append(Words((LEFT - 10, TOP - 14), "loss", anchor="end"))
    shapes += _curves([at(p) for p in thin(train)], [at(p) for p in evals])
    return shapes + _legend(train, evals)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers that span low to high, at steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float, among: Sequence[float]) -> str:
    """A tick's text: just the decimals that its neighbours need."""
    step = abs(among[1] - among[0]) if len(among) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{decimals}f}"


def thin(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS points: means of equal runs of neighbours."""
    if len(points) <= MOST_POINTS:
        return list(points)
    edges = [round(i * len(points) / MOST_POINTS) for i in range(MOST_POINTS + 1)]
    groups = [points[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def smooth(points: Sequence[Point], span: int) -> list[Point]:
    """Means over `span` neighbours on either side, fewer near the ends: centred, so that a falling
    curve is not shown above its points."""
    sums = list(accumulate((y for _, y in points), initial=0.0))
    smoothed = []
    for i, (x, _) in enumerate(points):
        reach = min(span, i, len(points) - 1 - i)
        smoothed.append((x, (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)))
    return smoothed


def to_svg(shapes: Iterable[Shape], title: str = "") -> str:
    """The drawing as an SVG document."""
    body = "\n".join(_svg(shape) for shape in shapes)
    name = escape(f"loss of {title}" if title else "loss")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{name}" '
        'font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif">\n'
        f"<title>{name}</title>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def to_png(shapes: Iterable[Shape], scale: float = 2.0) -> bytes:
    """The drawing as a PNG file of `scale` times as many pixels."""
    canvas = Canvas(WIDTH, HEIGHT, scale)
    for shape in shapes:
        if isinstance(shape, Line):
            canvas.line(shape.points, shape.color, shape.width, shape.opacity)
        elif isinstance(shape, Dot):
            canvas.line([shape.at, shape.at], shape.color, 2 * shape.radius)
        else:
            canvas.text(shape.at, shape.text, shape.color, size=shape.size, anchor=shape.anchor)
    return canvas.png()


def _curves(train: list[Point], evals: list[Point]) -> list[Shape]:
    shapes: list[Shape] = []
    if len(train) >= 30:  # the noise stays visible behind the trend
        shapes.append(Line(train, TRAIN, 1.2, 0.28))
        shapes.append(Line(smooth(train, len(train) // 30), TRAIN, 2.2))
    elif len(train) > 1:
        shapes.append(Line(train, TRAIN, 2.2))
    if len(train) == 1:
        shapes.append(Dot(train[0], TRAIN))
    if len(evals) > 1:
        shapes.append(Line(evals, EVAL, 2.2))
    return shapes + [Dot(point, EVAL) for point in (evals if len(evals) <= 40 else [])]


def _legend(train: Sequence[Point], evals: Sequence[Point]) -> list[Shape]:
    """Name and last value of each curve, at the top right."""
    shapes: list[Shape] = []
    x = WIDTH - RIGHT
    for name, points, color in (("eval", evals, EVAL), ("train", train, TRAIN)):
        if points:
            text = f"{name} {points[-1][1]:.4g}"
            x -= 8.2 * len(text)  # as wide as the letters of loss.png; a browser's are narrower
            shapes.append(Words((x, 30), text, INK, 13.0))
            x -= 10
            shapes.append(Line([(x - 18, 25.5), (x, 25.5)], color, 3.0))
            x -= 42
    return shapes


def _svg(shape: Shape) -> str:
    if isinstance(shape, Line):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        fade = f' stroke-opacity="{shape.opacity:g}"' if shape.opacity < 1 else ""
        return (
            f'<polyline points="{points}" fill="none" stroke="{shape.color}" '
            f'stroke-width="{shape.width:g}"{fade} stroke-linejoin="round" stroke-linecap="round"/>'
        )
    x, y = shape.at
    if isinstance(shape, Dot):
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{shape.radius:g}" fill="{shape.color}"/>'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{shape.size:g}" fill="{shape.color}" '
        f'text-anchor="{shape.anchor}">{escape(shape.text)}</text>'
    )


def _replace(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_bytes(data)
    aside.replace(path)
