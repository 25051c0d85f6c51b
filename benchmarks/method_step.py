"""Time and peak memory of a training step of SSPrompt, CoOp and LOCN, with and without the feature cache (Table 7).

python benchmarks/method_step.py --output benchmarks/results/method_step.json   # Focal-T at full size, 150 classes
python benchmarks/method_step.py --small                                  # a tiny model, to try the script

`ssprompt-hf reproduce --table 7` measures the same and repeats it; here size and batch can be chosen. The weights are
random, on which neither time nor memory depends. Class names are taken to have two tokens; CoOp's prompts are then 21
tokens long and LOCN's 9. Images are 4:3 with a shorter side of 512. GB are the peak of the whole process, weights and
libraries included. The paper does not say, in the text we have, on what it measured: only ratios can be compared.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch

from ssprompt_hf.models.seem import SeemConfig
from ssprompt_hf.plotting.tables import markdown_table
from ssprompt_hf.reproduce.paper import PAPER
from ssprompt_hf.reproduce.plans import ROWS
from ssprompt_hf.reproduce.presets import StepSetting
from ssprompt_hf.reproduce.step_cost import measure_step
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.utils.files import write_json

COMPARED = {ROWS[method].title: method for method in ("coop", "locn", "ssprompt")}


def small_config() -> SeemConfig:
    """A tiny model with CLIP's vocabulary."""
    width = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim", "projection_dim"), 32)
    text = {"vocab_size": 49408, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2}
    backbone = {"model_type": "seem_focalnet", "embed_dim": 8, "depths": [1, 1, 1, 1]}
    return SeemConfig(backbone_config=backbone, text_config=text, encoder_layers=1, decoder_layers=3, **width)


def measure(method: str, cached: bool, options: argparse.Namespace) -> dict[str, float]:
    """See `measure_step`."""
    setting = StepSetting(options.height, options.width, options.classes, name_tokens=2, template_tokens=4)
    with tempfile.TemporaryDirectory() as folder:
        base_model = "seem-t"
        if options.small:
            base_model = folder
            small_config().save_pretrained(folder)
        args = SSPromptTrainingArguments(output_dir=folder, use_cpu=not options.cuda)
        return measure_step(base_model, method, cached, setting, args, options.batch_size, options.steps)


def table(results: dict[str, dict]) -> str:
    """The results as Markdown, beside the paper's; ratios are to SSPrompt without cache."""
    header = ["method", "ms/image", "ratio", "GB", "ratio", "cached ms/image", "ratio", "cached GB"]
    header += ["paper ms", "ratio", "paper GB"]
    base, paper = results["SSPrompt"]["no cache"], PAPER["7"]
    rows = []
    for title in COMPARED:
        plain, cached = results[title]["no cache"], results[title]["cache"]
        paper_ms = paper[title, "ms/image"]
        rows.append(
            [
                title,
                f"{plain['ms']:.1f}",
                f"{plain['ms'] / base['ms']:.2f}",
                f"{plain['gb']:.2f}",
                f"{plain['gb'] / base['gb']:.2f}",
                f"{cached['ms']:.1f}",
                f"{cached['ms'] / base['ms']:.2f}",
                f"{cached['gb']:.2f}",
                paper_ms,
                f"{paper_ms / paper['SSPrompt', 'ms/image']:.2f}",
                paper[title, "GB"],
            ]
        )
    return markdown_table(header, rows)


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
    for title, method in COMPARED.items():
        results[title] = {}
        for name in ("no cache", "cache"):
            results[title][name] = measure(method, name == "cache", options)
            print(title, name, json.dumps(results[title][name]), flush=True)
    print("\n" + table(results))
    if options.output is not None:
        settings = {name: value for name, value in vars(options).items() if name != "output"}
        machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "load_average": os.getloadavg()[0]}
        write_json(options.output, {"settings": settings, "machine": machine, "results": results})


if __name__ == "__main__":
    main()
