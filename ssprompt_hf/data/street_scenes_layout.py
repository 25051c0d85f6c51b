"""Composition of a drawn street: camera, road, the two sides, and what stands and moves on them."""

import math
from dataclasses import dataclass

import numpy as np

from .street_scenes_buildings import add_building, add_fence, add_front, fence_style
from .street_scenes_classes import Part
from .street_scenes_drawing import GROUND_KEY, Camera, Point, Primitives
from .street_scenes_objects import (
    add_car,
    add_lamp_post,
    add_other,
    add_person,
    add_post,
    add_rider,
    add_sign,
    add_traffic_light,
    add_tree,
    ground_shadow,
    pick_color,
    shade,
)

FAR = 140.0
# leaves and lawn by season: spring and summer, autumn, winter
_LEAF_COLORS = (
    np.array([(0.2, 0.32, 0.1), (0.13, 0.24, 0.09), (0.28, 0.36, 0.15), (0.3, 0.33, 0.1)]),
    np.array([(0.45, 0.28, 0.1), (0.35, 0.22, 0.1), (0.5, 0.4, 0.12), (0.25, 0.28, 0.1)]),
    np.array([(0.14, 0.2, 0.1), (0.2, 0.2, 0.12), (0.12, 0.16, 0.09)]),
)
_LAWN_COLORS = np.array([(0.22, 0.34, 0.12), (0.3, 0.36, 0.14), (0.4, 0.38, 0.2), (0.2, 0.26, 0.12)])
_PAVEMENT_COLORS = np.array(
    [(0.5, 0.49, 0.47), (0.6, 0.58, 0.54), (0.42, 0.4, 0.4), (0.55, 0.45, 0.4), (0.35, 0.34, 0.34)]
)
_LAMP_COLORS = np.array([(0.4, 0.42, 0.42), (0.15, 0.16, 0.16), (0.2, 0.27, 0.22), (0.6, 0.6, 0.58)])


@dataclass
class Scene:
    """A composed street, ready to be drawn.

    Attributes:
        camera: the camera.
        primitives: all polygons.
        shadows: ground polygons that lie in cast shadow when the sun shines.
        sun: unit vector towards the sun (world axes) and its strength, 0 when overcast.
        lamps: positions of street lamps, metres.
        headlights: positions of the lights of oncoming cars.
        tracks: world x of the wheel tracks at the camera, and the centre line's yaw and curvature.
    """

    camera: Camera
    primitives: Primitives
    shadows: list[list[Point]]
    sun: tuple[float, float, float]
    sun_strength: float
    lamps: list[Point]
    headlights: list[Point]
    tracks: tuple[float, float, float]


class _Composer:
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

    def shadow(self, footprint, height: float) -> None:
        if self.sun_strength > 0:
            self.shadows.append(ground_shadow(footprint, height, self.shadow_step))

    def strip(self, left: float, right: float, z0: float, z1: float, part: int, color, order: int) -> None:
        """A band of ground between two lateral positions."""
        pieces = 2 if self.curve == 0 else 8 if z1 - z0 > 20 else 3
        zs = [z0 + (z1 - z0) * (i / (pieces - 1)) ** 1.5 for i in range(pieces)]
        # depth planes come from the first three points, which must not lie on a line
        points = [(self.x(left, zs[0]), 0.0, zs[0])] + [(self.x(right, z), 0.0, z) for z in zs]
        points += [(self.x(left, z), 0.0, z) for z in reversed(zs[1:])]
        self.primitives.begin(GROUND_KEY - order)
        self.primitives.add(points, part, color)

    def compose(self) -> Scene:
        rng = self.rng
        self._ground()
        self._background()
        crossing = rng.uniform(9, 60) if rng.random() < 0.4 else None
        self.crossing = (crossing, crossing + rng.uniform(6, 11)) if crossing else None
        self.crossing_sides = [rng.random() < 0.75, rng.random() < 0.75] if crossing else [False, False]
        for index, sign in enumerate((-1, 1)):
            self._side(index, sign)
        if self.crossing:
            self._crossing()
        self._markings()
        self._traffic()
        if rng.random() < 0.12:
            self._bonnet()
        return Scene(
            camera=self.camera,
            primitives=self.primitives,
            shadows=self.shadows,
            sun=self.sun,
            sun_strength=self.sun_strength,
            lamps=self.lamps,
            headlights=self.headlights,
            tracks=(self.x(0, 0), self.yaw, self.curve),
        )

    def _ground(self) -> None:
        rng = self.rng
        gray = rng.uniform(0.2, 0.5)
        warm = rng.uniform(-0.03, 0.04)
        self.road_color = (gray + warm, gray, gray - warm)
        self.lawn_color = pick_color(rng, _LAWN_COLORS, 0.03)
        pavement = pick_color(rng, _PAVEMENT_COLORS, 0.04)
        kerb = shade(pavement, rng.uniform(0.8, 1.4))
        terrain = (Part.PAVEMENT, shade(pavement, 0.9)) if self.urban > 0.6 else (Part.GRASS, self.lawn_color)
        self.primitives.begin(GROUND_KEY)
        self.primitives.add([(-900, 0, -1), (900, 0, -1), (900, 0, 900), (-900, 0, 900)], *terrain)
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

    def _background(self) -> None:
        rng = self.rng
        leaf = _LEAF_COLORS[self.season]
        if rng.random() < 0.75:
            x = -110.0
            while x < 110:
                wide = rng.uniform(8, 30)
                if rng.random() < 0.5 + 0.4 * self.urban:
                    add_front(
                        self.primitives, rng, x, x + wide, rng.uniform(142, 170), rng.uniform(4, 9 + 14 * self.urban)
                    )
                x += wide
        if rng.random() < 0.8:
            x, z = -130.0, 175.0
            tops = [(x + i * 10, rng.uniform(4, 15), z) for i in range(27)]
            self.primitives.begin(z - 20 if rng.random() < 0.3 else z + 40)
            self.primitives.add(
                [(x, 0, z), *tops, (x + 260, 0, z)], Part.FOLIAGE, shade(pick_color(rng, leaf, 0.03), 0.9)
            )
        if rng.random() < 0.35:  # the street ends at a T-junction
            z = rng.uniform(45, 120)
            middle = self.x(0, z)
            x = middle - 40
            while x < middle + 40:
                wide = rng.uniform(8, 18)
                if rng.random() < self.urban:
                    add_front(self.primitives, rng, x, x + wide, z, rng.uniform(6, 16))
                else:
                    add_tree(self.primitives, rng, x, z, pick_color(rng, leaf, 0.03), self.bare, 1.0)
                x += wide

    def _side(self, index: int, sign: int) -> None:
        """Everything beside the road on one side, from near to far."""
        rng = self.rng
        edge = self.half_road + self.parking[index]
        line = edge + self.pavement_width[index]
        leaf = _LEAF_COLORS[self.season]
        fences = fence_style(rng)
        z = rng.uniform(-12, 2)
        height = rng.uniform(5, 9) + 10 * self.urban * rng.random()
        previous = ""
        while z < FAR:
            length = rng.uniform(6, 18) * (1 + z / 90)
            if self.crossing and self.crossing_sides[index] and z < self.crossing[1] and z + length > self.crossing[0]:
                if self.crossing[0] - z > 5:
                    length = self.crossing[0] - z
                else:
                    z = self.crossing[1]
                    continue
            end = z + length
            if not (previous and rng.random() < 0.55):
                draw = rng.random()
                share = 0.3 + 0.6 * self.urban
                previous = "building" if draw < share else "trees" if draw < share + 0.7 * (1 - share) else "open"
            setback = 0.0 if self.urban > 0.45 else rng.uniform(1, 7)
            start = max(z, -3.0)
            if previous == "building" and end > 1:
                tall = max(4.0, height + rng.normal(0, 1.5 + 2 * self.urban))
                lateral = sign * (line + setback)
                a, b = (self.x(lateral, start), start), (self.x(lateral, end), end)
                add_building(
                    self.primitives, rng, a, b, sign * rng.uniform(6, 10), tall, setback == 0 and rng.random() < 0.5
                )
                back = sign * 9
                self.shadow([a, b, (b[0] + back, b[1]), (a[0] + back, a[1])], tall)
                if setback > 0 and rng.random() < 0.6:
                    self._boundary(rng, sign * line, start, end, fences, leaf)
            elif previous == "trees" and end > 1:
                if rng.random() < 0.65:
                    self._boundary(rng, sign * line, start, end, fences, leaf)
                for _ in range(1 + int(rng.random() * 3)):
                    tz = rng.uniform(max(start, 3.0), max(end, 4.0))
                    self._tree(sign * (line + rng.uniform(1.0, 14)), tz, leaf, 1.2)
            elif end > 1 and rng.random() < 0.6:
                self._boundary(rng, sign * line, start, end, fences, leaf)
            z = end if rng.random() < 0.8 else end + rng.uniform(1, 6)
        self._furniture(index, sign, edge, line, leaf)

    def _boundary(self, rng, lateral: float, start: float, end: float, style: dict, leaf) -> None:
        """A fence or a hedge along the back of the pavement."""
        start = max(start, 0.6)
        if end - start < 1:
            return
        a, b = (self.x(lateral, start), start), (self.x(lateral, end), end)
        if rng.random() < 0.68:
            add_fence(self.primitives, rng, a, b, style)
            return
        tall = rng.uniform(0.8, 2.6)
        n = 7
        top = [
            (a[0] + (b[0] - a[0]) * i / n, tall * rng.uniform(0.85, 1.15), a[1] + (b[1] - a[1]) * i / n)
            for i in range(n, -1, -1)
        ]
        self.primitives.begin(max(math.hypot(*a), math.hypot(*b)))
        self.primitives.add([(a[0], 0, a[1]), (b[0], 0, b[1]), *top], Part.HEDGE, pick_color(rng, leaf, 0.03))

    def _tree(self, lateral: float, z: float, leaf, scale: float) -> None:
        x = self.x(lateral, z)
        radius = add_tree(self.primitives, self.rng, x, z, pick_color(self.rng, leaf, 0.03), self.bare, scale)
        if self.sun_strength > 0:
            dx, dz = self.shadow_step
            reach = 5.0 * scale
            ring = [(2 * math.pi * i / 9) for i in range(9)]
            self.shadows.append(
                [(x + dx * reach + radius * math.sin(t), 0.0, z + dz * reach + radius * math.cos(t)) for t in ring]
            )

    def _furniture(self, index: int, sign: int, edge: float, line: float, leaf) -> None:
        """Lamp posts, signs, lights, bollards, trees and people on the pavement."""
        rng = self.rng
        kerbside = edge + 0.5
        if rng.random() < 0.85:
            style = {
                "height": rng.uniform(5, 10),
                "width": rng.uniform(0.12, 0.24),
                "color": pick_color(rng, _LAMP_COLORS, 0.03),
                "bow": rng.uniform(0, 0.8),
            }
            arm = -sign * rng.uniform(0.4, 2.2)
            spacing = rng.uniform(14, 35)
            z = rng.uniform(3, spacing)
            while z < 110:
                x = self.x(sign * kerbside, z)
                self.lamps.append(add_lamp_post(self.primitives, rng, x, z, arm, style))
                self.shadow([(x - 0.1, z), (x + 0.1, z)], style["height"])
                z += spacing
        for _ in range(rng.poisson(1.6)):
            add_sign(
                self.primitives, rng, self.x(sign * (kerbside + rng.uniform(-0.2, 0.8)), z := rng.uniform(5, 45)), z
            )
        if self.crossing or rng.random() < 0.15:
            z = self.crossing[0] - 1 if self.crossing else rng.uniform(8, 40)
            for offset in (0.0, rng.uniform(8, 13))[: 1 + (rng.random() < 0.5)]:
                add_traffic_light(self.primitives, rng, self.x(sign * kerbside, z + offset), z + offset)
        for _ in range(rng.poisson(0.9)):  # plain masts and telegraph poles
            z = rng.uniform(5, 60)
            self.primitives.begin(z)
            add_post(self.primitives, self.x(sign * (kerbside + rng.uniform(0, 2)), z), z, rng.uniform(2.5, 9),
                     rng.uniform(0.08, 0.22), pick_color(rng, _LAMP_COLORS, 0.03))  # fmt: skip
        if rng.random() < 0.15:  # a row of bollards
            z, color = rng.uniform(4, 15), pick_color(rng, _LAMP_COLORS)
            for _ in range(int(rng.uniform(3, 9))):
                x = self.x(sign * kerbside, z)
                self.primitives.begin(math.hypot(x, z))
                add_post(self.primitives, x, z, 1.0, 0.14, color)
                z += 1.6
        if rng.random() < 0.12:  # a guard rail at the kerb
            z = rng.uniform(4, 30)
            style = fence_style(rng) | {"railing": True, "height": rng.uniform(0.9, 1.2)}
            end = z + rng.uniform(5, 15)
            a, b = (self.x(sign * (edge + 0.3), z), z), (self.x(sign * (edge + 0.3), end), end)
            add_fence(self.primitives, rng, a, b, style)
        if rng.random() < 0.4:  # an avenue
            z, spacing = rng.uniform(4, 14), rng.uniform(7, 16)
            while z < 90:
                self._tree(sign * min(line - 0.4, kerbside + 0.8), z + rng.normal(0, 0.6), leaf, 0.8)
                z += spacing
        width = line - edge
        for _ in range(rng.poisson(0.5 + 4.0 * self.crowd**2 * (0.4 + self.urban))):
            z = 4 + 40 * rng.random() ** 1.4
            for _ in range(1 if rng.random() < 0.65 else 2 + int(rng.random() * 2)):
                lateral = sign * (edge + 0.4 + width * rng.random())
                x = self.x(lateral, z)
                self.shadow([(x - 0.25, z), (x + 0.25, z)], add_person(self.primitives, rng, x, z))
                z += rng.uniform(-0.7, 0.7)
        if rng.random() < 0.25:
            z = rng.uniform(5, 30)
            add_other(self.primitives, rng, self.x(sign * (line - 0.5), z), z)

    def _crossing(self) -> None:
        """A side street on one side or on both."""
        z0, z1 = self.crossing
        rng = self.rng
        for side, sign in enumerate((-1, 1)):
            if not self.crossing_sides[side]:
                continue
            inner = sign * (self.half_road + self.parking[side] - 0.1)
            self.strip(inner, inner + sign * 70, z0, z1, Part.ROAD, self.road_color, 4)
            for _ in range(rng.poisson(0.7)):
                lateral = inner + sign * rng.uniform(3, 25)
                z = rng.choice((z0 + 1.6, z1 - 1.6))
                self._car(lateral, float(z), math.pi / 2 * (1 if rng.random() < 0.5 else -1))
        if rng.random() < 0.5 and z0 > 6:  # stripes of a zebra crossing
            lateral = -self.half_road
            while lateral < self.half_road - 0.5:
                self.strip(lateral, lateral + 0.5, z0 - 4, z0 - 1, Part.MARKING, (0.72, 0.72, 0.7), 6)
                lateral += 1.0

    def _markings(self) -> None:
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

    def _car(self, lateral: float, z: float, heading: float) -> None:
        x = self.x(lateral, z)
        turn = self.yaw + 2 * self.curve * z
        footprint, height = add_car(self.primitives, self.rng, x, z, heading + turn)
        self.shadow(footprint, height)
        if math.cos(heading) < -0.5 and z < 60:
            self.headlights.append((x, 0.7, z - 2))

    def _traffic(self) -> None:
        rng = self.rng
        own = -1 if self.left_driving else 1
        for side, sign in enumerate((-1, 1)):
            heading = 0.0 if sign == own else math.pi
            if self.parking[side]:
                z, density = rng.uniform(3, 12), rng.uniform(0.3, 0.95)
                while z < 75:
                    if rng.random() < density:
                        facing = heading if rng.random() < 0.8 else math.pi - heading
                        self._car(sign * (self.half_road + 1.0), z, facing + rng.normal(0, 0.03))
                    z += rng.uniform(5.6, 8)
            busy = rng.random()
            for lane in range(self.lanes):
                z = rng.uniform(8, 25) if sign == own else rng.uniform(5, 30)
                while z < 90:
                    if rng.random() < busy:
                        self._car(
                            sign * (lane + 0.5) * self.lane_width + rng.normal(0, 0.3),
                            z,
                            heading + rng.normal(0, 0.04),
                        )
                    z += rng.uniform(8, 25)
            for _ in range(rng.poisson(0.55)):
                z = rng.uniform(4.5, 30)
                lateral = sign * (self.half_road - rng.uniform(0.3, 1.6))
                x = self.x(lateral, z)
                self.shadow([(x - 0.3, z), (x + 0.3, z)], add_rider(self.primitives, rng, x, z))
        if rng.random() < 0.25:  # people who cross the road
            z = rng.uniform(6, 30)
            for _ in range(1 + int(rng.random() * 3)):
                x = self.x(rng.uniform(-self.half_road, self.half_road), z)
                self.shadow([(x - 0.25, z), (x + 0.25, z)], add_person(self.primitives, rng, x, z))

    def _bonnet(self) -> None:
        """The front of the own car at the lower edge."""
        rng, z = self.rng, 1.5
        height, width = self.camera.size
        low, half = z * 0.7 * height / self.camera.focal, z * 0.5 * width / self.camera.focal
        top = self.camera.height - z * (
            rng.uniform(0.38, 0.48) * height / self.camera.focal + math.tan(self.camera.pitch)
        )
        outline = [
            (-half, top - low),
            (-0.7 * half, top - 0.06),
            (0, top),
            (0.7 * half, top - 0.06),
            (half, top - low),
        ]
        self.primitives.begin(0.5)
        self.primitives.add([(x, y, z) for x, y in outline], Part.OTHER, pick_color(rng, np.full((1, 3), 0.2)))


def compose_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Draws a random street for images of (height, width) pixels."""
    return _Composer(rng, size).compose()
