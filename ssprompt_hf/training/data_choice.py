"""Which images a training learns from, and which it is scored on."""

from dataclasses import dataclass

import numpy as np
from transformers.utils import logging

from ..data.dataset import SegmentationDataset
from ..data.few_shot import FewShotSelection, label_statistics, seeded_order, select_shots
from ..errors import TooFewImagesError
from .arguments import SSPromptTrainingArguments
from .settings import DataArguments, PromptArguments

logger = logging.get_logger(__name__)

HELD_OUT_SHARE = 5
"""One image of so many is kept apart to be scored on, where the data have no split for it."""


@dataclass
class ChosenData:
    """
    Args:
        images: what the images to learn from were chosen from.
        selection: those to learn from; None for all of `images`.
        evaluation: those to be scored on; None where nothing is scored.
        note: in one line, how data without a split to evaluate on were divided; else empty.
    """

    images: SegmentationDataset
    selection: FewShotSelection | None
    evaluation: SegmentationDataset | None
    note: str = ""

    @property
    def chosen(self) -> SegmentationDataset:
        """The images to learn from."""
        return self.images if self.selection is None else self.images.select(self.selection.indices)


def choose_data(data: DataArguments, prompts: PromptArguments, args: SSPromptTrainingArguments) -> ChosenData:
    """
    The images that the settings ask for.

    Data without a split to evaluate on are divided here: with `prompts.shots` all images that are not chosen are
    scored on, without it every fifth, always the same, so that seeds can be compared. Where nothing is to be scored,
    or no image would be left, all are learned from.

    Args:
        data, prompts, args: as of `train_adapter`.

    Raises:
        SSPromptError: as `train_adapter`.
    """
    images = data.load(data.train_split, args.task)
    if data.has_evaluation_split():
        evaluation = data.load_evaluation(args.task) if args.evaluates else None
        return ChosenData(images, select_training_images(images, prompts, args.seed), evaluation)
    if prompts.shots is not None:
        selection = select_training_images(images, prompts, args.seed)
        chosen = set(selection.indices)
        rest = [index for index in range(len(images)) if index not in chosen]
    else:
        selection = None
        rest = held_out(images) if args.evaluates else []
    if not rest and args.eval_strategy != "no":
        raise TooFewImagesError(
            f"{images.name} has no split to evaluate on and no image left for it, but eval_strategy is "
            f"{args.eval_strategy.value}: add images, choose fewer shots, or leave it out."
        )
    if not args.evaluates or not rest:
        why = "" if args.evaluates else ", as eval_strategy is no"
        note = f"{images.name} has no split to evaluate on: nothing is kept apart to evaluate on{why}"
        return ChosenData(images, selection, None, note)
    evaluation = images.select(rest[: data.max_eval_images])
    if selection is None:
        apart = set(rest)
        images = images.select(index for index in range(len(images)) if index not in apart)
    learned = len(images) if selection is None else len(selection.indices)
    parts = f"{learned} images to learn from, {len(evaluation)} others to evaluate on"
    note = f"{images.name} has no split to evaluate on: {parts}"
    if selection is None:
        note += " (--eval_strategy no learns from all)"
    return ChosenData(images, selection, evaluation, note)


def select_training_images(
    images: SegmentationDataset, prompts: PromptArguments, seed: int
) -> FewShotSelection | None:
    """The few shots that `prompts` asks for, or None for all images; raises as `select_shots`. As many shots as there
    are images mean all of them, whatever they show."""
    if prompts.shots is None:
        return None
    return select_shots(
        label_statistics(images),
        images.classes.names,
        prompts.shots,
        seed=seed,
        mode="total" if prompts.shots == len(images) else prompts.shot_mode,
        allow_fewer=prompts.allow_fewer,
    )


def held_out(images: SegmentationDataset) -> list[int]:
    """A fifth of the images, sorted, without the last one of any class; none of fewer than five."""
    shows = label_statistics(images).pixel_counts > 0
    left = shows.sum(0)
    chosen: list[int] = []
    for index in seeded_order(images.file_names, seed=0).tolist():
        if len(chosen) == round(len(images) / HELD_OUT_SHARE) or len(images) < HELD_OUT_SHARE:
            break
        if np.all(left[shows[index]] > 1):
            chosen.append(index)
            left = left - shows[index]
    return sorted(chosen)
