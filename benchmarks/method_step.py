"""Time and peak memory of a training step of SSPrompt, CoOp and LOCN, with and without the feature cache (Table 7).

python benchmarks/method_step.py --output benchmarks/results/method_step.json   # Focal-T at full size, 150 classes
python benchmarks/method_step.py --small                                  # a tiny model, to try the script

The weights are random, on which neither time nor memory depends. Class names are taken to have two tokens; CoOp's
prompts are then 21 tokens long and LOCN's 9. Images are 4:3 with a shorter side of 512. GB are the peak of the whole
process, weights and libraries included. The paper does not say, in the text we have, on what it measured: only ratios
can be compared.
"""

import argparse
import gc
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from peft import get_peft_model
from train_step import PeakMemory

from ssprompt_hf.data.classes import ClassInfo, SegmentationClasses
from ssprompt_hf.data.dataset import SegmentationDataset
from ssprompt_hf.file_utils import write_json
from ssprompt_hf.hub.registry import base_model_config
from ssprompt_hf.models.seem import SeemConfig, SeemForUniversalSegmentation, SeemImageProcessor
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.trainer import SSPromptTrainer
from ssprompt_hf.tuners import CoOpConfig, LOCNConfig, SSPromptConfig

# Milliseconds an image and GB, on ADE20K.
PAPER = {"CoOp": (87.5, 8.22), "LOCN": (89.5, 8.22), "SSPrompt": (56.0, 3.82)}
TEMPLATE_TOKENS = {"CoOp": [], "LOCN": [320, 1125, 539, 320]}  # "a photo of a" in CLIP's vocabulary
FULL_STOP = [269]


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


def build_model(names: list[str], with_text_model: bool, small: bool) -> SeemForUniversalSegmentation:
    """A model with random weights, and random embeddings of the classes `names`."""
    config = base_model_config("seem-t")
    if small:
        width = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim", "projection_dim"), 32)
        text = {"vocab_size": 49408, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        text |= {"num_attention_heads": 2}
        backbone = {"model_type": "seem_focalnet", "embed_dim": 8, "depths": [1, 1, 1, 1]}
        config = SeemConfig(backbone_config=backbone, text_config=text, encoder_layers=1, decoder_layers=3, **width)
    config.use_text_model, config.use_spatial_prompt_encoder = with_text_model, False
    torch.manual_seed(0)
    model = SeemForUniversalSegmentation(config).eval()
    embeddings = torch.nn.functional.normalize(torch.randn(len(names) + 1, config.projection_dim), dim=-1)
    model.set_class_embeddings(embeddings, names)
    return model.requires_grad_(False)


def method_config(method: str, names: list[str]):
    """The method with its defaults; class names get two tokens each."""
    if method == "SSPrompt":
        return SSPromptConfig()
    rng = np.random.default_rng(1)
    return {"CoOp": CoOpConfig, "LOCN": LOCNConfig}[method](
        class_names=names,
        class_token_ids=rng.integers(500, 40000, (len(names), 2)).tolist(),
        prefix_token_ids=TEMPLATE_TOKENS[method],
        suffix_token_ids=FULL_STOP,
        start_token_id=49406,
        end_token_id=49407,
    )


def measure(method: str, cached: bool, options: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds an image and peak memory (GB, with the weights) of a step, after one to warm up."""
    gc.collect()  # the model before this one
    names = [f"class {index}" for index in range(options.classes)]
    model = get_peft_model(build_model(names, method != "SSPrompt", options.small), method_config(method, names))
    classes = [ClassInfo(name, index) for index, name in enumerate(names)]
    source = RandomImages(options.batch_size, (options.height, options.width), options.classes)
    dataset = SegmentationDataset(SegmentationClasses(tuple(classes)), source, "random images")
    storage = ("device" if options.cuda else "memory") if cached else "none"
    with tempfile.TemporaryDirectory() as folder:
        args = SSPromptTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=options.batch_size,
            random_flip=False,
            use_cpu=not options.cuda,
            feature_cache=storage,
            feature_cache_gb=64,
        )
        trainer = SSPromptTrainer(model, args, SeemImageProcessor(do_resize=False), dataset)
        model = trainer.accelerator.prepare(model)
        trainer.create_optimizer()
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))

        def step() -> float:
            start = time.perf_counter()
            trainer.compute_loss(model, batch).backward()
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            if options.cuda:
                torch.cuda.synchronize()
            return time.perf_counter() - start

        step()
        if options.cuda:
            torch.cuda.reset_peak_memory_stats()
        with PeakMemory() as peak:
            seconds = [step() for _ in range(options.steps)]
    memory = torch.cuda.max_memory_allocated() / 1e9 if options.cuda else peak.value * 2**30 / 1e9
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"ms": 1000 * median(seconds) / options.batch_size, "gb": memory, "parameters": parameters}


def table(results: dict[str, dict]) -> str:
    """The results as Markdown, beside the paper's; ratios are to SSPrompt without cache."""
    base, paper = results["SSPrompt"], PAPER["SSPrompt"]
    columns = [
        "ms/image",
        "ratio",
        "GB",
        "ratio",
        "cached ms/image",
        "ratio",
        "cached GB",
        "paper ms",
        "ratio",
        "paper GB",
    ]
    lines = ["| method | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for method, (milliseconds, gigabytes) in PAPER.items():
        plain, cached = results[method]["no cache"], results[method]["cache"]
        cells = [
            f"{plain['ms']:.1f}",
            f"{plain['ms'] / base['no cache']['ms']:.2f}",
            f"{plain['gb']:.2f}",
            f"{plain['gb'] / base['no cache']['gb']:.2f}",
            f"{cached['ms']:.1f}",
            f"{cached['ms'] / base['no cache']['ms']:.2f}",
            f"{cached['gb']:.2f}",
            f"{milliseconds}",
            f"{milliseconds / paper[0]:.2f}",
            f"{gigabytes}",
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=683)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="timed steps (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--small", action="store_true", help="a tiny model and small images")
    parser.add_argument("--cuda", action="store_true", help="on the GPU, with the cache in its memory")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    if options.small:
        options.height, options.width = 64, 96
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    results: dict[str, dict] = {}
    for method in PAPER:
        results[method] = {}
        for name in ("no cache", "cache"):
            results[method][name] = measure(method, name == "cache", options)
            print(method, name, json.dumps(results[method][name]), flush=True)
    print("\n" + table(results))
    if options.output is not None:
        settings = {name: value for name, value in vars(options).items() if name != "output"}
        machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "load_average": os.getloadavg()[0]}
        write_json(options.output, {"settings": settings, "machine": machine, "results": results, "paper": PAPER})


if __name__ == "__main__":
    main()
