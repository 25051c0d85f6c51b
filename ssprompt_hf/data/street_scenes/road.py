"""The street itself: camera, course of the road, season, ground surfaces and lane markings."""

import math
from collections.abc import Sequence

import numpy as np

from .classes import Part
from .drawing import GROUND_KEY, Camera, Point, Primitives
from .objects import ground_shadow, pick_color, shade

FAR = 140.0
# leaves and lawn by season: spring and summer, autumn, winter
LEAF_COLORS = (
    np.array([(0.2, 0.32, 0.1), (0.13, 0.24, 0.09), (0.28, 0.36, 0.15), (0.3, 0.33, 0.1)]),
    np.array([(0.45, 0.28, 0.1), (0.35, 0.22, 0.1), (0.5, 0.4, 0.12), (0.25, 0.28, 0.1)]),
    np.array([(0.14, 0.2, 0.1), (0.2, 0.2, 0.12), (0.12, 0.16, 0.09)]),
)
_LAWN_COLORS = np.array([(0.22, 0.34, 0.12), (0.3, 0.36, 0.14), (0.4, 0.38, 0.2), (0.2, 0.26, 0.12)])
_PAVEMENT_COLORS = np.array(
    [(0.5, 0.49, 0.47), (0.6, 0.58, 0.54), (0.42, 0.4, 0.4), (0.55, 0.45, 0.4), (0.35, 0.34, 0.34)]
)
LAMP_COLORS = np.array([(0.4, 0.42, 0.42), (0.15, 0.16, 0.16), (0.2, 0.27, 0.22), (0.6, 0.6, 0.58)])


class Street:
    """Random course and character of a street, and the polygons gathered so far.

    Args:
        rng: source of all choices.
        size: (height, width) of the image in pixels.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        self.rng = rng
        uniform = rng.uniform
        height, width = size
        extent = math.sqrt(height * width)
        focal = extent * uniform(0.75, 1.5)
        horizon = height * uniform(-0.12, 0.1)  # pixels below the middle
        self.camera = Camera(
            size=size,
            focal=focal,
            height=uniform(1.2, 1.9) if rng.random() < 0.85 else uniform(1.9, 2.8),
            pitch=-math.atan(horizon / focal),
            roll=math.radians(rng.normal(0, 1.2)),
        )
        self.primitives = Primitives()
        self.shadows: list[list[Point]] = []
        self.lamps: list[Point] = []
        self.headlights: list[Point] = []

        self.left_driving = rng.random() < 0.5
        self.lanes = 1 if rng.random() < 0.75 else 2  # in each direction
        self.lane_width = uniform(2.7, 3.8)
        self.parking = [uniform(1.9, 2.4) if rng.random() < 0.5 else 0.0 for _ in range(2)]
        self.half_road = self.lanes * self.lane_width
        lane = int(rng.random() * self.lanes) + 0.5
        side = -1 if self.left_driving else 1
        self.camera_lateral = side * lane * self.lane_width + rng.normal(0, 0.4)
        if rng.random() < 0.08:  # seen from near the kerb
            self.camera_lateral = side * (self.half_road + uniform(0, 1.5))
        self.yaw = rng.normal(0, 0.05)
        self.curve = rng.normal(0, 0.0018) if rng.random() < 0.6 else 0.0
        self.pavement_width = [uniform(1.4, 4.5) if rng.random() < 0.93 else 0.4 for _ in range(2)]

        # a side street: its near and far edge, and on which sides
        start = uniform(9, 60)
        self.crossing = (start, start + uniform(6, 11)) if rng.random() < 0.4 else None
        self.crossing_sides = [self.crossing is not None and rng.random() < 0.75 for _ in range(2)]

        self.urban = rng.random()
        self.crowd = rng.random()
        self.season = int(rng.choice(3, p=(0.5, 0.2, 0.3)))
        self.bare = self.season == 2 and rng.random() < 0.8
        elevation, azimuth = math.radians(uniform(12, 65)), uniform(0, 2 * math.pi)
        self.sun_strength = uniform(0.4, 1.0) if rng.random() < 0.6 else 0.0
        self.sun = (
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
            math.cos(elevation) * math.cos(azimuth),
        )
        self.shadow_step = (-self.sun[0] / self.sun[1], -self.sun[2] / self.sun[1])

    def x(self, lateral: float, z: float) -> float:
        """World x of the point `lateral` metres right of the centre line at distance z."""
        return lateral - self.camera_lateral + self.yaw * z + self.curve * z * z

    def shadow(self, footprint: list[tuple[float, float]], height: float) -> None:
        """Casts the shadow of an upright prism of `height` metres over the footprint of (x, z) points."""
        if self.sun_strength > 0:
            self.shadows.append(ground_shadow(footprint, height, self.shadow_step))

    def strip(
        self, left: float, right: float, z0: float, z1: float, part: int, color: Sequence[float], order: int
    ) -> None:
        """A band of ground between two lateral positions."""
        pieces = 2 if self.curve == 0 else 8 if z1 - z0 > 20 else 3
        zs = [z0 + (z1 - z0) * (i / (pieces - 1)) ** 1.5 for i in range(pieces)]
        # depth planes come from the first three points, which must not lie on a line
        points = [(self.x(left, zs[0]), 0.0, zs[0])] + [(self.x(right, z), 0.0, z) for z in zs]
        points += [(self.x(left, z), 0.0, z) for z in reversed(zs[1:])]
        self.primitives.begin(GROUND_KEY - order)
        self.primitives.add(points, part, color)

    def draw_ground(self) -> None:
        """Road, pavements and the land beyond them."""
        rng = self.rng
        gray = rng.uniform(0.2, 0.5)
        warm = rng.uniform(-0.03, 0.04)
        self.road_color = (gray + warm, gray, gray - warm)
        self.lawn_color = pick_color(rng, _LAWN_COLORS, 0.03)
        pavement = pick_color(rng, _PAVEMENT_COLORS, 0.04)
        kerb = shade(pavement, rng.uniform(0.8, 1.4))
        terrain = (Part.PAVEMENT, shade(pavement, 0.9)) if self.urban > 0.6 else (Part.GRASS, self.lawn_color)
        self.primitives.begin(GROUND_KEY)
        self.primitives.add([(-8, 0, 0.5), (8, 0, 0.5), (2000, 0, 900), (-2000, 0, 900)], *terrain)
        for side, sign in enumerate((-1, 1)):
            edge = sign * (self.half_road + self.parking[side])
            outer = edge + sign * self.pavement_width[side]
            self.strip(edge, outer, 0.3, FAR, Part.PAVEMENT, pavement, 1)
            self.strip(edge, edge + sign * 0.25, 0.3, FAR, Part.KERB, kerb, 2)
            if self.pavement_width[side] > 3 and rng.random() < 0.15:  # a verge between kerb and footway
                self.strip(edge + sign * 0.3, edge + sign * 1.4, 0.3, FAR, Part.GRASS, self.lawn_color, 3)
        left, right = -self.half_road - self.parking[0], self.half_road + self.parking[1]
        self.strip(left, right, 0.3, FAR, Part.ROAD, self.road_color, 4)
        for _ in range(int(rng.random() * 4)):  # patches of another surface
            z = rng.uniform(3, 30)
            a = rng.uniform(left, right - 1)
            b = min(a + rng.uniform(0.5, 3), right)
            self.strip(a, b, z, z + rng.uniform(1, 12), Part.ROAD, shade(self.road_color, rng.uniform(0.75, 1.2)), 5)

    def draw_markings(self) -> None:
        """Centre, lane, edge and stop lines, arrows."""
        rng = self.rng
        white = rng.uniform(0.5, 0.85)
        color = (white, white, white * 0.97)
        yellow = (0.75, 0.6, 0.2)
        middle = color if rng.random() < 0.8 else yellow
        lines = [(0.0, middle, rng.random() < 0.3)] if rng.random() < 0.9 else []
        for lane in range(1, self.lanes):
            lines += [(sign * lane * self.lane_width, color, False) for sign in (-1, 1)]
        if rng.random() < 0.5:
            edge_color = color if rng.random() < 0.6 else yellow
            lines += [(sign * (self.half_road - 0.25), edge_color, True) for sign in (-1, 1)]
        half = rng.uniform(0.05, 0.1)
        dash, gap = rng.uniform(1, 4), rng.uniform(2, 6)
        for lateral, line_color, solid in lines:
            if solid:
                self.strip(lateral - half, lateral + half, 0.5, 90, Part.MARKING, line_color, 6)
                continue
            z = rng.uniform(0.5, 3)
            while z < 60:
                self.strip(lateral - half, lateral + half, z, z + dash, Part.MARKING, line_color, 6)
                z += dash + gap
        if rng.random() < 0.2:  # an arrow or a letter on the lane
            z, lateral = rng.uniform(5, 15), self.camera_lateral + rng.uniform(-0.5, 0.5)
            self.strip(lateral - 0.1, lateral + 0.1, z, z + 2.5, Part.MARKING, color, 6)
            self.strip(lateral - 0.5, lateral + 0.5, z + 2.5, z + 3.2, Part.MARKING, color, 6)
        if rng.random() < 0.25:  # a stop line
            z = rng.uniform(5, 18)
            self.strip(0, -self.half_road if self.left_driving else self.half_road, z, z + 0.4, Part.MARKING, color, 6)
