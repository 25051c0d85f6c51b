"""Phrases and boxes of SAM 3: what transformers' model and processor make of them."""

from typing import Any

import torch
from transformers.utils import is_torchvision_available

from ...errors import SSPromptError
from ...segmentation.tiles import MaskGeometry, Size
from ...segmentation.visual_prompts import BOXES, TEXT, PromptAnswer, VisualPrompts
from ..interactive import AnswersPrompts
from ..interface import CachedFeatures
from .text import tokenize

VISUAL = "visual"
"""The phrase that `Sam3Processor` puts in where there are boxes alone."""

SCORE_THRESHOLD = 0.3
"""Instances with a score above it are shown, as by `Sam3Processor`."""


class Sam3Phrases(AnswersPrompts):
    """All instances of a phrase are found, and boxes are examples: what is like them is found, too. Each phrase is
    asked about by itself, with all boxes."""

    visual_prompts = {
        TEXT: "a phrase each, all instances of which are found",
        BOXES: "examples of what is to be found or, with label 0, not to be found",
    }

    def missing_encoder(self, kind: str) -> str | None:
        """See [`AnswersPrompts.missing_encoder`]; boxes alone are the phrase "visual"."""
        return "the text encoder" if self.text_encoder is None else None

    def reads_text(self, prompts: VisualPrompts) -> bool:
        """See [`AnswersPrompts.reads_text`]."""
        return True

    def answer_prompts(
        self, features: CachedFeatures, image_size: Size, prompts: VisualPrompts, tokenizer: Any = None
    ) -> list[PromptAnswer]:
        """See [`AnswersPrompts.answer_prompts`]: one answer for each phrase or, without phrases, one for all boxes
        together, with neither phrase nor `object_index`. Scores are those of the queries times the presence of the
        phrase.

        Raises:
            SSPromptError: boxes without torchvision, whose `roi_align` transformers' model calls; a phrase that is too
                long.
        """
        vision = self.vision_output(self.decoder_inputs([features], self.device)["vision_features"][0])
        inputs = {}
        if prompts.boxes is not None:
            if not is_torchvision_available():
                raise SSPromptError("boxes of SAM 3 need torchvision: install it, or ask with text alone")
            inputs["input_boxes"] = self._relative(prompts)[None].to(self.device)
            inputs["input_boxes_labels"] = torch.from_numpy(prompts.box_labels)[None].to(self.device)
        answers = []
        for phrase in prompts.text or [VISUAL]:
            tokens = tokenize(phrase, tokenizer, self.config.text_config).to(self.device)
            inputs |= {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
            output = self(vision_embeds=vision, return_dict=True, **inputs)
            scores = output.pred_logits[0].sigmoid() * output.presence_logits[0].sigmoid()
            masks = output.pred_masks[0].sigmoid()
            size = tuple(masks.shape[-2:])
            geometry = MaskGeometry(size, size, prompts.image_size, "bilinear")
            asked = None if prompts.text is None else phrase
            answers.append(
                PromptAnswer(masks, scores, geometry, are_logits=False, phrase=asked, threshold=SCORE_THRESHOLD)
            )
        return answers

    @staticmethod
    def _relative(prompts: VisualPrompts) -> torch.Tensor:
        """float32 `(O, 4)`: centre, width and height of the boxes as shares of the image."""
        height, width = prompts.image_size
        left, top, right, bottom = torch.from_numpy(prompts.boxes).float().unbind(-1)
        left, right, top, bottom = left / width, right / width, top / height, bottom / height
        return torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=-1)
