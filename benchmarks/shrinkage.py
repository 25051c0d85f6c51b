"""Scores along the way from the first prompts to the learned ones.

    python benchmarks/shrinkage.py --domains fog night both --data_dir data/camvid

Learns SSPrompt adapters on `seem-nano` (or `--base_model`) from 16 shots and keeps 0 to 1 of the way: training loss,
and mean IoU in percent on validation scenes (or the last third of a folder's training images). Tells what the default
shrinkage keeps.
"""

import argparse
import logging
import math
import tempfile
from pathlib import Path

from sweep import SHOTS, add_domain_options, chosen_domains, quiet_trainer

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.reproduce.presets import Domain
from ssprompt_hf.training.data_choice import select_training_images
from ssprompt_hf.training.feature_cache import FeatureCache
from ssprompt_hf.training.settings import PromptArguments
from ssprompt_hf.training.shrinkage import (
    INTERVALS,
    MAX_IMAGES,
    TrainingPath,
    first_images,
    losses_along,
    nearest_share,
)
from ssprompt_hf.tuners import SSPromptConfig


def scores_on_the_way(
    base_model: str, domain: Domain, seed: int, learning_rate: float, folder: str
) -> tuple[list, list]:
    """Mean training loss and mean IoU at equally spaced shares of the way."""
    data, prompts = domain.arguments(base_model), PromptArguments(shots=SHOTS, allow_fewer=True, recipe="paper")
    images = data.load(data.train_split, "semantic")
    selection = select_training_images(images, prompts, seed)
    # a cache of our own, as it keeps the images of the evaluations, too
    cache = FeatureCache(max_bytes=8 * 2**30)
    trainer = quiet_trainer(
        data, prompts, images, selection, seed, folder, cache, learning_rate=learning_rate, shrinkage=0
    )
    path = TrainingPath(trainer.model)
    trainer.train()
    losses = losses_along(trainer, path, first_images(trainer, MAX_IMAGES)[0]).tolist()
    scores = []
    for point in range(INTERVALS + 1):
        path.set_share(point / INTERVALS)
        scores.append(100 * trainer.evaluate_by_class()["adapted"]["mean_iou"])
    return losses, scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="seem-nano")
    add_domain_options(parser, ["fog", "night", "both"], num_images=40)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--learning_rate", type=float, default=0.1)
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        domains = chosen_domains(args, Path(folder))
        print("share:", *(f"{point / INTERVALS:.1f}" for point in range(INTERVALS + 1)))
        for domain in domains:
            for seed in args.seeds:
                losses, scores = scores_on_the_way(args.base_model, domain, seed, args.learning_rate, folder)
                share = nearest_share(losses, SSPromptConfig().default_shrinkage / math.sqrt(SHOTS))
                print(f"{domain.name}, seed {seed}: loss", *(f"{loss:.3f}" for loss in losses))
                print(f"{domain.name}, seed {seed}: mIoU", *(f"{score:.1f}" for score in scores), f"kept {share:.2f}")


if __name__ == "__main__":
    try:
        main()
    except SSPromptError as error:
        raise SystemExit(f"error: {error}") from None
