"""A training step of SSPrompt beside one of LoRA: time, peak memory and size of the file.

    python benchmarks/lora.py                                                          # seem-nano, 192x384, batch of 4
    python benchmarks/lora.py --model seem-t --height 512 --width 1024 --batch_size 1
    python benchmarks/lora.py --model sam3 --device cuda --batch_size 1

The same base model with the same random weights, the same random images and labels, the same loss, AdamW. LoRA is
peft's, r = 16, on every linear layer of every attention of the base model that an image goes through. SSPrompt learns
from the feature cache. LoRA has no cache: it changes layers in front of what could be kept, so that the features of an
image are others after every step.

Images are read and preprocessed before the clock starts, which LoRA gains from: it needs the pixels again in every
step. Each of the two runs in a process of its own. Memory is the most that the process (on a GPU: PyTorch there) held
from the first step on, in which SSPrompt fills its cache; libraries and weights are in it. On one thread of a CPU time
is that of the processor, which other work on the machine hardly changes.
"""

import argparse
import dataclasses
import inspect
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from ssprompt_hf.data.classes import ClassInfo, SegmentationClasses
from ssprompt_hf.data.dataset import SegmentationDataset
from ssprompt_hf.models.interface import KINDS, CachedFeatures
from ssprompt_hf.models.registry import ADAPTER_WEIGHTS, find_family
from ssprompt_hf.plotting.tables import markdown_table
from ssprompt_hf.reproduce.step_cost import PeakMemory, RandomImages
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.trainer import SSPromptTrainer
from ssprompt_hf.tuners import SSPromptConfig
from ssprompt_hf.utils.files import write_json

RANK = 16
VARIANTS = {"ssprompt": "SSPrompt, cached features", "lora": f"LoRA, r = {RANK}"}
ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
UNUSED = ("geometry_encoder",)  # of SAM 3, for boxes


def attention_projections(model: nn.Module) -> list[str]:
    """Names of the linear layers inside attention modules."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and ATTENTION.search(name.rpartition(".")[0])
        and name.split(".")[0] not in UNUSED
    ]


class PixelTrainer(SSPromptTrainer):
    """Runs all of the base model in every step, with gradients."""

    def batch_features(self, inputs: dict) -> list[CachedFeatures]:
        """Of each image, with gradients; `image_features` itself records none."""
        base = self.base_model
        stage, compute = base.feature_stages(KINDS)[0], inspect.unwrap(type(base).image_features)
        if base.decodes_by_class:
            return [compute(base, pixels, stage) for pixels in inputs["pixel_values"]]
        joined = compute(base, torch.cat(inputs["pixel_values"]), stage)  # images of one size
        size = joined.pop("padded_size")
        return [
            {name: tensor[index : index + 1] for name, tensor in joined.items()} | {"padded_size": size}
            for index in range(len(inputs["index"]))
        ]


def make_trainer(options: argparse.Namespace, folder: str) -> SSPromptTrainer:
    """With an untrained adapter, and as many images as fit into a batch."""
    names = [f"class {index}" for index in range(options.classes)]
    torch.manual_seed(0)
    base, processor = find_family(options.model).random_model(options.model, names)
    classes = SegmentationClasses(tuple(ClassInfo(name, index) for index, name in enumerate(names)))
    source = RandomImages(options.batch_size, (options.height, options.width), options.classes)
    images = SegmentationDataset(classes, source, "random images")
    on_gpu = torch.device(options.device).type == "cuda"
    args = SSPromptTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=options.batch_size,
        random_flip=False,
        use_cpu=not on_gpu,
        feature_cache_gb=64,
        report_to="none",
    )
    if options.variant == "lora":
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=attention_projections(base))
        args = dataclasses.replace(args, feature_cache="none")
        return PixelTrainer(get_peft_model(base, config), args, processor, images)
    args = dataclasses.replace(args, feature_cache="device" if on_gpu else "memory")
    return SSPromptTrainer(get_peft_model(base, SSPromptConfig()), args, processor, images)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Of one variant, in this process: `ms` a step, peak `gib`, `file_kb`, learned `parameters`, and `cached_mib` of
    an image."""
    torch.set_num_threads(options.threads)
    on_gpu = torch.device(options.device).type == "cuda"
    clock = time.perf_counter if on_gpu or options.threads > 1 else time.process_time
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(options, folder)
        model = trainer.accelerator.prepare(trainer.model)
        trainer.create_optimizer()
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))

        def step() -> float:
            start = clock()
            trainer.compute_loss(model, batch).backward()
            trainer.optimizer.step()
            unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
            if unused:
                raise SystemExit(f"no gradient for {unused[0]} and {len(unused) - 1} others")
            trainer.optimizer.zero_grad()
            if on_gpu:
                torch.cuda.synchronize()
            return clock() - start

        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        with PeakMemory() as peak:
            step()  # warms up, and fills the cache
            seconds = [step() for _ in range(options.steps)]
        trainer.model.save_pretrained(folder)
        return {
            "ms": 1000 * median(seconds),
            "gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else peak.value,
            "file_kb": (Path(folder) / ADAPTER_WEIGHTS).stat().st_size / 1000,
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "cached_mib": trainer.feature_cache.memory_bytes / 2**20 / options.batch_size,
        }


def table(results: dict[str, dict[str, float]]) -> str:
    """Each number beside its ratio to SSPrompt's."""
    header = [
        "",
        "ms a step",
        "ratio",
        "peak GiB",
        "ratio",
        "file, kB",
        "ratio",
        "learned numbers",
        "cached MiB/image",
    ]
    first, rows = results["ssprompt"], []
    for variant, result in results.items():
        row = [VARIANTS[variant]]
        for name, digits in (("ms", 1), ("gib", 2), ("file_kb", 0)):
            row += [f"{result[name]:.{digits}f}", f"{result[name] / first[name]:.2f}"]
        rows.append(
            [*row, f"{result['parameters']:,}", f"{result['cached_mib']:.1f}" if result["cached_mib"] else "-"]
        )
    return markdown_table(header, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="seem-nano", help="name or folder (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--variant", choices=VARIANTS, help="measure one of the two, and print its numbers as JSON")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    if options.variant is not None:
        print(json.dumps(measure(options)))
        return
    results = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        results[variant] = json.loads(output.strip().splitlines()[-1])
    size = f"{options.height}x{options.width}, batch of {options.batch_size}, {options.classes} classes"
    where = options.device if options.device != "cpu" else f"{options.threads} thread(s)"
    print(f"{options.model}, random weights, {size}, {where}, torch {torch.__version__}\n\n{table(results)}")
    if options.output is not None:
        settings = {name: value for name, value in vars(options).items() if name not in ("output", "variant")}
        write_json(options.output, {"settings": settings, "torch": torch.__version__, "results": results})


if __name__ == "__main__":
    main()
