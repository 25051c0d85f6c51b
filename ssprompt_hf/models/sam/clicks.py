"""Clicks and boxes of SAM and SAM 2: what transformers' model and processor make of them."""

from typing import Any

import numpy as np
import torch

from ...errors import SSPromptError
from ...segmentation.tiles import MaskGeometry, Size
from ...segmentation.visual_prompts import BOXES, POINTS, PromptAnswer, VisualPrompts
from ..interactive import AnswersPrompts
from ..interface import CachedFeatures


class SamClicks(AnswersPrompts):
    """
    Objects are asked about one by one, so that none depends on the company of others: in transformers' batches the
    points of padding are tokens that the decoder sees.

    One click is ambiguous (a wheel, or the car?). As the authors of SAM advise, the best scored of three masks is
    taken then (`multimask_output=True`), and the one mask of a decided question otherwise.
    """

    click_dtype = torch.float32
    """Of coordinates, as transformers' processor makes them."""

    visual_prompts = {
        POINTS: "on the object or, with label 0, not on it",
        BOXES: "around the object",
    }

    def answer_prompts(
        self, features: CachedFeatures, image_size: Size, prompts: VisualPrompts, tokenizer: Any = None
    ) -> list[PromptAnswer]:
        """See [`AnswersPrompts.answer_prompts`]; the score is the IoU that the model expects of its mask."""
        if prompts.box_labels is not None and not prompts.box_labels.all():
            raise SSPromptError(f"{self.model_title} takes boxes around objects only: leave box_labels at 1")
        levels = self.decoder_inputs([features], self.device)["vision_features"][0]
        image = self.click_arguments(levels)
        answers = []
        for index in range(prompts.num_objects):
            inputs, is_ambiguous = {}, False
            if prompts.points is not None:
                points = self._in_square(prompts.points[index], image_size, prompts, self.click_dtype)
                inputs["input_points"] = points[None, None]
                inputs["input_labels"] = torch.from_numpy(prompts.labels[index])[None, None].to(self.device)
                is_ambiguous = len(points) == 1 and prompts.boxes is None
            if prompts.boxes is not None:
                box = prompts.boxes[index : index + 1]
                inputs["input_boxes"] = self._in_square(box, image_size, prompts, torch.float32)[None]
            output = self(**image, multimask_output=is_ambiguous, return_dict=True, **inputs)
            masks, scores = output.pred_masks[0, 0], output.iou_scores[0, 0]
            best = scores.argmax(dim=0, keepdim=True)
            geometry = self._click_geometry(image_size, prompts, masks)
            answers.append(PromptAnswer(masks[best], scores[best], geometry, object_index=index))
        return answers

    def _in_square(
        self, values: np.ndarray, image_size: Size, prompts: VisualPrompts, rounded_to: torch.dtype
    ) -> torch.Tensor:
        """Coordinates `(n, 2)` or `(n, 4)` in the pixel values, in the precision of transformers' processor, which
        reads them as `rounded_to`."""
        numbers = torch.from_numpy(values).to(rounded_to).to(self.click_dtype)
        scales = [new / old for new, old in zip(image_size[::-1], prompts.image_size[::-1])] * 2
        return torch.stack([column * scale for column, scale in zip(numbers.T, scales)], dim=1).to(self.device)

    def _click_geometry(self, image_size: Size, prompts: VisualPrompts, masks: torch.Tensor) -> MaskGeometry:
        """As `post_process_masks` of transformers' processors: bilinear, without the padding."""
        if self.pads_images:
            return MaskGeometry((self.image_size,) * 2, tuple(image_size), prompts.image_size, "bilinear")
        size = tuple(masks.shape[-2:])
        return MaskGeometry(size, size, prompts.image_size, "bilinear")

    def click_arguments(self, levels: list[torch.Tensor]) -> dict[str, Any]:
        """What transformers' `forward` takes in place of pixel values, of the levels of one image."""
        raise NotImplementedError
