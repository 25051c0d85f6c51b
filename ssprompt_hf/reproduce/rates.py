"""How long a base model takes, from a short measurement on random weights."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch import nn
from transformers import PrinterCallback

from ..data.dataset import SegmentationDataset
from ..loading import random_base_model
from ..training.arguments import SSPromptTrainingArguments
from ..training.trainer import SSPromptTrainer
from ..tuners import SSPromptConfig
from .step_cost import time_steps

ASSUMED_FLOPS = {"cpu": 6e10, "cuda": 1e13}
"""A second, to tell what is not worth trying; of other devices as of a CPU."""
PIXELS_A_TOKEN = 16**2
WARM_UP_SECONDS = 3.0
"""An evaluation that takes less is repeated, as the first one is slower."""


@dataclass
class Rates:
    """
    Seconds of one image.

    Args:
        reading: image and label.
        frozen: the part of the base model that does not depend on prompts.
        adapter: each adapter that is scored: its decoding, and results at full size.
        step: in a step of training, with features from the cache.
        label: its label alone, for the statistics of classes.
    """

    reading: float
    frozen: float
    adapter: float
    step: float
    label: float


class _OneImage:
    """A source with the first image of another, read once."""

    file_names = ("image",)

    def __init__(self, example: dict[str, Any]):
        self.example = {name: value for name, value in example.items() if name != "file_name"}

    def read(self, row: int) -> dict[str, Any]:
        return self.example

    def read_label(self, row: int) -> Any:
        return self.example["label"]

    def fingerprint(self) -> str:
        return "one image"


def assumed_seconds(facts: dict[str, Any], device: str) -> float:
    """Of one forward pass, from nothing but sizes (`base_model_facts`): each parameter, but for those of the text
    encoder, is used once for each of the image's tokens."""
    parts = {name: count for name, count in facts["parameters"].items() if name != "total"}
    parameters = sum(count for name, count in parts.items() if not name.startswith("text_"))
    tokens = facts["padded_size"][0] * facts["padded_size"][1] / PIXELS_A_TOKEN
    return 2 * parameters * tokens / ASSUMED_FLOPS.get(device, ASSUMED_FLOPS["cpu"])


def measure_rates(
    base_model: str,
    images: SegmentationDataset,
    image_size: int | None,
    task: str,
    training: dict[str, Any] | None = None,
) -> Rates:
    """
    The times of one image of a data set, on the device of `training`.

    Args:
        base_model: name, folder or Hub id, of which the architecture counts.
        images: of which the first is taken.
        image_size: shorter side that it is given.
        task: `"semantic"`, `"instance"` or `"panoptic"`.
        training: training arguments that differ from the defaults.

    Raises:
        SSPromptError: as `random_base_model` and `SSPromptTrainingArguments`; or the image cannot be read.
    """
    start = time.perf_counter()
    example = images[0]
    reading = time.perf_counter() - start
    start = time.perf_counter()
    images.read_label(0)
    label = time.perf_counter() - start
    names = images.classes.names
    base, processor = random_base_model(base_model, names)
    if image_size is not None:
        processor = processor.with_image_size(image_size)
    one = SegmentationDataset(images.classes, _OneImage(example), images.name)
    with tempfile.TemporaryDirectory() as folder:
        own = {"output_dir": folder, "task": task, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
        own |= {"eval_strategy": "no", "logging_strategy": "no", "per_device_train_batch_size": 1}
        own |= {"random_flip": False, "dataloader_num_workers": 0, "feature_cache": "memory", "feature_cache_gb": 64}
        args = SSPromptTrainingArguments(**((training or {}) | own))
        trainer = SSPromptTrainer(get_peft_model(base, SSPromptConfig()), args, processor, one, one)
        trainer.remove_callback(PrinterCallback)
        seconds = frozen = 0.0
        for _ in range(2):
            with _seconds_in(trainer.base_model, "image_features") as spent:
                start = time.perf_counter()
                trainer.evaluate()
                seconds, frozen = time.perf_counter() - start, sum(spent)
            if seconds > WARM_UP_SECONDS:
                break
        step = time_steps(trainer, 1)[0]
    return Rates(reading, frozen, max(seconds - frozen, 0.0), step, label)


@contextlib.contextmanager
def _seconds_in(model: nn.Module, method: str) -> Iterator[list[float]]:
    """Collects how long each call of a method takes."""
    found: list[float] = []
    original = getattr(model, method)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = original(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
        return result

    setattr(model, method, timed)
    try:
        yield found
    finally:
        delattr(model, method)
