"""Painter's-algorithm drawing of flat polygons in three dimensions.

Every polygon is drawn once, as its own number, into one integer image at twice the resolution; colour, part, instance
and depth are then table look-ups by that number. This is what makes a scene cost milliseconds.
World axes: x right, y up, z forward, in metres; the camera stands at (0, height, 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 2
NEAR_PLANE = 0.4
GROUND_KEY = 1e6  # painted before everything else; the sky is the empty image

Point = tuple[float, float, float]


@dataclass
class Camera:
    """Pinhole camera.

    Args:
        size: (height, width) of the final image in pixels.
        focal: focal length in final pixels.
        height: metres above the ground.
        pitch: radians, positive looks down.
        roll: radians.
    """

    size: tuple[int, int]
    focal: float
    height: float
    pitch: float
    roll: float

    def __post_init__(self):
        cos_p, sin_p = np.cos(self.pitch), np.sin(self.pitch)
        cos_r, sin_r = np.cos(self.roll), np.sin(self.roll)
        # camera axes: x right, y down, z along the optical axis
        pitch = np.array([[1.0, 0.0, 0.0], [0.0, -cos_p, -sin_p], [0.0, -sin_p, cos_p]])
        roll = np.array([[cos_r, -sin_r, 0.0], [sin_r, cos_r, 0.0], [0.0, 0.0, 1.0]])
        self.rotation = roll @ pitch

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points (n, 3) to camera coordinates (n, 3), metres."""
        return (points - np.array([0.0, self.height, 0.0])) @ self.rotation.T

    def to_pixels(self, points: np.ndarray, scale: int = 1) -> np.ndarray:
        """Camera-space points (n, 3), z > 0, to pixel coordinates (n, 2) of the image enlarged `scale` times."""
        height, width = self.size
        xy = points[:, :2] * (self.focal / np.maximum(points[:, 2:], 1e-3))
        return np.clip((xy + np.array([width / 2, height / 2])) * scale, -1e6, 1e6)

    def rays(self) -> np.ndarray:
        """Camera-space viewing rays with z = 1 through the pixel centres, float32 (3, H, W)."""
        height, width = self.size
        u = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / np.float32(self.focal)
        v = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / np.float32(self.focal)
        rays = np.empty((3, height, width), np.float32)
        rays[0], rays[1], rays[2] = u[None, :], v[:, None], 1.0
        return rays


@dataclass
class Primitives:
    """Polygons of a scene with their attributes; polygon 0 is the sky and has no points."""

    points: list[Point] = field(default_factory=list)
    counts: list[int] = field(default_factory=lambda: [0])
    keys: list[float] = field(default_factory=lambda: [2 * GROUND_KEY])
    parts: list[int] = field(default_factory=lambda: [0])
    colors: list[tuple[float, float, float]] = field(default_factory=lambda: [(0.0, 0.0, 0.0)])
    instances: list[int] = field(default_factory=lambda: [0])
    emissions: list[float] = field(default_factory=lambda: [0.0])
    key: float = 0.0
    instance: int = 0
    num_instances: int = 0

    def begin(self, key: float, instance: bool = False) -> None:
        """Sets the distance `key` of the polygons that follow (far ones are painted first, equals in the order added)
        and, if asked, makes them a new instance."""
        self.key = key
        self.num_instances += instance
        self.instance = self.num_instances if instance else 0

    def add(self, points: list[Point], part: int, color: Sequence[float], emission: float = 0.0) -> None:
        """Adds one flat polygon. `color` is RGB in 0..1, `emission` how bright it glows at night."""
        self.points.extend(points)
        self.counts.append(len(points))
        self.keys.append(self.key)
        self.parts.append(part)
        self.colors.append(color)
        self.instances.append(self.instance)
        self.emissions.append(emission)

    def add_quads(self, quads: np.ndarray, part: int, colors: np.ndarray, emissions: np.ndarray | float) -> None:
        """Adds n quadrilaterals (n, 4, 3) with `colors` (n, 3) and `emissions` (n,)."""
        n = len(quads)
        self.points.extend(quads.reshape(-1, 3).tolist())
        self.counts.extend([4] * n)
        self.keys.extend([self.key] * n)
        self.parts.extend([part] * n)
        self.colors.extend(np.asarray(colors).tolist())
        self.instances.extend([self.instance] * n)
        self.emissions.extend(np.asarray(emissions).tolist())


@dataclass
class Raster:
    """What a scene looks like before light and weather.

    Attributes:
        ids: int32 (2H, 2W), polygon number at every sub-pixel.
        center_ids: int32 (H, W), the same at the pixel centres.
        part, instance: int arrays (H, W) at the pixel centres.
        depth: float32 (H, W), metres along the optical axis, 1e4 for the sky.
        world: float32 (3, H, W), world coordinates of what is seen, metres.
        shadow: float32 (H, W), share of direct light kept, 0 to 1.
        normals: float64 (n, 3), world normal of every polygon, towards the camera.
    """

    ids: np.ndarray
    center_ids: np.ndarray
    part: np.ndarray
    instance: np.ndarray
    depth: np.ndarray
    world: np.ndarray
    shadow: np.ndarray
    normals: np.ndarray


def _clip_near(points: np.ndarray) -> np.ndarray:
    """Cuts a camera-space polygon (n, 3) at the near plane (Sutherland-Hodgman)."""
    kept = []
    for i in range(len(points)):
        a, b = points[i - 1], points[i]
        if (a[2] >= NEAR_PLANE) != (b[2] >= NEAR_PLANE):
            kept.append(a + (b - a) * ((NEAR_PLANE - a[2]) / (b[2] - a[2])))
        if b[2] >= NEAR_PLANE:
            kept.append(b)
    return np.array(kept).reshape(-1, 3)


def _draw_polygons(camera: Camera, points: np.ndarray, counts: np.ndarray, order, fills, mode: str) -> Image.Image:
    """Draws camera-space polygons (points concatenated, `counts` each) in `order` with the given fill values."""
    height, width = (SUPERSAMPLING * side for side in camera.size)
    image = Image.new(mode, (width, height))
    draw = ImageDraw.Draw(image)
    ends = np.cumsum(counts)
    starts = ends - counts
    pixels = camera.to_pixels(points, SUPERSAMPLING)
    nearest = np.full(len(counts), -1.0)
    farthest = nearest.copy()
    visible = np.zeros(len(counts), bool)
    filled = np.flatnonzero(counts)
    if len(filled):
        low = np.minimum.reduceat(pixels, starts[filled])
        high = np.maximum.reduceat(pixels, starts[filled])
        nearest[filled] = np.minimum.reduceat(points[:, 2], starts[filled])
        farthest[filled] = np.maximum.reduceat(points[:, 2], starts[filled])
        inside = (high >= 0).all(1) & (low[:, 0] < width) & (low[:, 1] < height)
        visible[filled] = inside | (nearest[filled] < NEAR_PLANE)
    visible &= farthest > NEAR_PLANE
    whole = nearest >= NEAR_PLANE
    flat = pixels.ravel().tolist()
    for i in order:
        if not visible[i]:
            continue
        if whole[i]:
            corners = flat[2 * starts[i] : 2 * ends[i]]
        else:
            clipped = _clip_near(points[starts[i] : ends[i]])
            if len(clipped) < 3:
                continue
            corners = camera.to_pixels(clipped, SUPERSAMPLING).ravel().tolist()
        draw.polygon(corners, fill=fills[i])
    return image


def _polygon_planes(points: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth of each polygon as a plane over the viewing ray.

    Returns the table (n, 5) of coefficients (a, b, c) with 1/z = a*u + b*v + c and the bounds of 1/z, and unit normals
    (n, 3) towards the camera. A plane's inverse depth is linear over the image, so this is exact.
    """
    n = len(counts)
    table = np.zeros((n, 5), np.float32)
    normals = np.zeros((n, 3))
    filled = np.flatnonzero(counts)
    starts = (np.cumsum(counts) - counts)[filled]
    first = points[starts]
    normal = np.cross(points[starts + 1] - first, points[starts + 2] - first)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    distance = (normal * first).sum(1)
    normals[filled] = -normal * np.where(distance < 0, -1.0, 1.0)[:, None]
    safe = np.where(np.abs(distance) < 1e-6, 1e-6, distance)
    table[filled, :3] = normal / safe[:, None]
    z = np.maximum(points[:, 2], NEAR_PLANE)
    table[filled, 3] = 1 / np.maximum.reduceat(z, starts)
    table[filled, 4] = 1 / np.minimum.reduceat(z, starts)
    return table, normals


def rasterise(camera: Camera, primitives: Primitives, shadows: list[list[Point]]) -> Raster:
    """Draws the polygons and the ground polygons that lie in cast shadow."""
    counts = np.array(primitives.counts)
    points = camera.to_camera(np.array(primitives.points))
    order = np.argsort(-np.array(primitives.keys), kind="stable").tolist()
    image = _draw_polygons(camera, points, counts, order, range(len(counts)), "I")
    ids = np.asarray(image)
    center_ids = ids[1::SUPERSAMPLING, 1::SUPERSAMPLING]

    planes, normals = _polygon_planes(points, counts)
    rays = camera.rays()
    plane = planes[center_ids]
    inverse = plane[..., 0] * rays[0] + plane[..., 1] * rays[1] + plane[..., 2]
    depth = 1 / np.maximum(np.clip(inverse, plane[..., 3], plane[..., 4]), np.float32(1e-4))
    to_world = camera.rotation.T.astype(np.float32)
    world = (to_world @ (rays * depth).reshape(3, -1)).reshape(rays.shape)
    world[1] += np.float32(camera.height)

    shadow = np.ones(camera.size, np.float32)
    if shadows:
        cast = camera.to_camera(np.array([point for polygon in shadows for point in polygon]))
        shadow_counts = np.array([len(polygon) for polygon in shadows])
        indices = range(len(shadows))
        mask = _draw_polygons(camera, cast, shadow_counts, indices, [255] * len(shadows), "L").reduce(SUPERSAMPLING)
        shadow = 1 - np.asarray(mask, np.float32) / 255
    return Raster(
        ids=ids,
        center_ids=center_ids,
        part=np.array(primitives.parts, np.uint8)[center_ids],
        instance=np.array(primitives.instances, np.int32)[center_ids],
        depth=depth,
        world=world,
        shadow=shadow,
        normals=normals @ camera.rotation,
    )
