"""Time of scoring many adapters of one base model: each alone, and all in one pass over the images.

    python benchmarks/shared_pass.py                                        # seem-nano, drawn scenes of 512x1024
    python benchmarks/shared_pass.py --model seem-lite
    python benchmarks/shared_pass.py --model seem-t --images 2 --height 512 # full size, random weights

What runs is what `reproduce` runs for the cells of a data set: images are read from files, features computed once an
image, and confusion matrices counted at original size. Two sets of ten are scored:

* "table": the base model alone, three seeds of each of two methods that learn words only, and three of SSPrompt. Those
  that learn no spatial prompts are decoded together.
* "spatial": ten seeds of SSPrompt, each of which is decoded by itself.

One thread; processor seconds, which other work on the machine hardly changes. Prompts begin at random places near the
base model's: time does not depend on them.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from measuring import random_model
from PIL import Image
from transformers import PrinterCallback

from ssprompt_hf import DataArguments, SSPromptConfig, SSPromptModel, SSPromptTrainingArguments
from ssprompt_hf.data.loading import load_street_scenes
from ssprompt_hf.training.trainer import SSPromptTrainer

WORDS = {"spatial_embedding": False, "spatial_weight": False}
NOISE = {"init_embeddings": "noise", "init_std": 0.02, "init_weight": 0.5}


def write_scenes(folder: Path, count: int, size: tuple[int, int]):
    """Drawn scenes as files: `images/val`, `annotations/val` and the list of classes."""
    scenes = load_street_scenes("street-scenes/clear", "test", num_images=count, size=size)
    for index, example in enumerate(scenes):
        for kind, array in (("images", example["image"]), ("annotations", example["label"])):
            path = folder / kind / "val" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (folder / "classes.txt").write_text("\n".join(scenes.classes.names) + "\n")


def adapted(name: str, kinds: list[dict], classes: list[str]) -> tuple[SSPromptModel, list[str]]:
    """The base model with an adapter of each kind, and their names."""
    if name == "seem-t":
        base = random_model(name)
        generator = torch.Generator().manual_seed(0)
        embeddings = torch.randn(len(classes) + 1, base.config.projection_dim, generator=generator)
        base.set_class_embeddings(torch.nn.functional.normalize(embeddings, dim=-1), classes)
        processor = base.default_image_processor()
    else:
        loaded = SSPromptModel.from_pretrained(name, class_names=classes)
        base, processor = loaded.merge(), loaded.image_processor
    names = [f"adapter_{number}" for number in range(len(kinds))]
    torch.manual_seed(0)
    model = SSPromptModel(base, SSPromptConfig(**kinds[0]), names[0], image_processor=processor)
    for one, kind in zip(names[1:], kinds[1:]):
        model.add_adapter(one, SSPromptConfig(**kind))
    return model.eval(), names


def seconds(trainer: SSPromptTrainer, adapters: list[str]) -> tuple[float, dict]:
    """Of this thread, for an evaluation of `adapters`; and their scores."""
    start = time.thread_time()
    scores = trainer.evaluate_by_class(adapters=adapters)
    return time.thread_time() - start, scores


def measure(options: argparse.Namespace, kinds: list[dict], images, folder: str) -> dict:
    """Seconds of one adapter, of the sum of all alone, and of all in one pass."""
    model, names = adapted(options.model, kinds, images.classes.names)
    args = SSPromptTrainingArguments(output_dir=folder, use_cpu=True, disable_tqdm=True, report_to=[])
    processor = model.sized_image_processor(options.height)
    trainer = SSPromptTrainer(model, args, processor, eval_dataset=images)
    trainer.remove_callback(PrinterCallback)
    seconds(trainer, names[:1])  # to warm up
    chosen = names[:: max(1, (len(names) - 1) // max(1, options.alone - 1))]
    alone = {name: seconds(trainer, [name]) for name in chosen}
    together, scores = seconds(trainer, names)
    same = all(str(scores[name]) == str(found[name]) for name, (_, found) in alone.items())
    times = [elapsed for elapsed, _ in alone.values()]
    one = sum(times) / len(times)
    return {"one": one, "each_alone": one * len(names), "together": together, "same_scores": same}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="seem-nano", help="seem-nano, seem-lite, or seem-t with random weights")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--alone", type=int, default=10, help="so many of the ten are scored alone, too, at least 2")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--height", type=int, help="of the images as the model sees them (default: the processor's)")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = {"table": [NOISE | WORDS] * 7 + [NOISE] * 3, "spatial": [NOISE] * 10}
    sets["table"][0] = WORDS
    numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), options.images, tuple(options.size))
        images = DataArguments(data_dir=folder).load("val")
        print(f"{options.model}, {len(images)} images of {options.size[0]}x{options.size[1]}; seconds an image")
        print(
            f"{'adapters':<10} {'one':>8} {'each alone':>11} {'one pass':>9} {'to one':>7} {'to each':>8} same scores"
        )
        for name, kinds in sets.items():
            found = measure(options, kinds, images, folder)
            one, each, together = (found[key] / len(images) for key in ("one", "each_alone", "together"))
            numbers[name] = found | {"to_one": together / one, "to_each_alone": together / each}
            print(
                f"{name:<10} {one:8.2f} {each:11.2f} {together:9.2f} {together / one:7.2f} {together / each:8.2f} "
                f"{found['same_scores']}",
                flush=True,
            )
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({"model": options.model, **numbers}, indent=2) + "\n")


if __name__ == "__main__":
    main()
