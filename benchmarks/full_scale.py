"""What data sets of the paper's size cost, on made-up ones: Cityscapes (500 validation images of 1024x2048, and 2,975
labels to choose from) and Mapillary Vistas (JPEGs of 12 megapixels).

    python benchmarks/full_scale.py                                   # all of it: about two hours of a core
    python benchmarks/full_scale.py --images 8 --labels 40 --mapillary 3
    python benchmarks/full_scale.py --parts gpu --device cuda         # Focal-T with random weights at full size

A few scenes are drawn, with noise as of a camera; all other files are links to them. Seconds are processor seconds of
one thread, but for those of `gpu`. Parts:

* `statistics`: the statistics of classes, a label; and the same with the image decoded for its size, as it once was.
* `reading`: what an evaluation reads of an image; and the same by three separate readings, as it once was.
* `cells`: `reproduce`: the base model alone, and three seeds of SSPrompt; how often each image was decoded.
* `mapillary`: `statistics` and `reading`, and the class map of an image at full size.
* `gpu`: images a second in evaluation and in training, and the share of the time spent waiting for the loader.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from measuring import random_model, synchronize, write_numbers
from PIL import Image, ImageFile
from transformers import PrinterCallback

from ssprompt_hf import SSPromptConfig, SSPromptModel, SSPromptTrainingArguments
from ssprompt_hf.data import label_statistics
from ssprompt_hf.data.dataset import SegmentationDataset
from ssprompt_hf.data.loading import load_segmentation_dataset, load_street_scenes
from ssprompt_hf.models.seem import SeemImageProcessor
from ssprompt_hf.reproduce.plans import Choices
from ssprompt_hf.reproduce.presets import make_preset
from ssprompt_hf.reproduce.run import reproduce
from ssprompt_hf.segmentation.predictions import QueryPrediction
from ssprompt_hf.training.examples import EvaluationExamples, pixels_digest
from ssprompt_hf.training.trainer import SSPromptTrainer

PARTS = ("statistics", "reading", "cells", "mapillary", "gpu")
DISTINCT = 4
CITYSCAPES_IDS = (7, 8, 11, 23, 21, 17, 20, 13, 26, 24, 25)
MAPILLARY_IDS = (13, 15, 17, 27, 30, 45, 50, 3, 55, 19, 20)
"""Of the classes of the drawn scenes, in their order; in version 1.2."""
TWELVE_MEGAPIXELS = (3000, 4000)


def scenes(size: tuple[int, int], ids: tuple[int, ...], unlabelled: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and label ids."""
    table = np.full(256, unlabelled, np.uint8)
    table[: len(ids)] = ids
    rng = np.random.default_rng(0)
    for scene in load_street_scenes("street-scenes/clear", "train", num_images=DISTINCT, size=(512, 1024)):
        image = np.asarray(Image.fromarray(scene["image"]).resize(size[::-1])).astype(np.int16)
        image = (image + rng.integers(-6, 7, image.shape, np.int16)).clip(0, 255).astype(np.uint8)
        label = Image.fromarray(table[scene["label"]]).resize(size[::-1], Image.Resampling.NEAREST)
        yield image, np.asarray(label)


def write_linked(files: list[tuple[Path, Path]], images: list[np.ndarray], labels: list[np.ndarray]):
    """An image and a label for each pair of paths, the first few as files, the others as links to these."""
    for number, pair in enumerate(files):
        for path, arrays, first in zip(pair, (images, labels), files[number % DISTINCT]):
            path.parent.mkdir(parents=True, exist_ok=True)
            if number < DISTINCT:
                Image.fromarray(arrays[number]).save(path, quality=90)
            else:
                os.link(first, path)


def write_cityscapes(root: Path, splits: dict[str, int]) -> Path:
    """`labelIds` alone."""
    images, labels = zip(*scenes((1024, 2048), CITYSCAPES_IDS, 0))
    for split, count in splits.items():
        names = [f"{split}/aachen/aachen_{number:06d}_000019" for number in range(count)]
        files = [
            (root / f"leftImg8bit/{name}_leftImg8bit.png", root / f"gtFine/{name}_gtFine_labelIds.png")
            for name in names
        ]
        write_linked(files, images, labels)
    return root


def write_mapillary(root: Path, count: int) -> Path:
    """The validation images of version 1.2."""
    images, labels = zip(*scenes(TWELVE_MEGAPIXELS, MAPILLARY_IDS, 65))
    folder = root / "validation"
    names = [f"{number:04d}" for number in range(count)]
    write_linked([(folder / f"images/{n}.jpg", folder / f"v1.2/labels/{n}.png") for n in names], images, labels)
    return root


@contextlib.contextmanager
def counted_decodings() -> Iterator[Counter]:
    """How often each colour image has been decoded in this process, by its path."""
    count, load = Counter(), ImageFile.ImageFile.load

    def counting(image: ImageFile.ImageFile, *args):
        if image.tile and image.mode == "RGB":
            count[image.filename] += 1
        return load(image, *args)

    ImageFile.ImageFile.load = counting
    try:
        yield count
    finally:
        ImageFile.ImageFile.load = load


def timed(name: str, count: int, what: Callable[[], object], numbers: dict):
    """Run, and note processor seconds and decoded images, both of one of `count`."""
    with counted_decodings() as decoded:
        start = time.thread_time()
        what()
        seconds = (time.thread_time() - start) / count
    numbers[name] = {"seconds": seconds, "decoded": decoded.total() / count, "count": count}
    print(f"{name:<48} {seconds:8.3f} s, {decoded.total() / count:.2f} decoded ({count})", flush=True)


def statistics(name: str, images: SegmentationDataset, folder: Path, numbers: dict):
    """Of classes, for the choice of images."""
    timed(f"{name}: statistics, a label", len(images), lambda: label_statistics(images, folder, 0), numbers)
    few = min(len(images), 2 * DISTINCT)

    def with_image():
        for index in range(few):
            np.bincount(images[index]["label"].ravel(), minlength=256)

    timed(f"{name}: statistics, image decoded, as before", few, with_image, numbers)


def reading(name: str, images: SegmentationDataset, processor: SeemImageProcessor, numbers: dict):
    """What an evaluation reads."""
    examples = EvaluationExamples(images, processor)
    examples.load_pixels = True

    def once():
        for index in range(len(images)):
            examples[index]

    timed(f"{name}: reading, an image", len(images), once, numbers)
    few = min(len(images), 2 * DISTINCT)

    def apart():
        for index in range(few):
            images[index]["label"]
            pixels_digest(images[index]["image"])
            processor(images=images[index]["image"], return_tensors="pt")

    timed(f"{name}: label, digest, pixels apart, as before", few, apart, numbers)


def cells(root: Path, output: Path, options: argparse.Namespace, numbers: dict):
    """`reproduce`, with few steps of training: what an image of the evaluation takes."""
    folders, sizes = [f"cityscapes={root}"], {"image_size": options.image_size}
    choices = Choices(seeds=(0, 1, 2), shots=4, methods=("zero_shot", "ssprompt"))
    training = {"max_steps": 10, "use_cpu": True, "dataloader_num_workers": 0}
    with contextlib.redirect_stdout(io.StringIO()):
        # learns the adapters, which the second run finds
        first = make_preset("full", folders, ["seem-nano"], max_eval_images=1, **sizes)
        reproduce(["2"], first, choices, output, training)
        with counted_decodings() as decoded:
            start = time.thread_time()
            reproduce(["2"], make_preset("full", folders, ["seem-nano"], **sizes), choices, output, training)
            seconds = (time.thread_time() - start) / options.images
    records = [json.loads(path.read_text()) for path in output.glob("full/cells/*.json")]
    together = [record for record in records if record["evaluation_images"] == options.images]
    scored = [count for path, count in decoded.items() if "/val/" in str(path)]
    numbers["cells"] = {"cells": len(together), "seconds": seconds, "decoded": scored, "count": options.images}
    print(
        f"cityscapes: {len(together)} cells of reproduce, an image         {seconds:8.3f} s, "
        f"{sum(scored) / len(scored):.2f} decoded, none more than {max(scored)} times ({len(scored)})",
        flush=True,
    )


def class_maps(images: SegmentationDataset, processor: SeemImageProcessor, numbers: dict):
    """Of 100 smooth masks, 19 classes."""
    generator = torch.Generator().manual_seed(0)
    size = images.read_label(0).shape
    inner = processor.resized_size(size)
    padded = processor.padded_size(inner)
    masks = 4 * torch.randn(1, 100, padded[0] // 32, padded[1] // 32, generator=generator)
    masks = torch.nn.functional.interpolate(masks, scale_factor=8, mode="bicubic")
    prediction = QueryPrediction(3 * torch.randn(1, 100, 20, generator=generator), masks, padded)
    geometry = prediction.geometry(inner, size)
    name = f"mapillary: class map of {size[0]}x{size[1]}"
    timed(name, 1, lambda: prediction.class_map(0, geometry), numbers)


class Waited:
    """A loader that adds up the seconds that are spent waiting for its batches."""

    def __init__(self, loader):
        self.loader, self.seconds = loader, 0.0

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        batches = iter(self.loader)
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - start
            yield batch


def throughput(images: SegmentationDataset, options: argparse.Namespace, numbers: dict):
    """Focal-T with random weights at 512x1024: evaluation at full size, and training without feature cache."""
    base = random_model("seem-t")
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(len(images.classes) + 1, base.config.projection_dim, generator=generator)
    base.set_class_embeddings(torch.nn.functional.normalize(embeddings, dim=-1), images.classes.names)
    processor = base.default_image_processor().with_image_size(512)
    model = SSPromptModel(base, SSPromptConfig(), image_processor=processor)
    with tempfile.TemporaryDirectory() as folder:
        for cache in ("none", "device" if options.device == "cuda" else "memory"):
            args = SSPromptTrainingArguments(
                output_dir=folder,
                use_cpu=options.device == "cpu",
                max_steps=options.steps,
                per_device_train_batch_size=options.batch_size,
                feature_cache=cache,
                feature_cache_gb=32,
                dataloader_num_workers=options.workers,
                bf16=options.bf16,
                disable_tqdm=True,
                report_to=[],
                save_strategy="no",
                eval_strategy="no",
                shrinkage=0,
            )
            trainer = SSPromptTrainer(model, args, processor, images, images)
            trainer.remove_callback(PrinterCallback)
            parts = {f"training, feature_cache {cache}": ("get_train_dataloader", trainer.train)}
            if cache == "none":
                trainer.evaluate(images.select([0]))  # to warm up
                parts = {"evaluation": ("get_eval_dataloader", trainer.evaluate)} | parts
            for name, (loader, run) in parts.items():
                count = len(images) if name == "evaluation" else options.steps * options.batch_size
                waited, make = [], getattr(trainer, loader)

                def watched(*given, waited: list = waited, make: Callable = make):
                    waited.append(Waited(make(*given)))
                    return waited[-1]

                setattr(trainer, loader, watched)
                synchronize(options.device)
                start = time.perf_counter()
                run()
                synchronize(options.device)
                seconds, waiting = time.perf_counter() - start, sum(one.seconds for one in waited)
                numbers[f"gpu: {name}"] = {"images_per_second": count / seconds, "waiting": waiting / seconds}
                print(
                    f"gpu: {name:<34} {count / seconds:8.2f} images a second, {waiting / seconds:.0%} of the time "
                    f"waiting for the loader ({count})",
                    flush=True,
                )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="validation images of Cityscapes")
    parser.add_argument("--labels", type=int, default=2975, help="training labels of Cityscapes")
    parser.add_argument("--mapillary", type=int, default=100, help="images of Mapillary Vistas")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:-1])
    parser.add_argument("--image_size", type=int, default=512, help="shorter side, of `cells`")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of `gpu`")
    parser.add_argument("--batch_size", type=int, default=4, help="of `gpu`")
    parser.add_argument("--steps", type=int, default=30, help="of `gpu`")
    parser.add_argument("--workers", type=int, default=8, help="loader processes, of `gpu`")
    parser.add_argument("--bf16", action="store_true", help="mixed precision, of `gpu`")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    processor = SeemImageProcessor().with_image_size(512)
    numbers: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        cityscapes = write_cityscapes(folder / "cityscapes", {"val": options.images, "train": options.labels})

        def load(name: str, root: Path, split: str) -> SegmentationDataset:
            return load_segmentation_dataset(name, root, split, cache_dir=folder / "cache")

        if "statistics" in options.parts:
            statistics("cityscapes", load("cityscapes", cityscapes, "train"), folder / "cache", numbers)
        if "reading" in options.parts:
            reading("cityscapes", load("cityscapes", cityscapes, "val"), processor, numbers)
        if "cells" in options.parts:
            cells(cityscapes, folder / "out", options, numbers)
        if "mapillary" in options.parts:
            images = load("mapillary_vistas", write_mapillary(folder / "mapillary", options.mapillary), "val")
            statistics("mapillary", images, folder / "cache", numbers)
            reading("mapillary", images, processor, numbers)
            class_maps(images, processor, numbers)
        if "gpu" in options.parts:
            throughput(load("cityscapes", cityscapes, "val"), options, numbers)
    write_numbers(numbers, options.output)


if __name__ == "__main__":
    main()
