"""Drawn scenes for pretraining, more varied than those that are drawn for evaluation, in files of a few dozen.

Other processes draw while one trains: a file appears under its name when it is whole.
"""

import dataclasses
import math
import os
import time
from multiprocessing import Process
from pathlib import Path

import numpy as np
import torch

from ssprompt_hf.data.street_scenes.buildings import add_fence, fence_style
from ssprompt_hf.data.street_scenes.classes import Part
from ssprompt_hf.data.street_scenes.drawing import Camera, rasterise
from ssprompt_hf.data.street_scenes.layout import Scene, compose_scene
from ssprompt_hf.data.street_scenes.objects import (
    add_car,
    add_person,
    add_post,
    add_rider,
    add_sign,
    add_traffic_light,
    add_tree,
    pick_color,
)
from ssprompt_hf.data.street_scenes.road import LAMP_COLORS, LEAF_COLORS
from ssprompt_hf.data.street_scenes.weather import render
from ssprompt_hf.utils.files import atomic_path

SIZE = (256, 448)
SCENES_A_FILE = 32
PLAIN_SCENES = 7  # of twenty: they are like those of the data set
PRETRAINING_SEED = 7919  # few-shot experiments draw their scenes from seeds 0, 1, 2, ...


def vary_camera(scene: Scene, rng: np.random.Generator) -> None:
    """Another lens, height and tilt than street scenes are drawn with, in half of the scenes."""
    if rng.random() < 0.5:
        return
    old = scene.camera
    focal = old.focal * float(np.exp(rng.uniform(-0.35, 0.5)))
    height = float(rng.choice([rng.uniform(1.0, 2.0), rng.uniform(2.0, 3.6)], p=(0.7, 0.3)))
    horizon = old.size[0] * rng.uniform(-0.2, 0.2)
    scene.camera = Camera(old.size, focal, height, -math.atan(horizon / focal), old.roll * 1.5)


def add_traffic(scene: Scene, rng: np.random.Generator) -> None:
    """More cyclists, people and rows of parked cars, which are near and large more often."""
    start, yaw, curve = scene.tracks

    def x(lateral: float, z: float) -> float:
        return start + lateral + yaw * z + curve * z * z

    primitives = scene.primitives
    if rng.random() < 0.45:
        for _ in range(int(rng.integers(1, 4))):
            z = 3.5 + 20 * rng.random() ** 1.5
            add_rider(primitives, rng, x(rng.uniform(-6, 6), z), z)
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 5))):
            z = 3.5 + 25 * rng.random() ** 1.5
            add_person(primitives, rng, x(rng.uniform(-9, 9), z), z)
    if rng.random() < 0.4:
        lateral, z = float(rng.choice([-1, 1])) * rng.uniform(3.2, 7.5), rng.uniform(2, 12)
        across = rng.random() < 0.2
        while z < 70:
            if rng.random() < 0.85:
                heading = (math.pi / 2 if across else math.pi * (rng.random() < 0.5)) + rng.normal(0, 0.06)
                add_car(primitives, rng, x(lateral, z), z, heading + yaw + 2 * curve * z)
            z += rng.uniform(2.4, 3.2) if across else rng.uniform(4.8, 6.5)


def add_clutter(scene: Scene, rng: np.random.Generator) -> None:
    """What photographs are full of beside the road: fences, posts, signs and trees in front of façades, near ones."""
    start, yaw, curve = scene.tracks

    def x(lateral: float, z: float) -> float:
        return start + lateral + yaw * z + curve * z * z

    primitives = scene.primitives
    for sign in (-1, 1):
        edge = rng.uniform(3.5, 9)  # from the centre line
        if rng.random() < 0.3:
            style = fence_style(rng)
            if rng.random() < 0.4:
                style |= {"height": rng.uniform(1.6, 2.8), "railing": False}  # a garden wall
            z, length = rng.uniform(1, 12), rng.uniform(4, 9)
            lateral = sign * (edge + rng.uniform(0.5, 4))
            for _ in range(int(rng.integers(2, 7))):
                add_fence(primitives, rng, (x(lateral, z), z), (x(lateral, z + length), z + length), style)
                z += length
        if rng.random() < 0.4:
            for _ in range(int(rng.integers(1, 4))):
                z = 4 + 18 * rng.random()
                add_sign(primitives, rng, x(sign * (edge + rng.uniform(-0.5, 1.5)), z), z)
        if rng.random() < 0.25:
            z = 5 + 20 * rng.random()
            add_traffic_light(primitives, rng, x(sign * edge, z), z)
        if rng.random() < 0.4:
            for _ in range(int(rng.integers(1, 4))):
                z = 3.5 + 25 * rng.random()
                side = x(sign * (edge + rng.uniform(-0.3, 2)), z)
                primitives.begin(math.hypot(side, z))
                color = pick_color(rng, LAMP_COLORS, 0.05)
                add_post(primitives, side, z, rng.uniform(1, 10), rng.uniform(0.08, 0.3), color)
        if rng.random() < 0.3:
            season = int(rng.integers(len(LEAF_COLORS)))
            for _ in range(int(rng.integers(1, 4))):
                z = 5 + 25 * rng.random()
                side = x(sign * (edge + rng.uniform(0.5, 5)), z)
                color = pick_color(rng, LEAF_COLORS[season], 0.05)
                add_tree(primitives, rng, side, z, color, season == 2 and rng.random() < 0.5, rng.uniform(0.7, 1.5))


def vary_colors(scene: Scene, rng: np.random.Generator) -> None:
    """Another palette: colours of a kind of part drift together, then each polygon's by itself."""
    colors = np.array(scene.primitives.colors)
    parts = np.array(scene.primitives.parts)
    if rng.random() < 0.5:
        gain = np.exp(rng.normal(0, 0.22, (len(Part), 1)) + rng.normal(0, 0.07, (len(Part), 3)))
        colors = colors * gain[parts]
    if rng.random() < 0.5:
        colors = colors * np.exp(rng.normal(0, 0.06, (len(colors), 1)))
    grey = colors.mean(1, keepdims=True)
    colors = grey + (colors - grey) * rng.uniform(0.3, 1.3)
    scene.primitives.colors[:] = np.clip(colors, 0.01, 1.2).tolist()


def is_plain(index: int) -> bool:
    """Whether scene `index` is composed and coloured as those of the data set."""
    return index * PLAIN_SCENES % 20 < PLAIN_SCENES


def draw(index: int, seed: int = PRETRAINING_SEED) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image `(3, H, W)`, parts `(H, W)` and instances `(H, W)` of scene `index`, all uint8."""
    rng = np.random.default_rng([seed, index])
    scene = compose_scene(rng, SIZE)
    if not is_plain(index):
        add_traffic(scene, rng)
        if rng.random() < 0.5:
            add_clutter(scene, rng)
        vary_camera(scene, rng)
        vary_colors(scene, rng)
    raster = rasterise(scene.camera, scene.primitives, scene.shadows)
    image = render(scene, raster, "clear", rng)
    # more than 255 instances: the farthest share their numbers, and are too small to be learned from
    return image.transpose(2, 0, 1), raster.part.astype(np.uint8), np.minimum(raster.instance, 255).astype(np.uint8)


def _draw_files(folder: Path, worker: int, workers: int, num_files: int, parent: int) -> None:
    os.nice(5)
    for number in range(worker, num_files, workers):
        path = folder / f"scenes_{number:05d}.npz"
        if path.exists():
            continue
        if os.getppid() != parent:
            return
        indices = range(number * SCENES_A_FILE, (number + 1) * SCENES_A_FILE)
        image, part, instance = (np.stack(arrays) for arrays in zip(*map(draw, indices)))
        plain = np.array([is_plain(index) for index in indices])
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, image=image, part=part, instance=instance, plain=plain)


def start_drawing(folder: Path, num_scenes: int, workers: int) -> list[Process]:
    """Processes that draw `num_scenes` into `folder`, what is there already excepted."""
    folder.mkdir(parents=True, exist_ok=True)
    num_files = math.ceil(num_scenes / SCENES_A_FILE)
    processes = [
        Process(target=_draw_files, args=(folder, worker, workers, num_files, os.getpid()), daemon=True)
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    return processes


@dataclasses.dataclass
class ScenePool:
    """
    Scenes on the device of training, as they are drawn.

    Args:
        folder: where files of scenes appear.
        capacity: at most so many scenes are read.
        device: of the tensors.

    Attributes:
        size: how many scenes there are by now.
        image: uint8 `(capacity, 3, H, W)`; part, instance: uint8 `(capacity, H, W)`.
        plain: bool `(capacity,)`, see [`is_plain`].
    """

    folder: Path
    capacity: int
    device: torch.device
    size: int = 0

    def __post_init__(self):
        self.image = torch.zeros(self.capacity, 3, *SIZE, dtype=torch.uint8, device=self.device)
        self.part = torch.zeros(self.capacity, *SIZE, dtype=torch.uint8, device=self.device)
        self.instance = torch.zeros_like(self.part)
        self.plain = torch.zeros(self.capacity, dtype=torch.bool, device=self.device)
        self._read: set[str] = set()

    def read_new(self, most: int = 2) -> None:
        """Read at most so many files that are new."""
        if self.size == self.capacity:
            return
        new = [
            name for name in sorted(os.listdir(self.folder)) if name.startswith("scenes_") and name not in self._read
        ]
        for name in new[:most]:
            with np.load(self.folder / name) as arrays:
                count = min(len(arrays["part"]), self.capacity - self.size)
                rows = slice(self.size, self.size + count)
                for field in ("image", "part", "instance", "plain"):
                    getattr(self, field)[rows] = torch.from_numpy(arrays[field][:count]).to(self.device)
            self.size += count
            self._read.add(name)

    def wait_for(self, count: int) -> None:
        """Wait until there are so many scenes, or the pool is full."""
        while self.size < min(count, self.capacity):
            self.read_new(most=100)
            time.sleep(0.2)
