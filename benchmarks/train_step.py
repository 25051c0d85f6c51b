"""Time and memory of a training step, with and without the feature cache.

python benchmarks/train_step.py                  # seem-nano
python benchmarks/train_step.py --model seem-t --height 512 --width 1024 --batch_size 4
python benchmarks/train_step.py --model sam2.1-tiny --height 512 --width 1024 --batch_size 1 --only none cache

A step is what a step of training is: the images are read (here: drawn street scenes) and preprocessed, the frozen part
and the decoder run, the prompts move. With the cache, only labels are read and only the decoder runs. The column
"computing" leaves reading and preprocessing out. Weights are random, on which neither time nor memory depends.
"""

import argparse
import tempfile
import time
from statistics import median

import torch
from peft import get_peft_model

from ssprompt_hf.data.dataset import SegmentationDataset
from ssprompt_hf.data.loading import load_street_scenes
from ssprompt_hf.models.registry import find_family
from ssprompt_hf.reproduce.shared_work import KeptSource
from ssprompt_hf.reproduce.step_cost import PeakMemory
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.trainer import SSPromptTrainer
from ssprompt_hf.tuners import SSPromptConfig


def measure(options: argparse.Namespace, **arguments) -> dict[str, float]:
    """Median seconds of a step, of the part of it that computes, and peak memory, after one step of warming up."""
    torch.manual_seed(0)
    size = (options.height, options.width)
    scenes = load_street_scenes("street-scenes/fog", num_images=options.batch_size, size=size)
    names = [f"class {index}" for index in range(len(scenes.classes))]
    base, processor = find_family(options.model).random_model(options.model, names)
    model = get_peft_model(base, SSPromptConfig(**arguments.pop("prompts", {})))
    dataset = SegmentationDataset(scenes.classes, KeptSource(scenes.source), "kept scenes") if options.kept else scenes
    with tempfile.TemporaryDirectory() as folder:
        args = SSPromptTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=options.batch_size,
            random_flip=False,
            use_cpu=not options.cuda,
            feature_cache_gb=64,
            **arguments,
        )
        trainer = SSPromptTrainer(model, args, processor, dataset)
        model = trainer.accelerator.prepare(model)
        trainer.create_optimizer()
        seconds = {"read": [], "compute": []}
        clock = time.process_time if options.processor_time else time.perf_counter

        def step():
            start = clock()
            batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
            read = clock()
            trainer.compute_loss(model, batch).backward()
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            if options.cuda:
                torch.cuda.synchronize()
            seconds["read"].append(read - start)
            seconds["compute"].append(clock() - read)

        step()
        if options.cuda:
            torch.cuda.reset_peak_memory_stats()
        with PeakMemory() as peak:
            for _ in range(options.steps):
                step()
        memory = torch.cuda.max_memory_allocated() / 2**30 if options.cuda else peak.value
        features = trainer.feature_cache.memory_bytes / 2**20 / options.batch_size
    read, compute = (median(seconds[name][1:]) for name in ("read", "compute"))
    return {"step": read + compute, "compute": compute, "memory": memory, "features": features}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="seem-nano", help="name or folder (default: %(default)s)")
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default: %(default)s)")
    parser.add_argument("--kept", action="store_true", help="images are read from memory instead of being drawn")
    parser.add_argument(
        "--processor_time",
        action="store_true",
        help="seconds of all threads together, which hardly depend on what else the machine does",
    )
    parser.add_argument("--cuda", action="store_true", help="on the GPU, with the cache in its memory")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="measure these rows only: none, cache, ...")
    options = parser.parse_args()

    storage = "device" if options.cuda else "memory"
    semantic_only = {"spatial_embedding": False, "spatial_weight": False}
    rows = {
        "none": ("no cache", {"feature_cache": "none"}),
        "cache": ("cache", {"feature_cache": storage, "keep_projections": False}),
        "projections": ("cache with keys and values", {"feature_cache": storage, "keep_projections": True}),
        "semantic": ("cache, semantic prompts only", {"feature_cache": storage, "prompts": semantic_only}),
    }
    print(f"{options.model}, {options.height}x{options.width}, batch of {options.batch_size}")
    print(f"{'':<30} {'s/step':>8} {'ratio':>7} {'computing':>10} {'ratio':>7} {'GiB':>6} {'MiB/image':>10}")
    full = None
    for name in options.only or rows:
        title, arguments = rows[name]
        result = measure(options, **arguments)
        full = result if name == "none" else full
        ratios = [f"{result[key] / full[key]:.3f}" if full else "-" for key in ("step", "compute")]
        print(
            f"{title:<30} {result['step']:8.3f} {ratios[0]:>7} {result['compute']:10.3f} {ratios[1]:>7} "
            f"{result['memory']:6.2f} {result['features']:10.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
