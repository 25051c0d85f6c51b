"""Memory of an evaluation of images of 1024x2048, as more and more of them have been seen.

    python benchmarks/evaluation_memory.py                        # seem-nano, 500 images for each task
    python benchmarks/evaluation_memory.py --num_images 100 --tasks panoptic --output numbers.json

What runs is what `ssprompt-hf evaluate` runs: the trainer, with predictions and scores at original size, and with
`--workers` loader processes, whose memory is not counted. Images are made up as they are asked for, from four drawn
scenes. MiB are what the process holds beyond what it held when the task began, with the model loaded: after so many
images, and at most until then. Memory must not grow with the number of images.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from metrics import scene
from transformers import PrinterCallback, TrainerCallback

from ssprompt_hf import SSPromptModel
from ssprompt_hf.data.dataset import SegmentationDataset
from ssprompt_hf.data.datasets.cityscapes import CLASSES
from ssprompt_hf.reproduce.step_cost import PeakMemory
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.trainer import SSPromptTrainer

TASKS = ("semantic", "instance", "panoptic")


class ShiftedScenes:
    """Coloured scenes with noise, each image another one or the same shifted by another number of pixels."""

    def __init__(self, count: int, size: tuple[int, int]):
        rng = np.random.default_rng(0)
        self.file_names = [f"{index}.png" for index in range(count)]
        self.scenes = [scene(rng, size) for _ in range(4)]
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(CLASSES)] = CLASSES.colors
        noise = rng.integers(0, 32, (*size, 3), np.uint8)
        self.images = [palette[truth["label"]] // 2 + noise for truth in self.scenes]

    def read(self, row: int) -> dict:
        kind, shift = row % 4, 7 * row
        truth = {name: np.roll(value, shift, 1) for name, value in self.scenes[kind].items()}
        return {"image": np.roll(self.images[kind], shift, 1), **truth}

    def read_label(self, row: int) -> np.ndarray:
        return self.read(row)["label"]

    def fingerprint(self) -> str:
        return f"{len(self.file_names)} shifted scenes"


def memory() -> tuple[float, float]:
    """What this process holds, and the most it has held since `PeakMemory` was entered, in MiB."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))


class Watch(TrainerCallback):
    """Notes the memory after each of `moments` images."""

    def __init__(self, moments: list[int]):
        self.moments, self.seen, self.notes = moments, 0, {}
        self.start, self.time = memory()[0], time.perf_counter()

    def on_prediction_step(self, *args, **kwargs):
        """Called after every image."""
        self.seen += 1
        if self.seen in self.moments:
            held, peak = (round(value - self.start) for value in memory())
            seconds = round((time.perf_counter() - self.time) / self.seen, 2)
            self.notes[self.seen] = {"held_mib": held, "peak_mib": peak, "seconds_per_image": seconds}
            print(f"{self.seen:>8} {held:>10} {peak:>10} {seconds:>10}", flush=True)


def measure(task: str, options: argparse.Namespace) -> dict:
    """The notes of one evaluation, and its score."""
    images = SegmentationDataset(CLASSES, ShiftedScenes(options.num_images, tuple(options.size)), "shifted scenes")
    model = SSPromptModel.from_pretrained(
        options.base_model, class_names=CLASSES.names, thing_class_ids=CLASSES.thing_indices
    )
    with tempfile.TemporaryDirectory() as folder:
        args = SSPromptTrainingArguments(
            output_dir=folder,
            task=task,
            use_cpu=not options.cuda,
            dataloader_num_workers=options.workers,
            disable_tqdm=True,
            report_to=[],
        )
        trainer = SSPromptTrainer(model, args, model.image_processor, eval_dataset=images)
        print(f"\n{task}\n{'images':>8} {'MiB':>10} {'peak MiB':>10} {'s/image':>10}")
        with PeakMemory():
            moments = sorted({1, 10, 20, 50, 100, 200, options.num_images})
            watch = Watch(moments)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(watch)
            scores = trainer.evaluate()
    score = {"semantic": "eval_mean_iou", "instance": "eval_coco_ap", "panoptic": "eval_pq"}[task]
    return {"after": watch.notes, score.removeprefix("eval_"): scores[score]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="seem-nano")
    parser.add_argument("--num_images", type=int, default=500)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    numbers = {task: measure(task, options) for task in options.tasks}
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
