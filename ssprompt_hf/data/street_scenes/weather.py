"""Light, texture, camera and weather of the drawn street scenes.

All functions work on float32 images (H, W, 3) with 0 = black and 1 = white. Weather never moves anything: labels are
the same in every condition.
"""

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .classes import Part
from .drawing import SUPERSAMPLING, Raster
from .layout import Scene

CONDITIONS = ("clear", "fog", "night", "rain", "snow")
_GROUND = (Part.ROAD, Part.MARKING, Part.PAVEMENT, Part.KERB, Part.GRASS)
_TILE = 32

# texture strength of a part: in the world at 6 and at 1 cells per metre, and per pixel
_TEXTURE = {
    Part.FACADE: (0.07, 0.08, 0.03),
    Part.WINDOW: (0.1, 0.22, 0.06),
    Part.ROOF: (0.12, 0.08, 0.04),
    Part.ROAD: (0.06, 0.08, 0.05),
    Part.MARKING: (0.1, 0.1, 0.05),
    Part.PAVEMENT: (0.08, 0.08, 0.04),
    Part.GRASS: (0.16, 0.14, 0.12),
    Part.FOLIAGE: (0.14, 0.3, 0.14),
    Part.BARE_TREE: (0.15, 0.2, 0.15),
    Part.HEDGE: (0.18, 0.25, 0.12),
    Part.FENCE: (0.1, 0.1, 0.08),
    Part.CAR: (0.02, 0.06, 0.03),
    Part.CAR_GLASS: (0.1, 0.3, 0.1),
    Part.PERSON: (0.12, 0.0, 0.08),
    Part.RIDER: (0.12, 0.0, 0.08),
}


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Texture strengths by part (number of parts, 3), and which parts are ground."""
    texture = np.full((len(Part), 3), 0.04, np.float32)
    for part, strengths in _TEXTURE.items():
        texture[part] = strengths
    ground = np.zeros(len(Part), bool)
    ground[list(_GROUND)] = True
    return texture, ground


@cache
def _noise_tile(smooth: bool) -> np.ndarray:
    """A cube of random values that repeats without seams, about normal(0, 1), flat (32 * 32 * 32,)."""
    tile = np.random.Generator(np.random.PCG64(7)).standard_normal((_TILE,) * 3, dtype=np.float32)
    if smooth:
        for axis in range(3):
            for _ in range(2):
                tile = tile + np.roll(tile, 1, axis) + np.roll(tile, 2, axis)
        tile = (tile - tile.mean()) / tile.std()
    return np.clip(tile, -2, 2).ravel()


def _world_noise(world: np.ndarray, cells_per_metre: float, offset: int, smooth: bool = False) -> np.ndarray:
    """Random value (H, W) of the cube in space that each pixel sees; `smooth` spreads each over about three cells."""
    scale = np.float32(cells_per_metre * (3 if smooth else 1))
    cell = (world * scale).astype(np.int32) + offset
    cell &= _TILE - 1
    return _noise_tile(smooth)[(cell[0] * _TILE + cell[1]) * _TILE + cell[2]]


def _smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Uniform random values on a coarse grid, enlarged smoothly to (H, W)."""
    grid = Image.fromarray(rng.random(cells, dtype=np.float32))
    return np.asarray(grid.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _blur(image: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of a float image (H, W, 3) or (H, W), through 8 bits."""
    picture = Image.fromarray((np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), np.float32) / np.float32(255)


def _color(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _sky(rng: np.random.Generator, scene: Scene, raster: Raster, condition: str) -> np.ndarray:
    """Image (H, W, 3) of the sky over the whole frame."""
    size = scene.camera.size
    up = raster.world[1] - np.float32(scene.camera.height)
    distance = np.sqrt(raster.world[0] ** 2 + raster.world[2] ** 2)
    share = np.clip(up / (distance + 1e-3) * 1.6, 0, 1)[..., None]
    overcast = rng.uniform(0.55, 1.0)
    if condition == "night":
        glow = rng.uniform(0.02, 0.09)
        return _color(glow * 1.2, glow, glow * 0.9) * (1 - share) + _color(0.01, 0.012, 0.02) * share
    if condition != "clear" or scene.sun_strength == 0:
        level = {"clear": overcast, "fog": 0.8, "rain": overcast * 0.75, "snow": overcast * 0.9}[condition]
        tint = _color(1.0, 1.0, rng.uniform(0.98, 1.06)) * np.float32(level)
        clouds = _smooth_noise(rng, size, (7, 7)) - np.float32(0.5)
        contrast = rng.uniform(0, 0.3) if rng.random() < 0.6 else 0.0
        return (
            tint * (1 - np.float32(rng.uniform(-0.1, 0.25)) * share) * (1 + np.float32(contrast) * clouds[..., None])
        )
    blue = _color(rng.uniform(0.25, 0.5), rng.uniform(0.45, 0.65), rng.uniform(0.75, 0.95))
    warm = rng.uniform(-0.05, 0.15)
    horizon = _color(0.85 + warm, 0.87, 0.92 - warm) * np.float32(rng.uniform(0.8, 1.1))
    sky = horizon * (1 - share) + blue * share
    if rng.random() < 0.6:
        noise = 0.65 * _smooth_noise(rng, size, (4, 5)) + 0.35 * _smooth_noise(rng, size, (13, 17))
        cover = np.clip((noise - rng.uniform(0.35, 0.65)) * rng.uniform(2, 7), 0, 1)[..., None].astype(np.float32)
        white = _color(1, 1, 1) * np.float32(rng.uniform(0.7, 1.0))
        sky = sky * (1 - cover) + white * (1 - np.float32(0.35) * noise[..., None]) * cover
    return sky


def _surfaces(rng, scene: Scene, raster: Raster, sunny: bool) -> tuple[np.ndarray, np.ndarray]:
    """Colours (H, W, 3) of all but the sky, lit by daylight and multiplied by coverage, and the coverage (H, W, 1)."""
    texture, ground = _tables()
    primitives = scene.primitives
    albedo = np.array(primitives.colors)
    strength = scene.sun_strength if sunny else 0.0
    ambient = np.array([0.92, 0.98, 1.1]) * (1 - 0.4 * strength)
    direct = np.maximum(raster.normals @ np.array(scene.sun), 0) * strength
    light = ambient + direct[:, None] * np.array([1.15, 1.05, 0.9]) + 0.12 * raster.normals[:, 1:2]
    table = np.empty((len(albedo), 4), np.uint8)
    table[:, :3] = np.clip(albedo * light * 200, 0, 255)  # 200: room for sunlit white
    table[:, 3] = 255
    table[0] = 0
    picture = Image.fromarray(table[raster.ids]).reduce(SUPERSAMPLING)
    both = np.asarray(picture, np.float32) / np.float32(255)
    color, cover = both[..., :3] * np.float32(255 / 200), both[..., 3:]

    part = raster.part
    amount = texture[part] * np.float32(rng.uniform(0.5, 1.8))
    offset = int(rng.integers(0, _TILE))
    white = rng.standard_normal(part.shape, dtype=np.float32)
    factor = 1 + amount[..., 0] * _world_noise(raster.world, rng.uniform(4, 9), offset)
    factor += amount[..., 1] * _world_noise(raster.world, rng.uniform(0.5, 1.6), offset + 9, smooth=True)
    factor += amount[..., 2] * white
    if strength:
        factor *= 1 - np.float32(rng.uniform(0.35, 0.65) * strength) * (1 - raster.shadow) * ground[part]
    if rng.random() < 0.4:  # joints of paving slabs
        slab = np.float32(rng.uniform(0.5, 1.2))
        joint = (np.abs(raster.world[0] / slab % 1 - 0.5) > 0.45) | (np.abs(raster.world[2] / slab % 1 - 0.5) > 0.45)
        factor *= 1 - np.float32(0.2) * (joint & (part == Part.PAVEMENT) & (raster.depth < 15))
    # the sky is often much brighter than the street below
    exposure = rng.uniform(0.45, 1.1) if rng.random() < 0.5 else 1.0
    color = color * (np.maximum(factor, 0.15) * np.float32(exposure))[..., None]
    # sky glimmers through leaves and, more, through bare branches
    gaps = np.zeros(part.shape, np.float32)
    gaps[part == Part.FOLIAGE] = 0.12
    gaps[part == Part.BARE_TREE] = rng.uniform(0.35, 0.75)
    clusters = _world_noise(raster.world, rng.uniform(1.0, 2.5), offset + 4, smooth=True)
    gaps = np.clip(gaps * (1 + 0.5 * white + 0.7 * clusters), 0, 0.95) * (gaps > 0)
    keep = (1 - gaps)[..., None]
    return color * keep, cover * keep


def _veil(image: np.ndarray, depth: np.ndarray, density: float, airlight: np.ndarray) -> np.ndarray:
    """Koschmieder's law: transmission exp(-density * depth) towards the airlight; density per metre."""
    through = np.exp(np.float32(-density) * depth)[..., None]
    return image * through + airlight * (1 - through)


def _fog(rng, scene, raster, image):
    level = rng.uniform(0.6, 0.9)
    airlight = _color(level, level * rng.uniform(0.98, 1.02), level * rng.uniform(0.97, 1.06))
    thick = raster.depth * (1 + 0.5 * (_smooth_noise(rng, raster.depth.shape, (4, 5)) - 0.5))
    return _veil(0.85 * image, thick, rng.uniform(0.018, 0.06), airlight)


def _night(rng, scene, raster, image):
    albedo = image
    ambient = rng.uniform(0.012, 0.045)
    light = np.empty_like(image)
    light[:] = _color(ambient * 0.9, ambient, ambient * 1.3)
    world = raster.world
    lamp_color = _color(1.0, rng.uniform(0.6, 0.9), rng.uniform(0.3, 0.75))
    power = rng.uniform(4, 14)
    for x, y, z in sorted(scene.lamps, key=lambda lamp: lamp[2])[:6]:
        square = (world[0] - np.float32(x)) ** 2 + (world[1] - np.float32(y)) ** 2 + (world[2] - np.float32(z)) ** 2
        light += np.float32(power) / (square + 8)[..., None] * lamp_color
    for x, _, z in scene.headlights[:4]:
        square = (world[0] - np.float32(x)) ** 2 + world[1] ** 2 + (world[2] - np.float32(z)) ** 2
        light += np.float32(1.2) / (square + 3)[..., None] * _color(1, 1, 0.95)
    own = rng.uniform(15, 60)  # own headlights: a cone that fades with the square of the distance
    side = world[0] / (raster.depth + 1)
    low = np.clip(1.6 - (world[1] - 0.3) / (0.12 * raster.depth + 0.6), 0.08, 1)
    beam = np.float32(own) / (raster.depth + 5) ** 2 * np.exp(-6 * side**2) * low
    light += beam[..., None] * _color(1, 0.96, 0.88)
    glow = np.array(scene.primitives.emissions, np.float32)
    colors = np.clip(np.array(scene.primitives.colors, np.float32) * 2.2 + np.float32(0.15), 0, 1)
    is_lamp = glow >= 2
    colors[is_lamp] = lamp_color
    warm = np.array(scene.primitives.parts) == Part.WINDOW
    colors[warm] = _color(1.0, 0.78, 0.45)
    emitted = (glow[:, None] * colors * np.float32(rng.uniform(0.35, 0.8)))[raster.center_ids]
    visible_sky = (raster.part == Part.SKY)[..., None]
    dark = np.where(visible_sky, albedo, albedo * light) + emitted
    bloom = _blur(np.clip(emitted, 0, 1), 0.02 * raster.depth.shape[0] + 0.5)
    dark = dark * np.float32(rng.uniform(0.8, 1.5)) + 0.9 * bloom
    grain = rng.uniform(0.008, 0.03)
    return dark + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(grain)


def _horizon_mirror(scene: Scene, image: np.ndarray) -> np.ndarray:
    """The image mirrored at the horizon, as a wet road shows what is far away."""
    height = image.shape[0]
    horizon = height / 2 - scene.camera.focal * math.tan(scene.camera.pitch)
    rows = np.clip(2 * horizon - np.arange(height), 0, height - 1).astype(int)
    return image[rows]


def _rain(rng, scene, raster, image):
    height, width = raster.depth.shape
    ground = _tables()[1][raster.part]
    image = image * np.float32(rng.uniform(0.5, 0.75))
    puddles = np.clip(0.55 + 0.35 * _world_noise(raster.world, 0.7, 3, smooth=True), 0.1, 1) * rng.uniform(0.5, 1.0)
    wet = (ground * puddles * (raster.depth / (raster.depth + 9))).astype(np.float32)[..., None] * np.float32(0.85)
    mirror = _blur(_horizon_mirror(scene, image), 0.02 * height)
    image = image * np.where(ground[..., None], np.float32(0.7), np.float32(1)) * (1 - wet) + mirror * wet
    gray = rng.uniform(0.4, 0.6)
    image = _veil(image, raster.depth, rng.uniform(0.006, 0.02), _color(gray, gray, gray * 1.04))

    streaks = Image.new("L", (width, height))
    draw = ImageDraw.Draw(streaks)
    count = int(rng.uniform(60, 220))
    slant, longest = rng.normal(0, 0.15), 0.16 * height
    starts = rng.random((count, 4))
    for x, y, length, level in starts.tolist():
        reach = (0.3 + 0.7 * length) * longest
        x, y = x * width, y * height * 1.1 - 0.1 * height
        draw.line([x, y, x + slant * reach, y + reach], fill=int(30 + 110 * level))
    streak = np.asarray(streaks, np.float32)[..., None] / np.float32(255)
    image = image * (1 - streak) + streak * np.float32(0.75)

    drops = Image.new("L", (width, height))  # on the windscreen: what lies behind is smeared and shifted
    draw = ImageDraw.Draw(drops)
    for x, y, size in rng.random((int(rng.uniform(5, 45)), 3)).tolist():
        r = (0.012 + 0.035 * size * size) * height
        draw.ellipse([x * width - r, y * height - r, x * width + r, y * height + 1.3 * r], fill=255)
    mask = _blur(np.asarray(drops, np.float32) / np.float32(255), 0.6)[..., None]
    smear = np.roll(_blur(image, 0.03 * height), int(0.06 * height), 0)
    image = image * (1 - mask) + (smear * np.float32(1.05) + np.float32(0.03)) * mask
    return _blur(image, rng.uniform(0.2, 0.7) * height / 96)


def _snow(rng, scene, raster, image):
    height, width = raster.depth.shape
    part = raster.part
    depth_of_snow = rng.uniform(0.35, 1.0)
    cover = np.zeros(len(Part), np.float32)
    cover[[Part.GRASS, Part.PAVEMENT, Part.KERB]] = 0.95, 0.8, 0.8
    cover[[Part.ROAD, Part.MARKING]] = rng.uniform(0.15, 0.8)
    cover[[Part.FOLIAGE, Part.HEDGE, Part.BARE_TREE, Part.TRUNK]] = 0.5, 0.55, 0.35, 0.2
    share = cover[part] * np.float32(depth_of_snow)
    upward = (raster.normals[:, 1] > 0.45)[raster.center_ids] & ~_tables()[1][part] & (part != Part.SKY)
    share[upward] = 0.95 * depth_of_snow
    patch = _world_noise(raster.world, 0.8, 5, smooth=True) * np.float32(0.6) + _world_noise(
        raster.world, 4.0, 1
    ) * np.float32(0.4)
    share = share * np.clip(1 + 0.45 * patch, 0, 1.3)
    start, yaw, curve = scene.tracks
    lateral = (
        raster.world[0]
        - np.float32(start)
        - np.float32(yaw) * raster.world[2]
        - np.float32(curve) * raster.world[2] ** 2
    )
    ruts = np.abs(np.abs(lateral) % 3.2 - 1.6)  # two wheel tracks to a lane
    swept = np.exp(-(((ruts - 0.75) / 0.3) ** 2)) * ((part == Part.ROAD) | (part == Part.MARKING))
    share = np.clip(share * (1 - 0.8 * swept), 0, 1).astype(np.float32)[..., None]
    level = rng.uniform(0.7, 0.92)
    white = _color(level, level * 1.01, level * 1.05) * (1 + np.float32(0.04) * patch[..., None])
    image = image * np.float32(rng.uniform(0.65, 0.95)) * (1 - share) + white * share
    gray = rng.uniform(0.6, 0.8)
    image = _veil(image, raster.depth, rng.uniform(0.006, 0.022), _color(gray, gray, gray * 1.02))

    flakes = Image.new("L", (width, height))
    draw = ImageDraw.Draw(flakes)
    for x, y, size, level in rng.random((int(rng.uniform(80, 380)), 4)).tolist():
        r = (0.003 + 0.012 * size**3) * height
        x, y = x * width, y * height
        draw.ellipse([x - r, y - r, x + r, y + 1.2 * r], fill=int(90 + 160 * level))
    falling = _blur(np.asarray(flakes, np.float32) / np.float32(255), rng.uniform(0.3, 0.7) * height / 96)[..., None]
    return image * (1 - falling) + falling * np.float32(0.97)


_WEATHER = {"fog": _fog, "night": _night, "rain": _rain, "snow": _snow}


def _camera(rng: np.random.Generator, image: np.ndarray, bright: bool) -> np.ndarray:
    """Exposure, white balance, tone, lens and sensor. Returns uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    image = image * (
        _color(*rng.uniform(0.93, 1.07, 3)) * np.float32(rng.uniform(0.7, 1.3) if bright else rng.uniform(0.9, 1.1))
    )
    if rng.random() < 0.3:
        image = _blur(image, rng.uniform(0.2, 0.7) * height / 96)
    image = np.clip(image, 0, None) ** np.float32(rng.uniform(0.75, 1.35) if bright else 1.0)
    if rng.random() < 0.4:
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :] ** 2
        image = image * (1 - np.float32(rng.uniform(0.05, 0.2)) * (x + y))[..., None]
    gray = image.mean(2, keepdims=True)
    image = gray + (image - gray) * np.float32(rng.uniform(0.6, 1.25))
    noise = rng.uniform(0.002, 0.02)
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(noise)
    return (np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def render(scene: Scene, raster: Raster, condition: str, rng: np.random.Generator) -> np.ndarray:
    """Image of a drawn scene in one of `CONDITIONS`, uint8 (H, W, 3)."""
    color, cover = _surfaces(rng, scene, raster, sunny=condition == "clear")
    image = color + _sky(rng, scene, raster, condition) * (1 - cover)
    if condition == "clear":
        haze = rng.uniform(0.0, 0.005)
        level = rng.uniform(0.6, 0.9)
        depth = np.where(raster.part == Part.SKY, np.float32(0), raster.depth)
        image = _veil(image, depth, haze, _color(level, level, level * 1.05))
    else:
        image = _WEATHER[condition](rng, scene, raster, image)
    return _camera(rng, image, bright=condition != "night")
