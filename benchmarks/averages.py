"""Whether the mean of adapters from parts of the training images is better than one adapter from all of them.

    python benchmarks/averages.py --domains both --data_dir data/camvid --held_out 0006R0

Learns SSPrompt from 16 shots as `ssprompt-hf train` does, once from all images, and `--folds` times without every
`--folds`-th image. Prints mean IoU in percent of the one and of the mean of the others' prompts, on validation scenes
and on photographs of a folder's training images (see `sweep.py`).
"""

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from sweep import SHOTS, held_out_photographs, validation_domains
from transformers import PrinterCallback

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.reproduce.presets import Domain
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.data_choice import select_training_images
from ssprompt_hf.training.runs import prepare_training
from ssprompt_hf.training.settings import PromptArguments
from ssprompt_hf.training.trainer import SSPromptTrainer


def learned(trainer: SSPromptTrainer) -> dict[str, torch.nn.Parameter]:
    """What is trained, by name."""
    return {name: parameter for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}


def score(trainer: SSPromptTrainer) -> float:
    """Mean IoU in percent."""
    return 100 * trainer.evaluate_by_class()["adapted"]["mean_iou"]


def one_and_mean(base_model: str, domain: Domain, seed: int, folds: int, folder: str) -> tuple[float, float]:
    """Mean IoU in percent of the adapter from all images, and of the mean of those from parts of them."""
    data, prompts = domain.arguments(base_model), PromptArguments(shots=SHOTS, allow_fewer=True)
    args = SSPromptTrainingArguments(
        output_dir=folder,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    images, evaluation = data.load(data.train_split, "semantic"), data.load_evaluation("semantic")
    selection = select_training_images(images, prompts, seed)

    def train(indices: list[int]) -> SSPromptTrainer:
        part = replace(selection, indices=indices)
        trainer = prepare_training(data, prompts, args, images, part, evaluation)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return trainer

    one = score(train(selection.indices))
    total: dict[str, torch.Tensor] = {}
    for fold in range(folds):
        trainer = train([index for position, index in enumerate(selection.indices) if position % folds != fold])
        for name, parameter in learned(trainer).items():
            total[name] = total.get(name, 0) + parameter.detach() / folds
    with torch.no_grad():
        for name, parameter in learned(trainer).items():
            parameter.copy_(total[name])
    return one, score(trainer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="seem-lite")
    parser.add_argument("--domains", nargs="*", default=["night", "both"])
    parser.add_argument("--data_dir", type=Path, help="a folder like CamVid, for the domain photographs")
    parser.add_argument("--held_out", help="score on photographs whose names begin so, not on the last third")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--num_images", type=int, default=40, help="validation scenes of a domain")
    parser.add_argument("--image_size", type=int, help="shorter side in pixels (default: the base model's)")
    args = parser.parse_args()
    if args.folds < 2:
        parser.error(f"--folds is {args.folds}; it must be at least 2")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        domains = validation_domains(args.domains, args.num_images)
        if args.data_dir is not None:
            domains.append(held_out_photographs(args.data_dir, Path(folder) / "photographs", args.held_out))
        for domain in domains:
            domain = replace(domain, data={**domain.data, "image_size": args.image_size})
            for seed in args.seeds:
                one, mean = one_and_mean(args.base_model, domain, seed, args.folds, folder)
                print(f"{domain.name}, seed {seed}: one {one:.2f}, mean of {args.folds} folds {mean:.2f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except SSPromptError as error:
        raise SystemExit(f"error: {error}") from None
