"""Things and plants of the drawn street scenes. Metres; colours are RGB in 0..1; things stand on y = 0."""

import math

import numpy as np

from .classes import Part
from .drawing import Point, Primitives

CAR_COLORS = np.array(
    [
        (0.85, 0.85, 0.85), (0.6, 0.62, 0.64), (0.4, 0.41, 0.43), (0.1, 0.1, 0.11), (0.22, 0.23, 0.25),
        (0.55, 0.08, 0.08), (0.1, 0.15, 0.4), (0.25, 0.4, 0.6), (0.08, 0.25, 0.15), (0.75, 0.6, 0.15),
        (0.5, 0.45, 0.35), (0.35, 0.2, 0.12),
    ]
)  # fmt: skip
CLOTHES_COLORS = np.array(
    [
        (0.08, 0.08, 0.1), (0.12, 0.14, 0.22), (0.25, 0.25, 0.27), (0.3, 0.22, 0.16), (0.5, 0.48, 0.44),
        (0.8, 0.78, 0.75), (0.55, 0.1, 0.1), (0.15, 0.3, 0.55), (0.2, 0.35, 0.2), (0.75, 0.65, 0.1),
        (0.6, 0.3, 0.45),
    ]
)  # fmt: skip
SKIN_COLORS = np.array([(0.8, 0.62, 0.5), (0.65, 0.45, 0.35), (0.45, 0.3, 0.2), (0.3, 0.2, 0.14)])
SIGN_COLORS = np.array(
    [(0.1, 0.25, 0.6), (0.75, 0.1, 0.1), (0.85, 0.85, 0.82), (0.1, 0.4, 0.2), (0.85, 0.7, 0.1), (0.3, 0.3, 0.32)]
)

# (length, height, half of profile): points along the car from rear to front, as (share of length, share of height)
_CAR_SHAPES = (
    (4.0, 1.5, ((0, 0.2), (0, 0.6), (0.04, 0.66), (0.13, 0.98), (0.55, 1.0), (0.74, 0.64), (0.97, 0.52), (1, 0.22))),
    (4.5, 1.45, ((0, 0.2), (0, 0.66), (0.16, 0.7), (0.3, 0.99), (0.56, 1.0), (0.73, 0.66), (0.97, 0.54), (1, 0.22))),
    (4.5, 1.75, ((0, 0.2), (0, 0.6), (0.02, 0.66), (0.09, 0.99), (0.6, 1.0), (0.74, 0.66), (0.98, 0.58), (1, 0.22))),
    (5.2, 2.1, ((0, 0.16), (0, 0.58), (0.01, 0.6), (0.03, 1.0), (0.74, 1.0), (0.88, 0.58), (0.99, 0.48), (1, 0.18))),
    (7.5, 3.1, ((0, 0.14), (0, 0.5), (0.005, 0.52), (0.01, 1.0), (0.98, 1.0), (0.99, 0.52), (1, 0.5), (1, 0.14))),
)


def pick_color(rng: np.random.Generator, palette: np.ndarray, jitter: float = 0.06) -> tuple[float, float, float]:
    """A palette entry with random tint, RGB in 0..1."""
    r, g, b = palette[int(rng.random() * len(palette))] * rng.uniform(0.8, 1.2) + rng.uniform(-jitter, jitter, 3)
    return max(r, 0.02), max(g, 0.02), max(b, 0.02)


def shade(color: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    return color[0] * factor, color[1] * factor, color[2] * factor


def regular_polygon(x: float, y: float, z: float, rx: float, ry: float, sides: int) -> list[Point]:
    """An upright ellipse of half axes rx, ry that faces along z."""
    step = 2 * math.pi / sides
    return [(x + rx * math.sin(i * step), y + ry * math.cos(i * step), z) for i in range(sides)]


def ground_shadow(footprint: list[tuple[float, float]], height: float, sun: tuple[float, float]) -> list[Point]:
    """Shadow on the ground of an upright prism: the convex hull of its footprint (x, z) and of the copy that
    `sun`, the way a shadow moves per metre of height, carries off."""
    moved = [(x + sun[0] * height, z + sun[1] * height) for x, z in footprint]
    hull = []
    points = sorted(footprint + moved)
    for sweep in (points, points[::-1]):  # Andrew's monotone chain
        chain = []
        for x, z in sweep:
            while len(chain) > 1:
                (ax, az), (bx, bz) = chain[-2], chain[-1]
                if (bx - ax) * (z - az) - (bz - az) * (x - ax) > 0:
                    break
                chain.pop()
            chain.append((x, z))
        hull += chain[:-1]
    return [(x, 0.0, z) for x, z in hull]


def add_car(
    scene: Primitives, rng: np.random.Generator, x: float, z: float, heading: float, large: float = 0.12
) -> tuple[list[tuple[float, float]], float]:
    """A car, van or bus whose middle stands at (x, z). `heading` radians, 0 drives away from the camera.

    Returns its footprint as four (x, z) and its height.
    """
    kind = int(rng.random() * 3) if rng.random() > large else 3 + (rng.random() < 0.4)
    length, height, profile = _CAR_SHAPES[kind]
    length *= rng.uniform(0.9, 1.1)
    height *= rng.uniform(0.93, 1.07)
    half = (1.25 if kind == 4 else 1.0 if kind == 3 else 0.88) * rng.uniform(0.95, 1.05)
    color = pick_color(rng, CAR_COLORS)
    glass = (0.1, 0.12, 0.14) if rng.random() < 0.7 else (0.35, 0.4, 0.45)
    sin, cos = math.sin(heading), math.cos(heading)

    def at(along: float, up: float, side: float) -> Point:
        forward = (along - 0.5) * length
        return x + forward * sin + side * cos, up * height, z + forward * cos - side * sin

    corners = [at(a, 0, s) for a, s in ((0, -half), (1, -half), (1, half), (0, half))]
    scene.begin(math.hypot(x, z), instance=True)
    dark = (0.04, 0.04, 0.045)
    scene.add([at(a, 0.12 if 0 < a < 1 else 0.02, 0.9 * s) for a, s in ((0, -half), (1, -half), (1, half), (0, half))],
              Part.CAR_DETAIL, dark)  # fmt: skip
    to_camera = -1.0 if cos * x - sin * z > 0 else 1.0  # which side of the car is seen
    inset = 0.86 if kind < 3 else 0.96  # the roof is narrower than the body

    def side_points(side: float) -> list[Point]:
        return [at(a, up, side * half * (inset if up > 0.9 else 1.0)) for a, up in profile]

    far_side, near_side = side_points(-to_camera), side_points(to_camera)
    scene.add(far_side, Part.CAR, shade(color, 0.6))
    strips = list(range(len(profile) - 1))
    rear_seen = sin * x + cos * z > 0
    if rear_seen:
        strips.reverse()  # paint the far end first
    for i in strips:
        is_window = i == 2 or i == 4
        strip = [far_side[i], far_side[i + 1], near_side[i + 1], near_side[i]]
        tone = 1.05 if i == 3 else 0.9
        scene.add(strip, Part.CAR, shade(color, tone))
        if is_window and not (kind == 3 and i == 2):
            scene.add(_shrink(strip, 0.86), Part.CAR_GLASS, glass)
    scene.add(near_side, Part.CAR, color)
    _add_car_side(scene, rng, at, profile, to_camera * half, inset, kind, glass)
    end = 0.0 if rear_seen else 1.0
    light, glow = ((0.6, 0.06, 0.05), 0.8) if rear_seen else ((0.9, 0.9, 0.8), 1.6)
    for s in (-0.8, 0.8):
        top = 0.55 if kind < 3 else 0.4
        lamp = [
            at(end, u, half * (s + d)) for u, d in ((top, -0.14), (top, 0.14), (top - 0.13, 0.14), (top - 0.13, -0.14))
        ]
        scene.add(lamp, Part.CAR_DETAIL, light, glow)
    plate = [at(end, u, half * d) for u, d in ((0.36, -0.28), (0.36, 0.28), (0.29, 0.28), (0.29, -0.28))]
    scene.add(plate, Part.CAR_DETAIL, (0.8, 0.75, 0.4) if rear_seen else (0.85, 0.85, 0.85))
    return [(px, pz) for px, _, pz in corners], height


def _add_car_side(scene, rng, at, profile, half, inset, kind, glass):
    """Windows and wheels of the side that is seen."""
    window_start, window_end = profile[2][0] + 0.05, profile[5][0] - 0.03
    low, high = (0.66, 0.93) if kind < 4 else (0.45, 0.85)
    if kind == 3:
        window_start = 0.62
    pillars = 4 if kind == 4 else 2
    step = (window_end - window_start) / pillars
    slope = 0.5 * (profile[5][0] - profile[4][0])
    for i in range(pillars):
        a, b = window_start + i * step + 0.01, window_start + (i + 1) * step - 0.01
        lean_a, lean_b = (0.06 if i == 0 and kind != 4 else 0), (slope if i == pillars - 1 else 0)
        window = [
            at(a, low, half),
            at(a + lean_a, high, half * inset),
            at(b - lean_b, high, half * inset),
            at(b, low, half),
        ]
        scene.add(window, Part.CAR_GLASS, glass)
    radius = 0.2 if kind < 3 else 0.16
    rim = (0.35, 0.35, 0.37) if rng.random() < 0.7 else (0.1, 0.1, 0.1)
    for a in (0.19, 0.8):
        for size, color in ((1.0, (0.04, 0.04, 0.045)), (0.55, rim)):
            wheel = [
                at(a + radius * size * 0.37 * math.sin(t), radius + radius * size * math.cos(t), half * 1.01)
                for t in (0.4, 1.2, 2.0, 2.75, 3.5, 4.3, 5.1, 5.9)
            ]
            scene.add(wheel, Part.CAR_DETAIL, color)


def _shrink(polygon: list[Point], share: float) -> list[Point]:
    """The polygon scaled about its middle."""
    n = len(polygon)
    middle = [sum(point[i] for point in polygon) / n for i in range(3)]
    return [tuple(middle[i] + share * (point[i] - middle[i]) for i in range(3)) for point in polygon]


def add_person(scene: Primitives, rng: np.random.Generator, x: float, z: float) -> float:
    """A person on foot, drawn flat. Returns the height."""
    height = rng.uniform(1.5, 1.9) if rng.random() < 0.88 else rng.uniform(1.0, 1.4)
    scene.begin(math.hypot(x, z), instance=True)
    s = height / 1.75
    top, bottom = pick_color(rng, CLOTHES_COLORS), pick_color(rng, CLOTHES_COLORS)
    skin, hair = pick_color(rng, SKIN_COLORS), pick_color(rng, CLOTHES_COLORS[:5])
    stride, wide = rng.uniform(0.02, 0.32), rng.uniform(0.17, 0.25)

    def polygon(points):
        return [(x + px * s, py * s, z) for px, py in points]

    long_coat = rng.random() < 0.3
    hip = 0.55 if long_coat else 0.82
    for foot in (-stride, stride):
        leg = [
            (-0.14 if foot < 0 else 0.0, 0.9),
            (0.0 if foot < 0 else 0.14, 0.9),
            (foot + 0.09, 0.0),
            (foot - 0.09, 0.0),
        ]
        scene.add(polygon(leg), Part.PERSON, shade(bottom, 1.0 if foot < 0 else 0.8))
    torso = [(-wide, 1.42), (-0.1, 1.5), (0.1, 1.5), (wide, 1.42), (wide * 0.85, hip), (-wide * 0.85, hip)]
    scene.add(polygon(torso), Part.PERSON, top)
    for side in (-1, 1):
        swing = rng.uniform(-0.05, 0.2)
        arm = [
            (side * wide, 1.42),
            (side * (wide + 0.06), 1.3),
            (side * (wide + swing), 0.8),
            (side * (wide + swing - 0.1), 0.8),
        ]
        scene.add(polygon(arm), Part.PERSON, shade(top, 0.85))
    if rng.random() < 0.3:
        bag = [(wide, 1.0), (wide + 0.2, 1.0), (wide + 0.2, 0.6), (wide, 0.6)]
        scene.add(polygon(bag), Part.PERSON, pick_color(rng, CLOTHES_COLORS))
    scene.add(regular_polygon(x, 1.63 * s, z, 0.11 * s, 0.14 * s, 8), Part.PERSON, hair)
    if rng.random() < 0.6:  # seen from the front
        scene.add(regular_polygon(x, 1.6 * s, z, 0.085 * s, 0.1 * s, 7), Part.PERSON, skin)
    return height


def add_rider(scene: Primitives, rng: np.random.Generator, x: float, z: float) -> float:
    """A person on a bicycle or a motorbike, seen from behind, from the front or from the side. Returns the height."""
    scene.begin(math.hypot(x, z), instance=True)
    s = rng.uniform(0.9, 1.1)
    top, bottom = pick_color(rng, CLOTHES_COLORS, 0.12), pick_color(rng, CLOTHES_COLORS)
    frame = pick_color(rng, CAR_COLORS)
    motor = rng.random() < 0.25
    dark = (0.06, 0.06, 0.07)
    sideways = rng.random() < 0.4
    turn = 1.0 if rng.random() < 0.5 else -1.0

    def polygon(points):
        return [(x + turn * px * s, py * s, z) for px, py in points]

    if sideways:
        for wheel in (-0.55, 0.55):
            cx = x + turn * wheel * s
            rim = regular_polygon(cx, 0.34 * s, z, 0.34 * s, 0.34 * s, 12)
            hole = regular_polygon(cx, 0.34 * s, z, 0.27 * s, 0.27 * s, 12)
            scene.add(rim + rim[:1] + hole[:1] + hole[::-1], Part.BICYCLE, dark)  # a ring, cut once
        if motor:
            scene.add(polygon([(-0.6, 0.75), (0.3, 0.8), (0.5, 0.5), (0.2, 0.25), (-0.4, 0.25)]), Part.BICYCLE, frame)
        else:
            for bar in (((-0.55, 0.34), (-0.1, 0.75)), ((-0.1, 0.75), (0.4, 0.75)), ((0.4, 0.9), (0.55, 0.34)),
                        ((-0.1, 0.75), (0.0, 0.3)), ((0.0, 0.3), (0.4, 0.75))):  # fmt: skip
                (ax, ay), (bx, by) = bar
                scene.add(polygon([(ax - 0.03, ay), (ax + 0.03, ay + 0.02), (bx + 0.03, by), (bx - 0.03, by - 0.02)]),
                          Part.BICYCLE, frame)  # fmt: skip
        scene.add(
            polygon([(-0.2, 1.0), (0.0, 1.02), (0.3, 0.65), (0.1, 0.3), (0.0, 0.3), (0.1, 0.62)]), Part.RIDER, bottom
        )
        scene.add(polygon([(-0.25, 0.9), (-0.02, 0.92), (0.32, 1.38), (0.15, 1.55), (-0.05, 1.4)]), Part.RIDER, top)
        scene.add(polygon([(0.2, 1.45), (0.28, 1.38), (0.5, 0.98), (0.42, 0.95)]), Part.RIDER, shade(top, 0.8))
        head = 0.27
    else:
        scene.add(regular_polygon(x, 0.35 * s, z, (0.12 if motor else 0.05) * s, 0.35 * s, 8), Part.BICYCLE, dark)
        bars = [(-0.32, 1.02), (0.32, 1.02), (0.32, 0.97), (-0.32, 0.97)]
        scene.add(polygon(bars), Part.BICYCLE, dark)
        if motor:
            scene.add(polygon([(-0.2, 0.9), (0.2, 0.9), (0.25, 0.4), (-0.25, 0.4)]), Part.BICYCLE, frame)
        for side in (-1, 1):
            low = rng.uniform(0.15, 0.4)
            scene.add(polygon([(side * 0.06, 0.95), (side * 0.2, 0.9), (side * 0.18, low), (side * 0.08, low)]),
                      Part.RIDER, bottom)  # fmt: skip
        torso = [
            (-0.2, 1.45),
            (-0.1, 1.55),
            (0.1, 1.55),
            (0.2, 1.45),
            (0.27, 1.1),
            (0.17, 0.82),
            (-0.17, 0.82),
            (-0.27, 1.1),
        ]
        scene.add(polygon(torso), Part.RIDER, top)
        head = 0.0
    helmet = pick_color(rng, CLOTHES_COLORS, 0.15)
    scene.add(regular_polygon(x + turn * head * s, 1.67 * s, z, 0.12 * s, 0.15 * s, 8), Part.RIDER, helmet)
    return 1.8 * s


def add_post(scene: Primitives, x: float, z: float, height: float, width: float, color: np.ndarray) -> None:
    """A thin upright post as wide as at least a third of a pixel of a small image."""
    half = max(width, 0.0025 * z) / 2
    top = half * 0.7
    scene.add([(x - half, 0, z), (x + half, 0, z), (x + top, height, z), (x - top, height, z)], Part.POLE, color)


def add_lamp_post(scene: Primitives, rng: np.random.Generator, x: float, z: float, arm: float, style: dict) -> Point:
    """A street lamp that reaches `arm` metres sideways. Returns the position of its light."""
    height = style["height"]
    scene.begin(math.hypot(x, z))
    add_post(scene, x, z, height, style["width"], style["color"])
    thick = max(0.1, 0.002 * z)
    tip = x + arm
    bow = style["bow"]
    arm_points = [(x, height - bow, z), (tip, height, z), (tip, height + thick, z), (x, height - bow + 2 * thick, z)]
    scene.add(arm_points, Part.POLE, style["color"])
    end = tip + math.copysign(0.7, arm)
    head = [(tip, height + 0.16, z), (end, height + 0.14, z), (end, height - 0.06, z), (tip, height - 0.06, z)]
    scene.add(head, Part.POLE, shade(style["color"], 0.8), 2.5)
    return (tip + end) / 2, height, z


def add_traffic_light(scene: Primitives, rng: np.random.Generator, x: float, z: float) -> None:
    """A post with one box of three lamps; the box is one sign instance."""
    gray = rng.uniform(0.1, 0.5)
    low = rng.uniform(2.1, 2.6)
    distance = math.hypot(x, z)
    scene.begin(distance)
    add_post(scene, x, z, low + 0.3, rng.uniform(0.1, 0.16), (gray, gray, gray))
    scene.begin(distance, instance=True)
    wide, tall = 0.19, 0.95
    box = [(x - wide, low, z), (x + wide, low, z), (x + wide, low + tall, z), (x - wide, low + tall, z)]
    scene.add(box, Part.TRAFFIC_LIGHT, (0.06, 0.06, 0.06))
    lit = int(rng.random() * 3)
    for i, color in enumerate(((0.1, 0.9, 0.4), (1.0, 0.65, 0.1), (1.0, 0.12, 0.1))):
        on = i == lit
        lens = regular_polygon(x, low + 0.17 + 0.3 * i, z, 0.12, 0.12, 7)
        scene.add(lens, Part.TRAFFIC_LIGHT, color if on else shade(color, 0.15), 1.5 if on else 0.0)


def add_sign(scene: Primitives, rng: np.random.Generator, x: float, z: float) -> None:
    """A traffic sign (disc, triangle or board) on one or two posts."""
    gray = rng.uniform(0.35, 0.65)
    distance = math.hypot(x, z)
    low = rng.uniform(1.7, 2.5)
    kind = rng.random()
    scene.begin(distance)
    board = kind > 0.55
    wide = (
        rng.uniform(0.3, 0.45)
        if not board
        else rng.uniform(0.25, 0.6)
        if rng.random() < 0.8
        else rng.uniform(0.6, 1.1)
    )
    tall = wide if not board else rng.uniform(0.3, 0.8)
    for post in (-0.7 * wide, 0.7 * wide) if board and wide > 0.7 else (0.0,):
        add_post(scene, x + post, z, low + 2 * tall, 0.09, (gray, gray, gray))
    scene.begin(distance, instance=True)
    y = low + tall
    color, inner = pick_color(rng, SIGN_COLORS), pick_color(rng, SIGN_COLORS)
    if board:
        corners = ((-wide, -tall), (wide, -tall), (wide, tall), (-wide, tall))
        outline = [(x + dx, y + dy, z) for dx, dy in corners]
        scene.add(outline, Part.SIGN, color)
        scene.add([(px, py + 0.1 * tall, pz) for px, py, pz in _shrink(outline, 0.6)], Part.SIGN, inner)
    else:
        sides = 3 if kind < 0.18 else 10
        rim = (0.75, 0.1, 0.1) if rng.random() < 0.6 else color
        scene.add(regular_polygon(x, y, z, wide * 1.1, wide * 1.1, sides), Part.SIGN, rim)
        face = (0.85, 0.85, 0.82) if rng.random() < 0.6 else inner
        scene.add(regular_polygon(x, y, z, wide * 0.72, wide * 0.72, sides), Part.SIGN, face)


def add_tree(
    scene: Primitives, rng: np.random.Generator, x: float, z: float, color: np.ndarray, bare: bool, scale: float
) -> float:
    """A tree of several overlapping crowns, or of branches when `bare`. Returns the radius of the crown."""
    height = rng.uniform(4.5, 11.0) * scale
    radius = height * rng.uniform(0.22, 0.42)
    trunk_height = height * rng.uniform(0.2, 0.4)
    scene.begin(math.hypot(x, z))
    bark = rng.uniform(0.1, 0.25)
    bark = (bark * 1.15, bark, bark * 0.85)
    wide = height * rng.uniform(0.016, 0.03)
    trunk = [
        (x - wide, 0, z),
        (x + wide, 0, z),
        (x + 0.5 * wide, trunk_height * 1.6, z),
        (x - 0.5 * wide, trunk_height * 1.6, z),
    ]
    scene.add(trunk, Part.TRUNK, bark)
    middle = (trunk_height + height) / 2
    ry = (height - trunk_height) / 2
    crowns = 1 if bare else 5 + int(rng.random() * 4)
    for i in range(crowns):
        angle, share = rng.uniform(0, 2 * math.pi), (0.0 if i == 0 else rng.uniform(0.35, 0.75))
        cx, cy = x + radius * share * math.sin(angle), middle + ry * share * math.cos(angle)
        size = 1.0 if bare else (0.8 if i == 0 else rng.uniform(0.35, 0.6))
        tone = rng.uniform(0.75, 1.2) * (1.0 + 0.25 * math.cos(angle) * share)
        wobble = rng.uniform(0.78, 1.18, 11)
        step = 2 * math.pi / 11
        blob = [
            (cx + size * radius * w * math.sin(k * step), cy + size * ry * w * math.cos(k * step), z)
            for k, w in enumerate(wobble.tolist())
        ]
        scene.add(blob, Part.BARE_TREE if bare else Part.FOLIAGE, shade(bark if bare else color, tone))
    if bare:
        for angle in rng.uniform(-1.2, 1.2, 9).tolist():
            length = 0.95 * ry * (1.2 - 0.3 * abs(angle))
            tip = (x + length * math.sin(angle), trunk_height + 1.5 * length * math.cos(angle), z)
            start, thin = trunk_height * rng.uniform(0.8, 1.5), 0.4 * wide
            scene.add([(x - thin, start, z), (x + thin, start, z), tip], Part.TRUNK, bark)
    return radius


def add_other(scene: Primitives, rng: np.random.Generator, x: float, z: float) -> None:
    """A bin, box or skip: something in no class."""
    scene.begin(math.hypot(x, z))
    wide, tall = rng.uniform(0.2, 0.5), rng.uniform(0.8, 1.5)
    color = pick_color(rng, CAR_COLORS)
    scene.add([(x - wide, 0, z), (x + wide, 0, z), (x + wide, tall, z), (x - wide, tall, z)], Part.OTHER, color)
    scene.add([(x - wide, tall * 0.85, z), (x + wide, tall * 0.85, z), (x + wide, tall, z), (x - wide, tall, z)],
              Part.OTHER, shade(color, 0.7))  # fmt: skip
