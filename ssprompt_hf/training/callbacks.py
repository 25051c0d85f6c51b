"""What is added to transformers' callbacks: early stopping, prototypes, and progress bars that say what they show."""

from typing import Any

from transformers import EarlyStoppingCallback, ProgressCallback, Trainer, TrainerCallback

from .class_masks import SharesInRange
from .prototypes import PrototypesAtStart


class NamedProgress(ProgressCallback):
    """The progress bars of transformers, with the name of the stage in front."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description("training")

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """See `TrainerCallback`."""
        is_new = self.prediction_bar is None
        super().on_prediction_step(args, state, control, eval_dataloader=eval_dataloader, **kwargs)
        if is_new and self.prediction_bar is not None:
            self.prediction_bar.set_description("evaluating")


def add_callbacks(trainer: Trainer) -> None:
    """Start from prototypes and stop early where the arguments say so; keep shares of class masks in range, and name
    the progress bars that are shown."""
    trainer.add_callback(SharesInRange())
    if trainer.args.prototypes:
        trainer.add_callback(PrototypesAtStart(trainer))
    patience = trainer.args.early_stopping_patience
    if patience is not None:
        trainer.add_callback(EarlyStoppingCallback(patience))
    bars: list[TrainerCallback] = trainer.callback_handler.callbacks
    for position, callback in enumerate(bars):
        if type(callback) is ProgressCallback:  # not that of notebooks
            bars[position] = NamedProgress()
