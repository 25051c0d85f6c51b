"""No training keeps prompts that score much worse on its own images than those it began with.

The loss of matched masks and the scores of instance and panoptic segmentation are different things: average precision
ranks objects by their scores, panoptic quality counts whole segments. A training may lower the loss and these scores,
too. On a few images the scores are rough, so that a little may be lost: a training of `seem-nano` on 18 scenes in fog
took their AP from 6.4 to 6.0 on half of the way, and that of 24 others from 5.3 to 5.8.
"""

from typing import TYPE_CHECKING, Any

import torch

from .arguments import BEST_METRICS
from .evaluator import ADAPTED, Evaluator

if TYPE_CHECKING:
    from .shrinkage import TrainingPath

MAX_LOST_SCORE = 0.1
"""Share of the first score."""


def share_that_scores(trainer: Any, path: "TrainingPath", share: float, images: list[int]) -> float:
    """
    The largest of `share`, its half, its quarter and 0 of the way at which the task's score (`BEST_METRICS`) of the
    training images is at most a tenth (`MAX_LOST_SCORE`) below that of the start.

    Args:
        trainer: an `SSPromptTrainer` of instance or panoptic segmentation.
        path: from the first to the last prompts, which the model has afterwards.
        share: of the way.
        images: indices of the training images to score.
    """
    least = (1 - MAX_LOST_SCORE) * score_at(trainer, path, 0.0, images)
    candidates = [share, share / 2, share / 4]
    try:
        return next((here for here in candidates if here and score_at(trainer, path, here, images) >= least), 0.0)
    finally:
        path.set_share(1.0)


@torch.no_grad()
def score_at(trainer: Any, path: "TrainingPath", share: float, images: list[int]) -> float:
    """The task's score of training images at `share` of the way, from 0 to 1; 0 where it is not defined. The images
    are divided among the processes, each of which gets the score of all."""
    args, dataset = trainer.args, trainer.train_examples.dataset
    path.set_share(share)
    evaluator = Evaluator(trainer.image_processor, args.task, args.device)
    evaluator.begin(dataset, trainer.model)
    for index in images[args.process_index :: args.world_size]:
        example = dataset.read_targets(index)
        label, instance = (torch.from_numpy(example[key].copy()) for key in ("label", "instance"))
        features = trainer.features.get(trainer.train_examples, index, False)
        evaluator.add(trainer.model, features, index, label, instance)
    evaluator.compute(gather=args.world_size > 1)
    score = float(evaluator.task_scores[ADAPTED][BEST_METRICS[args.task]])
    return score if score == score else 0.0
