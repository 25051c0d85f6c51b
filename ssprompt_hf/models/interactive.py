"""What a base model may answer besides its classes: clicks, boxes, scribbles and phrases. All of it is optional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import SSPromptError
from ..segmentation.tiles import Size
from ..segmentation.visual_prompts import PromptAnswer, VisualPrompts
from .interface import KINDS, CachedFeatures


class AnswersPrompts:
    """
    A mix-in for a [`PromptableModel`] that answers clicks, boxes, scribbles or phrases.

    Answers are those of the base model with its own prompts; [`SSPromptModel.predict`] sees to it that no adapter is
    in force.
    """

    visual_prompts: Mapping[str, str] = {}
    """The kinds of prompts (of `segmentation.visual_prompts.KINDS`) that the model takes, each with a clause that says
    what it makes of them."""

    def missing_encoder(self, kind: str) -> str | None:
        """The part that was not loaded and is needed for a kind of prompts, in words; None if there is none."""
        return None

    def reads_text(self, prompts: VisualPrompts) -> bool:
        """Whether `answer_prompts` needs the tokenizer."""
        return prompts.text is not None

    @torch.no_grad()
    def prompted_features(self, pixel_values: torch.Tensor) -> CachedFeatures:
        """What the frozen part says of `(1, 3, H, W)`: enough for any number of questions about the image."""
        return self.image_features(pixel_values, self.feature_stages(KINDS)[0])

    def answer_prompts(
        self, features: CachedFeatures, image_size: Size, prompts: VisualPrompts, tokenizer: Any = None
    ) -> list[PromptAnswer]:
        """
        Args:
            features: of `prompted_features`.
            image_size: (height, width) of the image within the pixel values.
            prompts: of kinds that the model takes.
            tokenizer: of its text encoder; None where there are no phrases.

        Returns:
            one answer for each object, then one for each phrase, in their order. A model for which boxes are examples
            of what to find (SAM 3) gives one answer for each phrase or, without phrases, one for all boxes together.

        Raises:
            SSPromptError: prompts that the model does not take in this combination.
        """
        raise NotImplementedError


def check_prompts(model: Any, prompts: VisualPrompts) -> None:
    """
    Raises:
        SSPromptError: the model lacks a kind of prompts, or the encoder of one; the message names what it has.
    """
    taken = getattr(model, "visual_prompts", {})
    for kind in prompts.kinds:
        if kind not in taken:
            has = "; ".join(f"{name} ({meaning})" for name, meaning in taken.items()) or "none of these"
            raise SSPromptError(f"{type(model).__name__} takes no {kind}. It takes {has}")
        if (missing := model.missing_encoder(kind)) is not None:
            raise SSPromptError(
                f"{kind} need {missing}, which was not loaded: load the model with keep_prompt_encoders=True"
            )
