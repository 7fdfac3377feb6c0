"""A small anti-aliased raster: lines and stroked letters onto pixels, pixels into a PNG file."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Point = tuple[float, float]

# Letters as pen strokes on a grid 4 wide and 6 high (0 is the top, 6 the base line, 8 a tail):
# two digits a point, a blank between points, a comma between strokes.
STROKES = {
    "0": "10 30 41 45 36 16 05 01 10",
    "1": "11 20 26, 16 36",
    "2": "01 10 30 41 42 06 46",
    "3": "01 10 30 41 42 33 13, 33 44 45 36 16 05",
    "4": "30 04 44, 30 36",
    "5": "40 00 03 33 44 45 36 16 05",
    "6": "41 30 10 01 05 16 36 45 44 33 03",
    "7": "00 40 16",
    "8": "13 02 01 10 30 41 42 33 13 04 05 16 36 45 44 33",
    "9": "05 16 36 45 41 30 10 01 02 13 43",
    "a": "03 12 32 43 46, 44 14 05 16 36 45",
    "b": "00 06, 03 12 32 43 45 36 16 05",
    "c": "43 32 12 03 05 16 36 45",
    "d": "40 46, 43 32 12 03 05 16 36 45",
    "e": "04 44 43 32 12 03 05 16 36 45",
    "f": "40 30 21 26, 02 42",
    "g": "43 32 12 03 05 16 36 45, 42 47 38 18 07",
    "h": "00 06, 03 12 32 43 46",
    "i": "12 22 26, 16 36, 20 20",
    "j": "22 32 37 28 18, 30 30",
    "k": "00 06, 42 04 46",
    "l": "10 20 26, 16 36",
    "m": "06 02, 03 12 23 26, 23 32 43 46",
    "n": "06 02, 03 12 32 43 46",
    "o": "12 32 43 45 36 16 05 03 12",
    "p": "02 08, 03 12 32 43 45 36 16 05",
    "q": "42 48, 43 32 12 03 05 16 36 45",
    "r": "06 02, 03 12 32 43",
    "s": "43 32 12 03 14 34 45 36 16 05",
    "t": "20 25 36 46, 02 42",
    "u": "02 05 16 36 45, 42 46",
    "v": "02 26 42",
    "w": "02 16 23 36 42",
    "x": "02 46, 42 06",
    "y": "02 26, 42 18 08",
    "z": "02 42 06 46",
    ".": "26 26",
    "-": "04 44",
    "+": "04 44, 22 26",
    "_": "07 47",
    ":": "23 23, 26 26",
    "/": "40 06",
    "=": "03 43, 05 45",
    "%": "40 06, 00 00, 46 46",
    "(": "30 21 25 36",
    ")": "10 21 25 16",
}
UNKNOWN = "02 42 46 06 02"
ADVANCE = 5.6
"""From one letter to the next, in grid units."""


class Canvas:
    """White pixels to draw on; coordinates are in points, `scale` pixels each."""

    def __init__(self, width: int, height: int, scale: float):
        self.scale = scale
        shape = round(height * scale), round(width * scale), 3
        self._pixels = np.full(shape, 255.0, dtype=np.float32)

    def line(
        self, points: Sequence[Point], color: str, width: float = 1.0, opacity: float = 1.0
    ) -> None:
        """A polyline with round ends; two equal points make a dot."""
        self._blend([points], color, width, opacity)

    def text(self, at: Point, text: str, color: str, *, size: float, anchor: str) -> None:
        """Letters whose base line starts (anchor start), centres (middle) or ends (end) at `at`.

        Capitals are drawn as small letters; letters the font lacks as a box.
        """
        unit = size * 0.72 / 6  # capitals are about 0.72 of the font size
        length = (len(text) * ADVANCE - (ADVANCE - 4)) * unit
        x = at[0] - {"start": 0.0, "middle": length / 2, "end": length}[anchor]
        y = at[1] - 6 * unit
        strokes: list[list[Point]] = []
        for letter in text.lower():
            for stroke in STROKES.get(letter, "" if letter == " " else UNKNOWN).split(","):
                points = [(x + int(p[0]) * unit, y + int(p[1]) * unit) for p in stroke.split()]
                if points:
                    strokes.append(points)
            x += ADVANCE * unit
        if strokes:
            self._blend(strokes, color, size * 0.1, 1.0)

    def png(self) -> bytes:
        """The pixels as a PNG file, 8 bits a channel."""
        pixels = np.rint(self._pixels).astype(np.uint8)
        height, width, _ = pixels.shape
        rows = np.zeros((height, 1 + width * 3), dtype=np.uint8)  # filter 0 before each row
        rows[:, 1:] = pixels.reshape(height, -1)
        size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        return (
            b"\x89PNG\r\n\x1a\n"
            + _chunk(b"IHDR", size + bytes([8, 2, 0, 0, 0]))
            + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
            + _chunk(b"IEND", b"")
        )

    def _blend(
        self, strokes: Sequence[Sequence[Point]], color: str, width: float, opacity: float
    ) -> None:
        """Covers each pixel by its distance to the nearest stroke, once, so that joints of a
        translucent line are no darker than the rest."""
        reach = width * self.scale / 2
        scaled = [[(x * self.scale, y * self.scale) for x, y in points] for points in strokes]
        xs, ys = zip(*(point for points in scaled for point in points), strict=True)
        height, width_px, _ = self._pixels.shape
        left, right = _span(xs, reach, width_px)
        top, bottom = _span(ys, reach, height)
        cover = np.zeros((bottom - top, right - left), dtype=np.float32)
        for points in scaled:
            moved = [(x - left, y - top) for x, y in points]
            for start, end in pairwise(moved if len(moved) > 1 else moved * 2):
                _cover(cover, start, end, reach)
        red_green_blue = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        ink = np.array(red_green_blue, dtype=np.float32)
        window = self._pixels[top:bottom, left:right]
        window += opacity * cover[..., None] * (ink - window)


def _span(values: Sequence[float], reach: float, size: int) -> tuple[int, int]:
    """The pixels from the smallest to the largest value, `reach` more on both sides."""
    first = min(max(int(min(values) - reach - 1), 0), size)
    return first, max(min(int(max(values) + reach + 2), size), first)


def _cover(cover: np.ndarray, start: Point, end: Point, reach: float) -> None:
    """Raises the cover of pixels nearer than `reach` to a segment; half a pixel of soft edge."""
    (x0, y0), (x1, y1) = start, end
    height, width = cover.shape
    left, right = _span((x0, x1), reach, width)
    top, bottom = _span((y0, y1), reach, height)
    x = np.arange(left, right, dtype=np.float32)[None, :] + 0.5
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5
    dx, dy = x1 - x0, y1 - y0
    squared = dx * dx + dy * dy
    along = ((x - x0) * dx + (y - y0) * dy) / squared if squared else np.zeros_like(x + y)
    along = np.clip(along, 0.0, 1.0)
    distance = np.hypot(x - x0 - along * dx, y - y0 - along * dy)
    window = cover[top:bottom, left:right]
    np.maximum(window, np.clip(reach + 0.5 - distance, 0.0, 1.0), out=window)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return len(data).to_bytes(4, "big") + kind + data + checksum.to_bytes(4, "big")
