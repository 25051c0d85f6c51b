"""Phrases of CLIPSeg."""

from typing import Any

import torch

from ...segmentation.tiles import MaskGeometry, Size
from ...segmentation.visual_prompts import TEXT, PromptAnswer, VisualPrompts
from ..interactive import AnswersPrompts
from ..interface import CachedFeatures
from . import text

SCORE_THRESHOLD = 0.5
"""A phrase with a score above it is there: a pixel that is more likely than not of it. CLIPSeg says nothing of an
image as a whole, and its authors name no threshold."""


class CLIPSegPhrases(AnswersPrompts):
    """Each phrase is asked about by itself, and has one mask."""

    visual_prompts = {TEXT: "a phrase each, with one mask"}

    def missing_encoder(self, kind: str) -> str | None:
        """See [`AnswersPrompts.missing_encoder`]."""
        return "the text encoder" if self.clip.text_model is None else None

    def answer_prompts(
        self, features: CachedFeatures, image_size: Size, prompts: VisualPrompts, tokenizer: Any = None
    ) -> list[PromptAnswer]:
        """See [`AnswersPrompts.answer_prompts`]; the score is the largest probability of a pixel."""
        activations = self.decoder_inputs([features], self.device)["activations"][0]
        answers = []
        for phrase in prompts.text:
            embedding = text.encode_texts(self, [phrase], tokenizer)
            logits = self.decoder(activations, embedding).logits
            masks = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
            size = tuple(masks.shape[-2:])
            geometry = MaskGeometry(size, size, prompts.image_size, "bilinear")
            scores = masks.flatten(1).max(dim=1).values
            answers.append(
                PromptAnswer(masks, scores, geometry, are_logits=False, phrase=phrase, threshold=SCORE_THRESHOLD)
            )
        return answers
