"""Folders of photographs for the studio, and a model that answers with discs."""

import numpy as np
from PIL import Image

from ssprompt_hf.segmentation.prompted import PromptedResult, PromptedSegment, parts_at
from ssprompt_hf.studio.annotation import Annotation
from ssprompt_hf.studio.project import Project

HEIGHT, WIDTH = 48, 64


def photograph(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def photographs(folder, names=("a.jpg", "b.jpg", "c.png")):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photograph(seed).save(folder / name)
    return folder


def project(folder, **kwargs) -> Project:
    """With a class of things and one of stuff."""
    made = Project(photographs(folder, **kwargs))
    made.add_class("car", thing=True)
    made.add_class("road")
    return made


def disc(x, y, radius) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def discs(
    points=None, labels=None, boxes=None, scribbles=None, scribble_labels=None, text=None, connected=False
) -> PromptedResult:
    """Discs of radius 8 around positive clicks, without those of radius 4 around the others; boxes as they are; the
    phrase "two" is found twice, any other not at all."""
    mask, image = np.zeros((HEIGHT, WIDTH), bool), photograph()
    if text is not None:
        found = [PromptedSegment(disc(x, 20, 5), 0.9, text) for x in (15, 45)] if text == "two" else []
        return PromptedResult(found, image, {text: 0.9 if found else 0.1})
    for (x, y), on_it in sorted(zip(*(points or [()])[:1], *(labels or [()])[:1]), key=lambda pair: -pair[1]):
        mask = mask | disc(x, y, 8) if on_it else mask & ~disc(x, y, 4)
    for left, top, right, bottom in boxes or ():
        mask[round(top) : round(bottom) + 1, round(left) : round(right) + 1] = True
    for line, on_it in zip(*(scribbles or [()])[:1], *(scribble_labels or [()])[:1]):
        for x, y in line:
            mask = mask | disc(x, y, 3) if on_it else mask & ~disc(x, y, 3)
    if connected:
        mask = parts_at(mask, [point for point, on_it in zip(points[0], labels[0]) if on_it])
    return PromptedResult([PromptedSegment(mask, 0.9, None, 0)], image)


def annotation(made: Project, name="a.jpg", who="me", takes=("points", "boxes", "text")) -> Annotation:
    return Annotation(made, name, who, discs, takes)
