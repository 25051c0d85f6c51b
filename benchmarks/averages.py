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

from sweep import SHOTS, add_domain_options, chosen_domains, quiet_trainer

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.reproduce.presets import Domain
from ssprompt_hf.training.data_choice import select_training_images
from ssprompt_hf.training.settings import PromptArguments
from ssprompt_hf.training.trainer import SSPromptTrainer


def score(trainer: SSPromptTrainer) -> float:
    """Mean IoU in percent."""
    return 100 * trainer.evaluate_by_class()["adapted"]["mean_iou"]


def one_and_mean(base_model: str, domain: Domain, seed: int, folds: int, folder: Path) -> tuple[float, float]:
    """Mean IoU in percent of the adapter from all images, and of the mean of those from parts of them."""
    data, prompts = domain.arguments(base_model), PromptArguments(shots=SHOTS, allow_fewer=True)
    images = data.load(data.train_split, "semantic")
    selection = select_training_images(images, prompts, seed)

    def train(indices: list[int]) -> SSPromptTrainer:
        part = replace(selection, indices=indices)
        trainer = quiet_trainer(data, prompts, images, part, seed, str(folder))
        trainer.train()
        return trainer

    trainer = train(selection.indices)
    one, model, names = score(trainer), trainer.model, []
    for fold in range(folds):
        part = [index for position, index in enumerate(selection.indices) if position % folds != fold]
        names.append(f"fold_{fold}")
        train(part).model.save_pretrained(folder / names[-1])
        model.load_adapter(folder / names[-1], names[-1])
    model.add_weighted_adapter(names, [1 / folds] * folds, "mean")
    model.set_adapter("mean")
    return one, score(trainer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="seem-lite")
    add_domain_options(parser, ["night", "both"], num_images=40)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--folds", type=int, default=4)
    args = parser.parse_args()
    if args.folds < 2:
        parser.error(f"--folds is {args.folds}; it must be at least 2")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        for domain in chosen_domains(args, Path(folder)):
            for seed in args.seeds:
                one, mean = one_and_mean(args.base_model, domain, seed, args.folds, Path(folder))
                print(f"{domain.name}, seed {seed}: one {one:.2f}, mean of {args.folds} folds {mean:.2f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except SSPromptError as error:
        raise SystemExit(f"error: {error}") from None
