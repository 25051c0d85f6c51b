"""Scenes drawn once, and the training batches cut from them."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ssprompt_hf.data.street_scenes.source import STREET_CLASSES, STREET_SYNONYMS, STREET_THINGS, StreetScenes

from .appearance import change_appearance

SIZE = (192, 384)  # of the scenes
# What the model is shown: enlarged, as masks have a fourth of the sides and thin things need them finer than that.
# Every third batch has the scenes' own size, so that another scale does no harm.
IMAGE_SIZES = ((256, 512), (192, 384))
PRETRAINING_SEED = 7919  # few-shot experiments draw their scenes from seeds 0, 1, 2, ...
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def _draw_block(block: range, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scenes = StreetScenes(split=split, size=SIZE, num_images=block.stop, seed=PRETRAINING_SEED)
    items = [scenes[index] for index in block]
    return tuple(np.stack([item[name] for item in items]) for name in ("image", "label", "instance"))


def draw_scenes(folder: Path, split: str, num_images: int, workers: int) -> dict[str, np.ndarray]:
    """Draw `num_images` scenes into memory-mapped files, once; returns image, label and instance arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"image": (*SIZE, 3), "label": SIZE, "instance": SIZE}
    dtypes = {"image": np.uint8, "label": np.uint8, "instance": np.int32}
    paths = {name: folder / f"{split}_{num_images}_{name}.npy" for name in shapes}
    done = folder / f"{split}_{num_images}.done"
    if not done.exists():
        arrays = {
            name: np.lib.format.open_memmap(path, "w+", dtypes[name], (num_images, *shapes[name]))
            for name, path in paths.items()
        }
        blocks = [range(start, min(start + 50, num_images)) for start in range(0, num_images, 50)]
        with ProcessPoolExecutor(workers) as pool:
            for block, drawn in zip(blocks, pool.map(_draw_block, blocks, [split] * len(blocks))):
                for name, values in zip(shapes, drawn):
                    arrays[name][block.start : block.stop] = values
        done.touch()
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def augment(image, label, instance, size: tuple[int, int], rng: np.random.Generator):
    """Mirror, a window of the scene (all of it down to 1 / 1.6 of its sides) enlarged to `size`, changes of colour."""
    image, label, instance = (torch.from_numpy(np.array(x)) for x in (image, label, instance))
    if rng.random() < 0.5:
        image, label, instance = image.flip(1), label.flip(1), instance.flip(1)
    zoom = float(np.exp(rng.uniform(0.0, np.log(1.6)))) if rng.random() < 0.6 else 1.0
    h, w = int(SIZE[0] / zoom), int(SIZE[1] / zoom)
    top, left = rng.integers(0, SIZE[0] - h + 1), rng.integers(0, SIZE[1] - w + 1)
    image = image.permute(2, 0, 1).float()[None, :, top : top + h, left : left + w]
    image = F.interpolate(image, size, mode="bilinear", align_corners=False)[0]
    rows, columns = (torch.arange(n) * old // n for n, old in zip(size, (h, w)))
    label, instance = (x[top : top + h, left : left + w][rows][:, columns] for x in (label, instance))
    return change_colours(image, rng), label, instance


def change_colours(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """
    Brightness, contrast, saturation and hue, each changed in half of the images: in kind and strength the distortion
    that Mask2Former's recipes for street scenes use. Then a slight gain of each channel, as of a white balance.

    Args:
        image: float `(3, H, W)`, 0 to 255.
    """
    if rng.random() < 0.5:
        image = image + float(rng.uniform(-32, 32))
    if rng.random() < 0.5:
        image = image * float(rng.uniform(0.5, 1.5))
    grey = image.mean(0, keepdim=True)
    if rng.random() < 0.5:
        image = grey + float(rng.uniform(0.5, 1.5)) * (image - grey)
    if rng.random() < 0.5:
        # A turn of the colours around the grey axis.
        angle = float(np.deg2rad(rng.uniform(-18, 18)))
        third, side = (1 - np.cos(angle)) / 3, np.sin(angle) / np.sqrt(3)
        turn = torch.full((3, 3), third) + np.cos(angle) * torch.eye(3)
        turn += side * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
        image = torch.einsum("ij,jhw->ihw", turn, image)
    gain = torch.tensor(rng.uniform(0.85, 1.15, (3, 1, 1)), dtype=torch.float32)
    return (image * gain).clamp(0, 255)


def segments_of(label: torch.Tensor, instance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class ids `(n,)` and masks `(n, H, W)`: one segment per instance of a thing and per class of stuff."""
    thing = torch.isin(label, torch.tensor(STREET_THINGS, dtype=label.dtype)) & (instance > 0)
    segment = torch.where(thing, instance.long() + 256, label.long())
    ids = segment.unique()
    ids = ids[ids != 255]
    masks = segment == ids[:, None, None]
    keep = masks.flatten(1).sum(1) >= 12
    masks = masks[keep]
    classes = torch.stack([label[mask][0] for mask in masks]).long()
    return classes, masks


def normalise(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[:, None, None]


class Batches(torch.utils.data.Dataset):
    """Training batch of a step and a process, a function of these alone, so that a run can be interrupted anywhere.

    The first `num_clear` images are clear. The others have their appearance changed, and labels, but no segments.
    """

    def __init__(self, scenes: dict[str, np.ndarray], steps: range, batch_size: int, process: int = 0):
        self.scenes, self.steps, self.batch_size, self.process = scenes, steps, batch_size, process
        self.num_clear = batch_size - batch_size * 3 // 8

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, position: int) -> dict:
        step = self.steps[position]
        size = IMAGE_SIZES[step % 3 == 2]
        rng = np.random.default_rng([PRETRAINING_SEED, step, self.process])
        names = [str(rng.choice(STREET_SYNONYMS[name])) for name in STREET_CLASSES]
        images, labels, classes, masks = [], [], [], []
        for row, index in enumerate(rng.integers(0, len(self.scenes["label"]), self.batch_size)):
            scene = (self.scenes[name][index] for name in ("image", "label", "instance"))
            image, label, instance = augment(*scene, size, rng)
            labels.append(label)
            if row >= self.num_clear:
                images.append(change_appearance(image, rng))
                continue
            images.append(image)
            image_classes, image_masks = segments_of(label, instance)
            classes.append(image_classes)
            # At the resolution of the masks: the share of each cell that belongs to the segment.
            masks.append(F.avg_pool2d(image_masks[:, None].float(), 4)[:, 0])
        return {
            "pixel_values": normalise(torch.stack(images)),
            "labels": torch.stack(labels),
            "classes": classes,
            "masks": masks,
            "names": names,
        }
