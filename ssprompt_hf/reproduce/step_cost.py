"""Time and peak memory of a training step, with and without the feature cache (Table 7)."""

import ctypes
import dataclasses
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peft import get_peft_model

from ..data.classes import ClassInfo, SegmentationClasses
from ..data.dataset import SegmentationDataset
from ..models.registry import find_family
from ..training.arguments import SSPromptTrainingArguments
from ..training.trainer import SSPromptTrainer
from ..tuners import METHODS, PromptConfig, SSPromptConfig
from .presets import StepSetting

MEASURED = ("ssprompt", "coop", "locn")
CLEAR_REFS = Path("/proc/self/clear_refs")


class PeakMemory:
    """Highest resident memory while the block runs, in GiB: Linux forgets the earlier peak when told to. Elsewhere the
    highest since the process began."""

    def __enter__(self):
        self.reset()
        return self

    def reset(self) -> None:
        """Forget what came before, where that is possible."""
        if CLEAR_REFS.exists():
            ctypes.CDLL(None).malloc_trim(0)
            CLEAR_REFS.write_text("5")

    def __exit__(self, *_):
        if CLEAR_REFS.exists():
            status = Path("/proc/self/status").read_text()
            self.value = next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) / 2**20
            return
        import resource

        unit = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts bytes, others kilobytes
        self.value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class RandomImages:
    """Noise with labels of 8 classes an image; the same at every call."""

    def __init__(self, count: int, size: tuple[int, int], num_classes: int):
        self.file_names = [f"{index}.png" for index in range(count)]
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
        blocks = rng.integers(0, num_classes, (count, 2, 4), dtype=np.uint8)
        height, width = (-(-size[0] // 2), -(-size[1] // 4))
        self.labels = blocks.repeat(height, axis=1).repeat(width, axis=2)[:, : size[0], : size[1]]

    def read(self, row: int) -> dict:
        return {"image": self.images[row], "label": self.labels[row]}

    def read_label(self, row: int) -> np.ndarray:
        return self.labels[row]

    def fingerprint(self) -> str:
        return "random"


def method_config(method: str, names: list[str], vocab_size: int, setting: StepSetting) -> PromptConfig:
    """The method with its defaults; which words it reads makes no difference, how many does."""
    if method == "ssprompt":
        return SSPromptConfig()
    rng = np.random.default_rng(1)
    template = [] if method == "coop" else rng.integers(1, vocab_size - 2, setting.template_tokens).tolist()
    return METHODS[method](
        class_names=names,
        class_token_ids=rng.integers(1, vocab_size - 2, (len(names), setting.name_tokens)).tolist(),
        prefix_token_ids=template,
        suffix_token_ids=[1],
        start_token_id=vocab_size - 2,
        end_token_id=vocab_size - 1,
    )


def time_steps(trainer: SSPromptTrainer, steps: int, after_warm_up: Callable[[], None] = lambda: None) -> list[float]:
    """
    Seconds of steps of training on one and the same batch, after one to warm up, which fills the feature cache.

    Args:
        trainer: which has not trained.
        steps: how many.
        after_warm_up: called before the first that counts.
    """
    on_gpu = trainer.args.device.type == "cuda"
    model = trainer.accelerator.prepare(trainer.model)
    trainer.create_optimizer()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))

    def step() -> float:
        start = time.perf_counter()
        trainer.compute_loss(model, batch).backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    step()
    after_warm_up()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    return [step() for _ in range(steps)]


def measure_step(
    base_model: str,
    method: str,
    cached: bool,
    setting: StepSetting,
    args: SSPromptTrainingArguments,
    batch_size: int = 1,
    steps: int = 3,
) -> dict[str, Any]:
    """
    Median time an image and peak memory of a training step, after one to warm up.

    Args:
        base_model: name or folder, of which the architecture counts; weights are random, on which neither time nor
            memory depends.
        method: one of `MEASURED`.
        cached: with the feature cache (in memory; on a GPU in its own).
        setting: image size, classes and tokens.
        args: how it is trained; batch size, mirroring and cache are set here.
        batch_size: images a step.
        steps: timed steps.

    Returns:
        `ms` an image; `gb`, 1e9 bytes, of the whole process with libraries and weights, or on a GPU of its memory;
        `parameters` that are learned.
    """
    gc.collect()  # the model before this one
    names = [f"class {index}" for index in range(setting.classes)]
    encoders = {"text"} if method != "ssprompt" else set()
    base, processor = find_family(base_model).random_model(base_model, names, encoders)
    vocabulary = base.word_embeddings()
    config = method_config(method, names, 0 if vocabulary is None else vocabulary.num_embeddings, setting)
    model = get_peft_model(base, config)
    classes = SegmentationClasses(tuple(ClassInfo(name, index) for index, name in enumerate(names)))
    source = RandomImages(batch_size, (setting.height, setting.width), setting.classes)
    dataset = SegmentationDataset(classes, source, "random images")
    on_gpu = args.device.type == "cuda"
    args = dataclasses.replace(
        args,
        per_device_train_batch_size=batch_size,
        random_flip=False,
        feature_cache=("device" if on_gpu else "memory") if cached else "none",
        feature_cache_gb=64,
    )
    trainer = SSPromptTrainer(model, args, processor, dataset)
    with PeakMemory() as peak:
        seconds = time_steps(trainer, steps, after_warm_up=peak.reset)
    memory = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else peak.value * 2**30 / 1e9
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"ms": 1000 * median(seconds) / batch_size, "gb": memory, "parameters": parameters}
