"""What stands and moves along a drawn street: both sides, pavements, traffic and background."""

import math
from dataclasses import dataclass

import numpy as np

from .buildings import add_building, add_fence, add_front, fence_style
from .classes import Part
from .drawing import Camera, Point, Primitives
from .objects import (
    add_car,
    add_lamp_post,
    add_other,
    add_person,
    add_post,
    add_rider,
    add_sign,
    add_traffic_light,
    add_tree,
    pick_color,
    shade,
)
from .road import FAR, LAMP_COLORS, LEAF_COLORS, Street


@dataclass
class Scene:
    """A composed street, ready to be drawn.

    Attributes:
        camera: the camera.
        primitives: all polygons.
        shadows: ground polygons that lie in cast shadow when the sun shines.
        sun: unit vector towards the sun, world axes.
        sun_strength: 0 (overcast) to 1.
        lamps: positions of street lamps, metres, nearest first on each side.
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


def _add_background(street: Street) -> None:
    rng = street.rng
    leaf = LEAF_COLORS[street.season]
    if rng.random() < 0.75:
        x = -110.0
        while x < 110:
            wide = rng.uniform(8, 30)
            if rng.random() < 0.5 + 0.4 * street.urban:
                add_front(
                    street.primitives, rng, x, x + wide, rng.uniform(142, 170), rng.uniform(4, 9 + 14 * street.urban)
                )
            x += wide
    if rng.random() < 0.8:
        x, z = -130.0, 175.0
        tops = [(x + i * 10, rng.uniform(4, 15), z) for i in range(27)]
        street.primitives.begin(z - 20 if rng.random() < 0.3 else z + 40)
        street.primitives.add(
            [(x, 0, z), *tops, (x + 260, 0, z)], Part.FOLIAGE, shade(pick_color(rng, leaf, 0.03), 0.9)
        )
    if rng.random() < 0.35:  # the street ends at a T-junction
        z = rng.uniform(45, 120)
        middle = street.x(0, z)
        x = middle - 40
        while x < middle + 40:
            wide = rng.uniform(8, 18)
            if rng.random() < street.urban:
                add_front(street.primitives, rng, x, x + wide, z, rng.uniform(6, 16))
            else:
                add_tree(street.primitives, rng, x, z, pick_color(rng, leaf, 0.03), street.bare, 1.0)
            x += wide


def _add_boundary(street: Street, lateral: float, start: float, end: float, style: dict, leaf) -> None:
    """A fence or a hedge along the back of the pavement."""
    rng, start = street.rng, max(start, 0.6)
    if end - start < 1:
        return
    a, b = (street.x(lateral, start), start), (street.x(lateral, end), end)
    if rng.random() < 0.68:
        add_fence(street.primitives, rng, a, b, style)
        return
    tall = rng.uniform(0.8, 2.6)
    n = 7
    top = [
        (a[0] + (b[0] - a[0]) * i / n, tall * rng.uniform(0.85, 1.15), a[1] + (b[1] - a[1]) * i / n)
        for i in range(n, -1, -1)
    ]
    street.primitives.begin(max(math.hypot(*a), math.hypot(*b)))
    street.primitives.add([(a[0], 0, a[1]), (b[0], 0, b[1]), *top], Part.HEDGE, pick_color(rng, leaf, 0.03))


def _place_tree(street: Street, lateral: float, z: float, leaf, scale: float) -> None:
    x = street.x(lateral, z)
    radius = add_tree(street.primitives, street.rng, x, z, pick_color(street.rng, leaf, 0.03), street.bare, scale)
    if street.sun_strength > 0:
        dx, dz = street.shadow_step
        reach = 5.0 * scale
        ring = [(2 * math.pi * i / 9) for i in range(9)]
        street.shadows.append(
            [(x + dx * reach + radius * math.sin(t), 0.0, z + dz * reach + radius * math.cos(t)) for t in ring]
        )


def _place_car(street: Street, lateral: float, z: float, heading: float) -> None:
    x = street.x(lateral, z)
    turn = street.yaw + 2 * street.curve * z
    footprint, height = add_car(street.primitives, street.rng, x, z, heading + turn)
    street.shadow(footprint, height)
    if math.cos(heading) < -0.5 and z < 60:
        street.headlights.append((x, 0.7, z - 2))


def _add_furniture(street: Street, index: int, sign: int, edge: float, line: float, leaf) -> None:
    """Lamp posts, signs, lights, bollards, trees and people on the pavement."""
    rng = street.rng
    kerbside = edge + 0.5
    if rng.random() < 0.85:
        style = {
            "height": rng.uniform(5, 10),
            "width": rng.uniform(0.12, 0.24),
            "color": pick_color(rng, LAMP_COLORS, 0.03),
            "bow": rng.uniform(0, 0.8),
        }
        arm = -sign * rng.uniform(0.4, 2.2)
        spacing = rng.uniform(14, 35)
        z = rng.uniform(3, spacing)
        while z < 110:
            x = street.x(sign * kerbside, z)
            street.lamps.append(add_lamp_post(street.primitives, rng, x, z, arm, style))
            street.shadow([(x - 0.1, z), (x + 0.1, z)], style["height"])
            z += spacing
    for _ in range(rng.poisson(1.6)):
        add_sign(
            street.primitives, rng, street.x(sign * (kerbside + rng.uniform(-0.2, 0.8)), z := rng.uniform(5, 45)), z
        )
    if street.crossing or rng.random() < 0.15:
        z = street.crossing[0] - 1 if street.crossing else rng.uniform(8, 40)
        for offset in (0.0, rng.uniform(8, 13))[: 1 + (rng.random() < 0.5)]:
            add_traffic_light(street.primitives, rng, street.x(sign * kerbside, z + offset), z + offset)
    for _ in range(rng.poisson(0.9)):  # plain masts and telegraph poles
        z = rng.uniform(5, 60)
        street.primitives.begin(z)
        add_post(street.primitives, street.x(sign * (kerbside + rng.uniform(0, 2)), z), z, rng.uniform(2.5, 9),
                 rng.uniform(0.08, 0.22), pick_color(rng, LAMP_COLORS, 0.03))  # fmt: skip
    if rng.random() < 0.15:  # a row of bollards
        z, color = rng.uniform(4, 15), pick_color(rng, LAMP_COLORS)
        for _ in range(int(rng.uniform(3, 9))):
            x = street.x(sign * kerbside, z)
            street.primitives.begin(math.hypot(x, z))
            add_post(street.primitives, x, z, 1.0, 0.14, color)
            z += 1.6
    if rng.random() < 0.12:  # a guard rail at the kerb
        z = rng.uniform(4, 30)
        style = fence_style(rng) | {"railing": True, "height": rng.uniform(0.9, 1.2)}
        end = z + rng.uniform(5, 15)
        a, b = (street.x(sign * (edge + 0.3), z), z), (street.x(sign * (edge + 0.3), end), end)
        add_fence(street.primitives, rng, a, b, style)
    if rng.random() < 0.4:  # an avenue
        z, spacing = rng.uniform(4, 14), rng.uniform(7, 16)
        while z < 90:
            _place_tree(street, sign * min(line - 0.4, kerbside + 0.8), z + rng.normal(0, 0.6), leaf, 0.8)
            z += spacing
    width = line - edge
    for _ in range(rng.poisson(0.5 + 4.0 * street.crowd**2 * (0.4 + street.urban))):
        z = 4 + 40 * rng.random() ** 1.4
        for _ in range(1 if rng.random() < 0.65 else 2 + int(rng.random() * 2)):
            lateral = sign * (edge + 0.4 + width * rng.random())
            x = street.x(lateral, z)
            street.shadow([(x - 0.25, z), (x + 0.25, z)], add_person(street.primitives, rng, x, z))
            z += rng.uniform(-0.7, 0.7)
    if rng.random() < 0.25:
        z = rng.uniform(5, 30)
        add_other(street.primitives, rng, street.x(sign * (line - 0.5), z), z)


def _add_side(street: Street, index: int, sign: int) -> None:
    """Everything beside the road on one side, from near to far."""
    rng = street.rng
    edge = street.half_road + street.parking[index]
    line = edge + street.pavement_width[index]
    leaf = LEAF_COLORS[street.season]
    fences = fence_style(rng)
    z = rng.uniform(-12, 2)
    height = rng.uniform(5, 9) + 10 * street.urban * rng.random()
    previous = ""
    while z < FAR:
        length = rng.uniform(6, 18) * (1 + z / 90)
        if (
            street.crossing
            and street.crossing_sides[index]
            and z < street.crossing[1]
            and z + length > street.crossing[0]
        ):
            if street.crossing[0] - z > 5:
                length = street.crossing[0] - z
            else:
                z = street.crossing[1]
                continue
        end = z + length
        if not (previous and rng.random() < 0.55):
            draw = rng.random()
            share = 0.3 + 0.6 * street.urban
            previous = "building" if draw < share else "trees" if draw < share + 0.7 * (1 - share) else "open"
        setback = 0.0 if street.urban > 0.45 else rng.uniform(1, 7)
        start = max(z, -3.0)
        if previous == "building" and end > 1:
            tall = max(4.0, height + rng.normal(0, 1.5 + 2 * street.urban))
            lateral = sign * (line + setback)
            a, b = (street.x(lateral, start), start), (street.x(lateral, end), end)
            add_building(
                street.primitives, rng, a, b, sign * rng.uniform(6, 10), tall, setback == 0 and rng.random() < 0.5
            )
            back = sign * 9
            street.shadow([a, b, (b[0] + back, b[1]), (a[0] + back, a[1])], tall)
            if setback > 0 and rng.random() < 0.6:
                _add_boundary(street, sign * line, start, end, fences, leaf)
        elif previous == "trees" and end > 1:
            if rng.random() < 0.65:
                _add_boundary(street, sign * line, start, end, fences, leaf)
            for _ in range(1 + int(rng.random() * 3)):
                tz = rng.uniform(max(start, 3.0), max(end, 4.0))
                _place_tree(street, sign * (line + rng.uniform(1.0, 14)), tz, leaf, 1.2)
        elif end > 1 and rng.random() < 0.6:
            _add_boundary(street, sign * line, start, end, fences, leaf)
        z = end if rng.random() < 0.8 else end + rng.uniform(1, 6)
    _add_furniture(street, index, sign, edge, line, leaf)


def _add_crossing(street: Street) -> None:
    """A side street on one side or on both."""
    z0, z1 = street.crossing
    rng = street.rng
    for side, sign in enumerate((-1, 1)):
        if not street.crossing_sides[side]:
            continue
        inner = sign * (street.half_road + street.parking[side] - 0.1)
        street.strip(inner, inner + sign * 70, z0, z1, Part.ROAD, street.road_color, 4)
        for _ in range(rng.poisson(0.7)):
            lateral = inner + sign * rng.uniform(3, 25)
            z = rng.choice((z0 + 1.6, z1 - 1.6))
            _place_car(street, lateral, float(z), math.pi / 2 * (1 if rng.random() < 0.5 else -1))
    if rng.random() < 0.5 and z0 > 6:  # stripes of a zebra crossing
        lateral = -street.half_road
        while lateral < street.half_road - 0.5:
            street.strip(lateral, lateral + 0.5, z0 - 4, z0 - 1, Part.MARKING, (0.72, 0.72, 0.7), 6)
            lateral += 1.0


def _add_traffic(street: Street) -> None:
    rng = street.rng
    own = -1 if street.left_driving else 1
    for side, sign in enumerate((-1, 1)):
        heading = 0.0 if sign == own else math.pi
        if street.parking[side]:
            z, density = rng.uniform(3, 12), rng.uniform(0.3, 0.95)
            while z < 75:
                if rng.random() < density:
                    facing = heading if rng.random() < 0.8 else math.pi - heading
                    _place_car(street, sign * (street.half_road + 1.0), z, facing + rng.normal(0, 0.03))
                z += rng.uniform(5.6, 8)
        busy = rng.random()
        for lane in range(street.lanes):
            z = rng.uniform(8, 25) if sign == own else rng.uniform(5, 30)
            while z < 90:
                if rng.random() < busy:
                    _place_car(
                        street,
                        sign * (lane + 0.5) * street.lane_width + rng.normal(0, 0.3),
                        z,
                        heading + rng.normal(0, 0.04),
                    )
                z += rng.uniform(8, 25)
        for _ in range(rng.poisson(0.55)):
            z = rng.uniform(4.5, 30)
            lateral = sign * (street.half_road - rng.uniform(0.3, 1.6))
            x = street.x(lateral, z)
            street.shadow([(x - 0.3, z), (x + 0.3, z)], add_rider(street.primitives, rng, x, z))
    if rng.random() < 0.25:  # people who cross the road
        z = rng.uniform(6, 30)
        for _ in range(1 + int(rng.random() * 3)):
            x = street.x(rng.uniform(-street.half_road, street.half_road), z)
            street.shadow([(x - 0.25, z), (x + 0.25, z)], add_person(street.primitives, rng, x, z))


def _add_bonnet(street: Street) -> None:
    """The front of the own car at the lower edge."""
    rng, z = street.rng, 1.5
    height, width = street.camera.size
    low, half = z * 0.7 * height / street.camera.focal, z * 0.5 * width / street.camera.focal
    top = street.camera.height - z * (
        rng.uniform(0.38, 0.48) * height / street.camera.focal + math.tan(street.camera.pitch)
    )
    outline = [
        (-half, top - low),
        (-0.7 * half, top - 0.06),
        (0, top),
        (0.7 * half, top - 0.06),
        (half, top - low),
    ]
    street.primitives.begin(0.5)
    street.primitives.add([(x, y, z) for x, y in outline], Part.OTHER, pick_color(rng, np.full((1, 3), 0.2)))


def compose_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Draws a random street for images of (height, width) pixels."""
    street = Street(rng, size)
    street.draw_ground()
    _add_background(street)
    for index, sign in enumerate((-1, 1)):
        _add_side(street, index, sign)
    if street.crossing:
        _add_crossing(street)
    street.draw_markings()
    _add_traffic(street)
    if rng.random() < 0.12:
        _add_bonnet(street)
    return Scene(
        camera=street.camera,
        primitives=street.primitives,
        shadows=street.shadows,
        sun=street.sun,
        sun_strength=street.sun_strength,
        lamps=street.lamps,
        headlights=street.headlights,
        tracks=(street.x(0, 0), street.yaw, street.curve),
    )
