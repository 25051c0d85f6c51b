"""Clicks, boxes, scribbles and phrases of SEEM, one question at a time."""

from dataclasses import replace
from typing import Any

import torch

from ...segmentation.tiles import MaskGeometry, Size
from ...segmentation.visual_prompts import BOXES, POINTS, SCRIBBLES, TEXT, PromptAnswer, VisualPrompts
from ..interactive import AnswersPrompts
from ..interface import CachedFeatures
from .click_refinement import Clicks
from .prompt_rasterizer import rasterize_prompts

PHRASE_THRESHOLD = 0.8
"""A phrase with a score above it is in the image. It is where `benchmarks/phrases.py` finds the largest balanced
accuracy of `seem-nano` on drawn scenes: names and synonyms of classes that are in an image, against classes that are
not and things that are never drawn. Of the official models, whose weights were not at hand, it has not been measured.
"""

LEAST_COSINE = 0.99


class SeemAnswers(AnswersPrompts):
    """
    Objects and phrases are asked about one by one, so that none depends on the company of others; decoder v0 takes no
    more than one object anyway.

    Attributes:
        refines_clicks (`bool`): whether masks are made to agree with the clicks (`click_refinement.py`), which is our
            addition. Without it masks are those of the official model.
    """

    visual_prompts = {
        POINTS: "on the object or, with label 0, not on it",
        BOXES: "on the object, which they should fill",
        SCRIBBLES: "lines on the object or, with label 0, not on it",
        TEXT: "a phrase each, with one mask",
    }
    refines_clicks = True

    def missing_encoder(self, kind: str) -> str | None:
        """See [`AnswersPrompts.missing_encoder`]."""
        if kind == TEXT:
            return None if self.get_text_model() is not None else "the text encoder"
        return None if self.model.spatial_prompt_encoder is not None else "the visual sampler"

    def answer_prompts(
        self, features: CachedFeatures, image_size: Size, prompts: VisualPrompts, tokenizer: Any = None
    ) -> list[PromptAnswer]:
        """See [`AnswersPrompts.answer_prompts`]. Scores are the mean probability inside the mask; of a phrase this
        times its `familiarity`. Of a class that is known and not in the image the mask is empty, as a rule."""
        image_features = self.decoder_inputs([features], self.device)["image_features"]
        answers = [
            self._answer_object(image_features, image_size, prompts, index) for index in range(prompts.num_objects)
        ]
        return answers + [
            self._answer_phrase(image_features, image_size, prompts, phrase, tokenizer)
            for phrase in prompts.text or ()
        ]

    def _answer_object(self, image_features, image_size: Size, prompts: VisualPrompts, index: int) -> PromptAnswer:
        one = prompts.object(index)
        masks = self._decode_object(image_features, image_size, one)
        if self.refines_clicks and one.points is not None:
            labels = one.labels[0]
            if labels[0] == 1 and len(labels) > 1:  # corrections may have confused a decoder that knows none
                first = replace(one, points=[one.points[0][:1]], labels=[labels[:1]])
                masks = torch.cat([masks, self._decode_object(image_features, image_size, first)])
            height, width = prompts.image_size
            shares = tuple(side / padded for side, padded in zip(image_size, image_features.padded_size))
            positions = (one.points[0] + 0.5) / (width, height)
            masks = Clicks(image_features.mask_features[0], positions, labels, shares).obeyed_by(masks)
        geometry = MaskGeometry(image_features.padded_size, tuple(image_size), prompts.image_size, "bilinear")
        return PromptAnswer(masks, mean_probability(masks), geometry, object_index=index)

    def _decode_object(self, image_features, image_size: Size, one: VisualPrompts) -> torch.Tensor:
        """`(1, h, w)`: the official answer to the points, box and scribbles of one object."""
        drawn = {
            "input_points": one.points,
            "input_labels": one.labels,
            "input_boxes": one.boxes,
            "input_boxes_labels": one.box_labels,
            "input_scribbles": one.scribbles,
            "input_scribbles_labels": one.scribble_labels,
        }
        positive, negative = rasterize_prompts(
            [one.image_size],
            [image_size],
            image_features.padded_size,
            **{name: [value] for name, value in drawn.items() if value is not None},
        )
        output = self(
            image_features=image_features,
            positive_prompt_masks=torch.from_numpy(positive).to(self.device),
            negative_prompt_masks=torch.from_numpy(negative).to(self.device),
            return_dict=True,
        )
        return output.spatial_masks_logits[0]

    def _answer_phrase(
        self, image_features, image_size: Size, prompts: VisualPrompts, phrase: str, tokenizer: Any
    ) -> PromptAnswer:
        tokens = tokenizer([phrase], padding=True, truncation=True, return_tensors="pt").to(self.device)
        text = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        output = self(image_features=image_features, return_dict=True, **text)
        masks = output.grounding_masks_logits[0]
        scores = mean_probability(masks) * self.familiarity(phrase, tokenizer)
        geometry = MaskGeometry(image_features.padded_size, tuple(image_size), prompts.image_size)
        return PromptAnswer(masks, scores, geometry, phrase=phrase, threshold=PHRASE_THRESHOLD)

    def familiarity(self, phrase: str, tokenizer: Any) -> float:
        """
        Whether the text encoder knows a phrase, 0 to 1. Always 1 of a model with an open vocabulary. Where there are
        `config.known_phrases` it falls from 1, of a phrase that means the same as one of them, to 0, of a phrase whose
        cosine with all of them is `LEAST_COSINE` or less.
        """
        known = self.config.known_phrases
        if known is None:
            return 1.0
        phrase = phrase.strip().lower().removeprefix("the ").removeprefix("an ").removeprefix("a ")
        embeddings = self.get_text_model().encode_class_names([phrase, *known], tokenizer, templates=("{}",))
        cosine = (embeddings[1:] @ embeddings[0]).max().item()
        return min(1.0, max(0.0, (cosine - LEAST_COSINE) / (1 - LEAST_COSINE)))


def mean_probability(masks: torch.Tensor) -> torch.Tensor:
    """`(n,)`: the mean probability inside each of the masks `(n, h, w)`, logits; 0 of an empty one."""
    probabilities = masks.to(torch.promote_types(masks.dtype, torch.float32)).sigmoid().flatten(1)
    inside = probabilities > 0.5
    return (probabilities * inside).sum(1) / inside.sum(1).clamp(min=1)
