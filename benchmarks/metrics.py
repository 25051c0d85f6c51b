"""Time per image of mean IoU, AP and PQ beside the tools that compute the same, on the same predictions.

    python benchmarks/metrics.py --num_images 4 --size 1024 2048

Every tool gets predictions and labels in the form it takes, made beforehand: arrays and tensors in memory, and for
the scripts of Cityscapes, which know nothing else, files in a temporary folder. For COCO's tools masks must be coded
first, which takes most of the time; it is shown with and without, and so are ours, which take both. Times are of the
processor, so that other work on the machine hardly changes them. The `mean_iou` of `evaluate` is a script on the Hub,
which cannot always be had; in its place stands the formula it computes, three histograms an image. Tools that are not
installed are left out (pip install torchmetrics pycocotools cityscapesscripts faster-coco-eval). Results that differ
by 1e-6 or more are marked; torchmetrics' PQ does, as it knows no void.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
import judges

from ssprompt_hf.data.datasets.cityscapes import CLASSES
from ssprompt_hf.metrics import (
    CityscapesScores,
    CocoScores,
    PanopticScores,
    confusion_matrix,
    scores_from_confusion,
)
from ssprompt_hf.segmentation.export import PredictionExporter
from ssprompt_hf.utils.run_length import coco_rle

K = len(CLASSES)
THINGS = CLASSES.thing_indices
METRICS = ("mean_iou", "coco_ap", "cityscapes_ap", "pq")


def scene(rng: np.random.Generator, size: tuple[int, int], num_objects: int = 20) -> dict[str, np.ndarray]:
    """A label as smooth as those of streets: bands of stuff, ellipses of things, a border of void."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    edge = y + height / 20 * np.sin(x / width * rng.uniform(3, 9))
    label = np.digitize(edge, np.sort(rng.uniform(0, height, 6))).astype(np.uint8)
    instance = np.zeros(size, np.int32)
    for number in range(1, num_objects + 1):
        center, radius = rng.uniform(0, 1, 2) * size, height * rng.uniform(0.02, 0.15) * rng.uniform(0.5, 1.5, 2)
        inside = ((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 < 1
        label[inside], instance[inside] = rng.choice(THINGS), number
    label[-height // 20 :] = 255
    instance[-height // 20 :] = 0
    return {"label": label, "instance": instance}


def instances_near(rng: np.random.Generator, truth: dict, count: int = 100) -> dict[str, np.ndarray]:
    """`count` masks: shifted true objects and some that are not there."""
    masks, labels, _ = judges.true_objects(truth, THINGS)
    chosen = rng.integers(0, len(masks), count)
    shifts = rng.integers(-8, 9, (count, 2))
    return {
        "masks": np.stack([np.roll(masks[i], shift, (0, 1)) for i, shift in zip(chosen, shifts)]),
        "labels": np.array([labels[i] if rng.random() < 0.7 else rng.choice(THINGS) for i in chosen]),
        "scores": rng.random(count),
    }


def panoptic_near(truth: dict) -> dict:
    """The true segments, shifted."""
    shifted = {name: np.roll(value, (5, 7), (0, 1)) for name, value in truth.items()}
    keys = shifted["label"].astype(np.int64) * 1000 + shifted["instance"]
    found, index = np.unique(keys, return_inverse=True)
    infos = [{"id": i + 1, "label_id": int(key // 1000)} for i, key in enumerate(found) if key // 1000 < 255]
    segmentation = (index.reshape(keys.shape) + 1) * (shifted["label"] != 255)
    return {"segmentation": segmentation.astype(np.int32), "segments_info": infos}


def timed(name: str, tools: dict[str, Callable[[], float]], num_images: int, repeats: int):
    """Print the least time of each tool and its ratio to the first, ours, whose result all must have."""
    best, results = dict.fromkeys(tools, float("inf")), {}
    for _ in range(repeats):
        for title, tool in tools.items():
            if 10 < best[title] < float("inf"):
                continue  # far too slow for noise to matter
            start = time.process_time()
            results[title] = float(tool())
            best[title] = min(best[title], time.process_time() - start)
    first = next(iter(tools))
    print(f"\n{name:<54} {'ms per image':>12} {'ratio':>8} {'result':>10}")
    for title, seconds in best.items():
        same = "" if abs(results[title] - results[first]) < 1e-6 else "  differs"
        ratio = seconds / best[first]
        print(f"{title:<54} {1000 * seconds / num_images:12.1f} {ratio:8.1f} {results[title]:10.6f}{same}", flush=True)


def has(module: str) -> bool:
    return find_spec(module) is not None


def semantic(truths: list[dict], guesses: list[np.ndarray]) -> dict[str, Callable]:
    labels = [truth["label"] for truth in truths]

    def ours() -> float:
        return scores_from_confusion(sum(confusion_matrix(*pair, K) for pair in zip(guesses, labels)))["mean_iou"]

    def histograms() -> float:
        """What `evaluate`'s `mean_iou` computes; its script also turns every pixel into a Python number."""
        areas = np.zeros((3, K))
        for guess, label in zip(guesses, labels):
            keep = label != 255
            guess, label = guess[keep], label[keep]
            for row, values in zip(areas, (guess[guess == label], guess, label)):
                row += np.histogram(values, bins=K, range=(0, K - 1))[0]
        with np.errstate(invalid="ignore"):
            return np.nanmean(areas[0] / (areas[1] + areas[2] - areas[0]))

    tools = {"ssprompt_hf": ours, "formula of evaluate's mean_iou": histograms}
    if has("torchmetrics"):
        from torchmetrics.classification import MulticlassJaccardIndex

        tensors = [
            (torch.from_numpy(g.astype(np.int64)), torch.from_numpy(t.astype(np.int64)))
            for g, t in zip(guesses, labels)
        ]

        def torchmetrics() -> float:
            metric = MulticlassJaccardIndex(K, average="none", ignore_index=255)
            for guess, label in tensors:
                metric.update(guess, label)
            values, seen = metric.compute(), sum(confusion_matrix(*pair, K) for pair in zip(guesses, labels))
            return values[torch.from_numpy(seen[:, :K].sum(0) + seen.sum(1) > 0)].mean()  # 0 for absent classes

        tools["torchmetrics MulticlassJaccardIndex"] = torchmetrics
    if has("cityscapesscripts"):
        folder = Path(tempfile.mkdtemp())
        files = []
        exporter = PredictionExporter(folder / "guess", [f"{i}.png" for i in range(len(truths))], CLASSES.ids)
        for i, (guess, truth) in enumerate(zip(guesses, truths)):
            exporter.add_semantic(i, guess)
            ids, _ = judges.cityscapes_ids(truth, CLASSES.ids)
            files.append((folder / "guess" / "semantic" / f"{i}.png", judges.save(folder / f"{i}.png", ids)))
        tools["cityscapesscripts, pixel level (reads files)"] = lambda: judges.cityscapes_semantic_scores(
            *zip(*files)
        )["averageScoreClasses"]
    return tools


def coco(truths: list[dict], guesses: list[dict]) -> dict[str, Callable]:
    objects = [judges.true_objects(truth, THINGS) for truth in truths]
    true_codes = [
        {"masks": [coco_rle(mask) for mask in masks], "labels": labels, "iscrowd": crowd}
        for masks, labels, crowd in objects
    ]
    codes = [guess | {"masks": [coco_rle(mask) for mask in guess["masks"]]} for guess in guesses]

    def ours(guesses: list[dict], truths: list[dict]) -> Callable[[], float]:
        return lambda: CocoScores(K, THINGS).compute(predictions=guesses, references=truths)["ap"]

    tools = {
        "ssprompt_hf, masks and label maps": ours(guesses, truths),
        "ssprompt_hf, masks coded before": ours(codes, true_codes),
    }
    if has("pycocotools"):
        tools["pycocotools, with coding masks"] = lambda: judges.pycocotools_scores(guesses, objects, K)[0][0]
        tools["pycocotools, masks coded before"] = judges.prepared_coco(guesses, objects, K)
    if has("pycocotools") and has("faster_coco_eval"):
        from faster_coco_eval import COCO, COCOeval_faster

        tools["faster-coco-eval, masks coded before"] = judges.prepared_coco(
            guesses, objects, K, COCO, COCOeval_faster
        )
    return tools


def cityscapes(truths: list[dict], guesses: list[dict]) -> dict[str, Callable]:
    def ours() -> float:
        return CityscapesScores(K, THINGS).compute(predictions=guesses, references=truths)["ap"]

    tools = {"ssprompt_hf": ours}
    if has("cityscapesscripts"):
        folder = Path(tempfile.mkdtemp())
        exporter = PredictionExporter(folder, [f"{i}.png" for i in range(len(truths))], CLASSES.ids)
        files = []
        for i, (guess, truth) in enumerate(zip(guesses, truths)):
            exporter.add_instances(
                i, guess["masks"], np.arange(len(guess["labels"])), guess["labels"], guess["scores"]
            )
            _, ids = judges.cityscapes_ids(truth, CLASSES.ids)
            file = judges.save(folder / "truth" / f"{i}.png", ids.astype(np.uint16))
            files.append((folder / "instance" / f"{i}.txt", file))
        tools["cityscapesscripts, instance level (reads files)"] = lambda: judges.cityscapes_instance_scores(
            *zip(*files)
        )[0]["allAp"]
    return tools


def panoptic(truths: list[dict], guesses: list[dict]) -> dict[str, Callable]:
    tools = {"ssprompt_hf": lambda: PanopticScores(K, THINGS).compute(predictions=guesses, references=truths)["pq"]}
    if has("torchmetrics"):
        from torchmetrics.detection import PanopticQuality

        pairs = []
        for guess, truth in zip(guesses, truths):
            classes = np.full(guess["segmentation"].max() + 1, K)
            classes[[info["id"] for info in guess["segments_info"]]] = [i["label_id"] for i in guess["segments_info"]]
            maps = [(classes[guess["segmentation"]], guess["segmentation"])]
            maps += [(np.where(truth["label"] == 255, K, truth["label"]), truth["instance"])]
            pairs.append([torch.from_numpy(np.stack(m, -1).astype(np.int64))[None] for m in maps])

        def torchmetrics() -> float:
            metric = PanopticQuality(set(THINGS), set(range(K + 1)) - set(THINGS), return_per_class=True)
            for pair in pairs:
                metric.update(*pair)
            # void is a class of its own here: neither it nor absent classes count
            values = metric.compute().numpy().reshape(-1)
            seen = np.zeros(K, bool)
            for truth, guess in zip(truths, guesses):
                seen[np.unique(truth["label"][truth["label"] != 255])] = True
                seen[[info["label_id"] for info in guess["segments_info"]]] = True
            order = [*THINGS, *(k for k in range(K) if k not in THINGS)]
            return np.nanmean(values[:K][seen[order]])

        tools["torchmetrics PanopticQuality"] = torchmetrics
    if has("cityscapesscripts"):
        folder = Path(tempfile.mkdtemp())
        tools["cityscapesscripts = panopticapi (reads files)"] = judges.prepared_panoptic(
            folder, guesses, truths, CLASSES, THINGS
        )
    return tools


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_images", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=METRICS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    truths = [scene(rng, tuple(options.size)) for _ in range(options.num_images)]
    maps = [np.where(t["label"] == 255, 0, np.roll(t["label"], (3, 9), (0, 1))) % K for t in truths]
    masks = [instances_near(rng, truth) for truth in truths]
    segments = [panoptic_near(truth) for truth in truths]
    print(f"{options.num_images} images of {options.size[0]}x{options.size[1]}, 100 masks each, one thread")
    tools = {
        "mean_iou": ("mean IoU", lambda: semantic(truths, [m.astype(np.uint8) for m in maps])),
        "coco_ap": ("AP of instances, COCO", lambda: coco(truths, masks)),
        "cityscapes_ap": ("AP of instances, Cityscapes", lambda: cityscapes(truths, masks)),
        "pq": ("PQ", lambda: panoptic(truths, segments)),
    }
    for metric in options.metrics:
        name, prepared = tools[metric]
        timed(name, prepared(), options.num_images, options.repeats)


if __name__ == "__main__":
    main()
