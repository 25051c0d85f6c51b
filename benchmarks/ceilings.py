"""How much there is to gain: what other things than prompts learn from the same few images.

    python benchmarks/ceilings.py --domains fog night rain snow --data_dir data/camvid

Mean IoU of `seem-nano` (or `--base_model`) in percent, on test scenes and on the split `val` of the folder, before and
after learning, and by class after it

* `prompts`: SSPrompt, as the paper describes it;
* `extended`: SSPrompt, as `ssprompt-hf train` learns it, with prototypes and class masks;
* `linear`: a linear classifier of each pixel's mask features, from nothing: no queries, no default prompts, no class
  names. It tells what the features of the frozen model hold;
* `decoder`: all weights of the mask decoder;
* `model`: those of the image encoder and of the pixel decoder, too: a whole model for every task.
"""

import argparse
import itertools
import logging
import tempfile
from collections.abc import Iterable, Iterator

import torch
from sweep import quiet_trainer
from torch import nn
from torch.nn import functional as F

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.metrics import confusion_matrix, scores_from_confusion
from ssprompt_hf.reproduce.presets import make_preset
from ssprompt_hf.training.data_choice import select_training_images
from ssprompt_hf.training.examples import EvaluationExamples
from ssprompt_hf.training.losses import label_shares
from ssprompt_hf.training.settings import DataArguments, PromptArguments
from ssprompt_hf.training.trainer import SSPromptTrainer

PROMPTS = ("prompts", "extended")
WEIGHTS = {"decoder": ["mask_decoder"], "model": ["backbone", "pixel_decoder", "mask_decoder"]}
# Steps and rates, chosen on validation scenes at night and on a part of CamVid's training images: `model` out of 1e-4
# and 3e-4, `decoder` also 1e-3.
SETTINGS = {"linear": (600, 1e-2), "decoder": (200, 3e-4), "model": (200, 1e-4)}


def batches(trainer: SSPromptTrainer, steps: int) -> Iterator[dict]:
    """Training batches with pixels, in the order in which prompts learn from them."""
    loader = trainer.get_train_dataloader()

    def endless():
        for epoch in itertools.count():
            loader.set_epoch(epoch)
            yield from loader

    return itertools.islice(endless(), steps)


def fit(parameters: list[nn.Parameter], losses: Iterable[torch.Tensor], steps: int, learning_rate: float) -> None:
    """AdamW, one step a loss, with a rate that falls linearly to zero."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def learn_weights(trainer: SSPromptTrainer, learned: str) -> dict:
    """Fine-tune parts of the base model with the loss of the prompts; running statistics and prompts stay."""
    steps, learning_rate = SETTINGS[learned]
    model, seem = trainer.model.eval().requires_grad_(False), trainer.base_model.model
    parameters = [parameter for part in WEIGHTS[learned] for parameter in getattr(seem, part).parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)

    def losses():
        for batch in batches(trainer, steps):
            image_losses = []
            for pixel_values, size, label in zip(batch["pixel_values"], batch["image_size"], batch["label"]):
                outputs = model(pixel_values=pixel_values.to(model.device), image_sizes=torch.tensor([size]))
                prediction = trainer.base_model.predictions(outputs)[0]
                image_losses.append(trainer.semantic_loss(prediction, label[None].to(model.device)))
            yield torch.cat(image_losses).mean()

    fit(parameters, losses(), steps, learning_rate)
    return trainer.evaluate_by_class()["adapted"]


def learn_classifier(trainer: SSPromptTrainer) -> tuple[dict, int]:
    """Learn a linear classifier by likelihood; classes are weighted by the square root of their inverse frequency.
    Returns its scores and its number of parameters."""
    steps, learning_rate = SETTINGS["linear"]
    names = trainer.train_dataset.classes.names
    weights = trainer.semantic_loss.class_weights[:, None, None]
    head, device = nn.Conv2d(trainer.base_model.config.mask_feature_size, len(names), 1), trainer.args.device
    head, seem = head.to(device), trainer.base_model.model.to(device)

    @torch.no_grad()
    def features(pixel_values):
        return seem.get_image_features(pixel_values.to(device), prepare=False).mask_features

    known = {}

    def losses():
        for batch in batches(trainer, steps):
            image_losses = []
            for position, view in enumerate(zip(batch["index"].tolist(), batch["flipped"])):
                if view not in known:
                    maps = features(batch["pixel_values"][position])
                    label = batch["label"][position][None].to(device)
                    known[view] = maps, label_shares(label, len(names), maps.shape[-2:])
                maps, shares = known[view]
                wanted = weights * shares
                image_losses.append(-(wanted * head(maps).log_softmax(1)).sum() / wanted.sum())
            yield torch.stack(image_losses).mean()

    fit(list(head.parameters()), losses(), steps, learning_rate)
    examples = EvaluationExamples(trainer.eval_dataset, trainer.image_processor, load_pixels=True)
    matrix = 0
    for index in range(len(examples)):
        example = examples[index]
        label = example["label"]
        height, width = (side // 4 for side in trainer.image_processor.resized_size(tuple(label.shape)))
        with torch.no_grad():
            logits = head(features(example["pixel_values"]))[..., :height, :width]
        logits = F.interpolate(logits, label.shape, mode="bilinear", align_corners=False)
        matrix = matrix + confusion_matrix(logits[0].argmax(0), label.to(device), len(names))
    return scores_from_confusion(matrix, names), sum(parameter.numel() for parameter in head.parameters())


def learn(learned: str, data: DataArguments, shots: int, seed: int) -> tuple[dict, dict, int]:
    """Scores without and with what is learned, the former only for prompts, as they are the same for all; and how many
    numbers are learned."""
    recipe = "extended" if learned == "extended" else "paper"
    prompts = PromptArguments(shots=shots, allow_fewer=True, recipe=recipe)
    images = data.load(data.train_split, "semantic")
    selection = select_training_images(images, prompts, seed)
    with tempfile.TemporaryDirectory() as folder:
        kept = "memory" if learned in PROMPTS else "none"
        trainer = quiet_trainer(data, prompts, images, selection, seed, folder, feature_cache=kept)
        if learned in PROMPTS:
            trainer.train()
            scores = trainer.evaluate_by_class(with_zero_shot=True)
            return scores["zero_shot"], scores["adapted"], trainer.get_num_trainable_parameters()
        if learned == "linear":
            return {}, *learn_classifier(trainer)
        return {}, learn_weights(trainer, learned), trainer.get_num_trainable_parameters()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="seem-nano", help="a SEEM (default: %(default)s)")
    parser.add_argument("--domains", nargs="+", default=[], help="of the embedded preset: fog, night, ...")
    parser.add_argument("--data_dir", help="a folder of images, labels and classes.json")
    parser.add_argument("--learn", nargs="+", choices=[*PROMPTS, *SETTINGS], default=[*PROMPTS, *SETTINGS])
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    known = make_preset("embedded").domains
    domains = {name: known[name].arguments(args.base_model) for name in args.domains}
    if args.data_dir is not None:
        domains[args.data_dir] = DataArguments(base_model=args.base_model, data_dir=args.data_dir, eval_split="val")
    for name, data in domains.items():
        for seed, learned in itertools.product(args.seeds, args.learn):
            before, after, count = learn(learned, data, args.shots, seed)
            what = f"{name}, {args.shots} shots, seed {seed}, {learned} ({count:,} numbers)"
            zero_shot = f", zero-shot {100 * before['mean_iou']:.1f}" if before else ""
            print(f"{what}: {100 * after['mean_iou']:.1f}{zero_shot}", flush=True)
            by_class = (f"{label} {100 * iou:.0f}" for label, iou in after["per_class_iou"].items())
            print(f"    {', '.join(by_class)}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except SSPromptError as error:
        raise SystemExit(f"error: {error}") from None
