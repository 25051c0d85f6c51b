"""Buildings, walls and fences along the drawn streets. Sizes in metres, colours RGB in 0..1."""

import math

import numpy as np

from .classes import Part
from .drawing import Primitives
from .objects import SIGN_COLORS, pick_color, shade

FACADE_COLORS = np.array(
    [
        (0.45, 0.26, 0.2), (0.36, 0.24, 0.19), (0.55, 0.4, 0.3), (0.72, 0.66, 0.52), (0.78, 0.75, 0.7),
        (0.5, 0.5, 0.48), (0.33, 0.33, 0.35), (0.62, 0.56, 0.48), (0.7, 0.58, 0.36), (0.42, 0.47, 0.5),
        (0.24, 0.2, 0.18), (0.66, 0.5, 0.46),
    ]
)  # fmt: skip
ROOF_COLORS = np.array([(0.25, 0.22, 0.22), (0.4, 0.22, 0.16), (0.3, 0.3, 0.33), (0.2, 0.17, 0.15)])
FENCE_COLORS = np.array(
    [(0.12, 0.14, 0.13), (0.4, 0.3, 0.2), (0.6, 0.6, 0.6), (0.25, 0.32, 0.25), (0.45, 0.28, 0.22), (0.5, 0.48, 0.44)]
)


def _wall_rectangles(a, b, across: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Quads (n, 4, 3) on the upright wall over the ground segment a-b, each given as (n, 2) bounds.

    `across` in 0..1 along the segment, `up` in metres; a, b are (x, z).
    """
    quads = np.empty((len(across), 4, 3))
    for corner, (i, j) in enumerate(((0, 0), (1, 0), (1, 1), (0, 1))):
        share = across[:, i]
        quads[:, corner, 0] = a[0] + (b[0] - a[0]) * share
        quads[:, corner, 1] = up[:, j]
        quads[:, corner, 2] = a[1] + (b[1] - a[1]) * share
    return quads


def _add_windows(scene: Primitives, rng: np.random.Generator, a, b, height: float, style: dict, shop: bool, far: bool):
    """Rows of windows on the wall over a-b; the ground floor has a shop front or a door."""
    length = math.hypot(b[0] - a[0], b[1] - a[1])
    floor_height, pitch = style["floor"], style["pitch"]
    floors, columns = int(height / floor_height), int(length / pitch)
    if floors < 1 or columns < 1:
        return
    first = 1 if shop else 0
    rows, cols = np.mgrid[first:floors, 0:columns]
    rows, cols = rows.ravel(), cols.ravel()
    wide, tall = style["wide"] * 0.5 / columns, style["tall"] * floor_height
    middle = (cols + 0.5) / columns
    low = rows * floor_height + 0.27 * floor_height
    if len(rows):
        across = np.stack([middle - wide, middle + wide], 1)
        up = np.stack([low, low + tall], 1)
        n = len(rows)
        if not far and style["frame"] > 0:
            frame = _wall_rectangles(
                a, b, across + np.array([-0.1, 0.1]) / length, up + np.array([-0.2, 0.1]) * style["frame"]
            )
            scene.add_quads(frame, Part.FACADE, np.tile(style["frame_color"], (n, 1)), np.zeros(n))
        tone = rng.uniform(0.6, 1.5, (n, 1)) * np.array(style["glass"])
        lit = np.where(rng.random(n) < style["lit"], rng.uniform(0.4, 1.0, n), 0.0)
        scene.add_quads(_wall_rectangles(a, b, across, up), Part.WINDOW, np.clip(tone, 0, 1), lit)
    if shop:
        edges = np.array([[0.03, 0.97]])
        top = floor_height * rng.uniform(0.72, 0.85)
        panes = max(1, int(length / rng.uniform(1.8, 4.0)))
        start = np.arange(panes) / panes
        across = np.stack([start + 0.15 / length, start + 1 / panes - 0.15 / length], 1)
        door = int(rng.random() * panes)
        up = np.tile([rng.uniform(0.2, 0.6), top], (panes, 1))
        glass = rng.uniform(0.5, 1.8, (panes, 1)) * np.array(style["glass"])
        emission = np.full(panes, rng.uniform(0.3, 1.1) if rng.random() < 0.6 else 0.0)
        frame = pick_color(rng, SIGN_COLORS)
        scene.add_quads(_wall_rectangles(a, b, edges, np.array([[0.0, floor_height]])), Part.FACADE, [frame], [0.0])
        scene.add_quads(_wall_rectangles(a, b, across, up), Part.WINDOW, np.clip(glass, 0, 1), emission)
        opening = _wall_rectangles(
            a, b, across[door : door + 1] * 0.5 + across[door : door + 1, :1] * 0.5, np.array([[0, top]])
        )
        scene.add_quads(opening, Part.DOOR, [shade(frame, 0.6)], [0.0])
        if rng.random() < 0.55:
            band = _wall_rectangles(
                a, b, np.array([sorted(rng.uniform(0.05, 0.95, 2))]), np.array([[top + 0.1, floor_height]])
            )
            scene.begin(scene.key, instance=True)
            scene.add_quads(band, Part.SIGN, [pick_color(rng, SIGN_COLORS, 0.2)], [0.5])
            scene.begin(scene.key)
    elif not far:
        column = int(rng.random() * columns)
        side = (column + 0.5 + rng.uniform(-0.1, 0.1)) / columns
        wide = 0.55 / length
        door = _wall_rectangles(a, b, np.array([[side - wide, side + wide]]), np.array([[0.0, 2.2]]))
        scene.add_quads(door, Part.DOOR, [pick_color(rng, SIGN_COLORS)], [0.0])


def building_style(rng: np.random.Generator) -> dict:
    """Random look of one building."""
    glass = rng.uniform(0.06, 0.3)
    return {
        "color": pick_color(rng, FACADE_COLORS),
        "roof": pick_color(rng, ROOF_COLORS),
        "floor": rng.uniform(2.7, 3.8),
        "pitch": rng.uniform(1.8, 4.5),
        "wide": rng.uniform(0.35, 0.85),
        "tall": rng.uniform(0.4, 0.62),
        "frame": 1.0 if rng.random() < 0.5 else 0.0,
        "frame_color": (0.8, 0.79, 0.76) if rng.random() < 0.7 else (0.2, 0.2, 0.2),
        "glass": (glass, glass * 1.05, glass * 1.15),
        "lit": rng.uniform(0.05, 0.4),
    }


def add_building(
    scene: Primitives,
    rng: np.random.Generator,
    a: tuple[float, float],
    b: tuple[float, float],
    outward: float,
    height: float,
    shop: bool,
) -> None:
    """A building whose street front stands over the ground segment a-b, (x, z) with a the nearer end.

    `outward` is the signed depth in metres away from the street. Painted at its far end, so that all that stands in
    front of it covers it.
    """
    style = building_style(rng)
    scene.begin(max(math.hypot(*b), math.hypot(*a)) + 0.5)
    color, roof = style["color"], style["roof"]
    (ax, az), (bx, bz) = a, b
    far = az > 45
    pitched = rng.random() < 0.5 and height < 14
    ridge = height + (rng.uniform(1.8, 3.5) if pitched else 0.0)
    back = outward if pitched else 2 * outward
    if pitched:
        half = outward / 2
        eaves = 0.25 * -math.copysign(1, outward)
        slope = [(ax + eaves, height, az), (bx + eaves, height, bz), (bx + half, ridge, bz), (ax + half, ridge, az)]
        scene.add(slope, Part.ROOF, roof)
        gable = [(ax, 0, az), (ax, height, az), (ax + half, ridge, az), (ax + back, height, az), (ax + back, 0, az)]
        scene.add(gable, Part.FACADE, shade(color, 0.95))
        if rng.random() < 0.6:
            share = rng.uniform(0.1, 0.9)
            cx, cz = ax + (bx - ax) * share + half * 0.8, az + (bz - az) * share
            stack = [
                (cx - 0.5, height, cz),
                (cx + 0.5, height, cz),
                (cx + 0.5, ridge + 1.2, cz),
                (cx - 0.5, ridge + 1.2, cz),
            ]
            scene.add(stack, Part.FACADE, shade(color, 0.8))
    else:
        scene.add([(ax, 0, az), (ax, height, az), (ax + back, height, az), (ax + back, 0, az)], Part.FACADE, color)
        if not far and rng.random() < 0.5:
            inner, outer = (ax, az), (ax + back, az)
            _add_windows(scene, rng, inner, outer, height, style, False, True)
    scene.add([(ax, 0, az), (ax, height, az), (bx, height, bz), (bx, 0, bz)], Part.FACADE, color)
    if rng.random() < 0.4:  # plinth or cornice
        level = height - 0.5
        band = [(ax, level, az), (ax, height, az), (bx, height, bz), (bx, level, bz)]
        scene.add(band, Part.FACADE, shade(color, rng.uniform(0.6, 1.4)))
    if az < 75:
        _add_windows(scene, rng, a, b, height, style, shop, far)


def add_front(scene: Primitives, rng: np.random.Generator, x0: float, x1: float, z: float, height: float) -> None:
    """A building seen head-on over x0..x1 at distance z."""
    style = building_style(rng)
    scene.begin(math.hypot(min(abs(x0), abs(x1)), z) + 8)
    scene.add([(x0, 0, z), (x0, height, z), (x1, height, z), (x1, 0, z)], Part.FACADE, style["color"])
    if rng.random() < 0.5:
        lean = rng.uniform(0, 0.3) * (x1 - x0)
        top = height + rng.uniform(1, 3)
        scene.add(
            [(x0, height, z), (x0 + lean, top, z), (x1 - lean, top, z), (x1, height, z)], Part.ROOF, style["roof"]
        )
    if z < 90:
        _add_windows(scene, rng, (x0, z), (x1, z), height, style, False, True)


def fence_style(rng: np.random.Generator) -> dict:
    """Random look of the fences on one side of the street."""
    return {
        "color": pick_color(rng, FENCE_COLORS),
        "height": rng.uniform(0.8, 2.1),
        "railing": rng.random() < 0.55,
        "pitch": rng.uniform(0.25, 1.5),
    }


def add_fence(
    scene: Primitives, rng: np.random.Generator, a: tuple[float, float], b: tuple[float, float], style: dict
) -> None:
    """A wall, boards or a railing over the ground segment a-b; the gaps of a railing count as fence."""
    scene.begin(max(math.hypot(*a), math.hypot(*b)))
    height, color = style["height"], style["color"]
    (ax, az), (bx, bz) = a, b
    body = shade(color, 0.75) if style["railing"] else color
    scene.add([(ax, 0, az), (ax, height, az), (bx, height, bz), (bx, 0, bz)], Part.FENCE, body)
    rail = [(ax, 0.92 * height, az), (ax, height, az), (bx, height, bz), (bx, 0.92 * height, bz)]
    scene.add(rail, Part.FENCE, shade(color, 1.5))
    if not style["railing"] or az > 30:
        return
    length = math.hypot(bx - ax, bz - az)
    n = min(int(length / style["pitch"]), 24)
    if n:
        middle = (np.arange(n) + 0.5) / n
        half = 0.12 / n
        bars = _wall_rectangles(a, b, np.stack([middle - half, middle + half], 1), np.tile([0.0, height], (n, 1)))
        scene.add_quads(bars, Part.FENCE, np.tile(shade(color, 1.4), (n, 1)), np.zeros(n))
