"""Which image to label next: the one whose prediction is least certain."""

import threading

import torch

from ..data.image_inputs import ImageLike, open_image
from ..errors import SSPromptError
from ..model import SSPromptModel
from .assistant import Assistant
from .project import Project

MAX_LOOKED_AT = 24
"""Images whose uncertainty is computed at one time, taken evenly from those without label."""


@torch.no_grad()
def uncertainty(model: SSPromptModel, image: ImageLike) -> float:
    """
    How uncertain the classes of an image are: the mean entropy of its pixels' class scores, from 0 (all pixels are
    certain) to 1 (all classes are equally likely everywhere).

    Args:
        model: with the prompts in force.
        image: as for `SSPromptModel.predict`.
    """
    picture = open_image(image)
    with model.base_model.use_adapter() as call:
        processor = model.sized_image_processor(None if call.config is None else call.config.image_size)
        inputs = {name: torch.as_tensor(value) for name, value in processor(picture, return_tensors="pt").items()}
        sizes = inputs["image_sizes"]
        prediction = model.get_base_model().predict_pixels(inputs["pixel_values"].to(model.device), sizes)
        scores = prediction.class_scores()[0].float()
        geometry = prediction.geometry(sizes[0].tolist(), (picture.height, picture.width))
    # without the padding
    height, width = (
        max(1, round(side * image / padded))
        for side, image, padded in zip(scores.shape[-2:], geometry.image_size, geometry.padded_size)
    )
    scores = scores[:, :height, :width].clamp(min=1e-6)
    if len(scores) == 1:  # one class against nothing at all
        scores = torch.cat([scores.clamp(max=1), (1 - scores).clamp(min=1e-6)])
    shares = scores / scores.sum(0, keepdim=True)
    entropy = -(shares * shares.log()).sum(0) / torch.tensor(float(len(scores))).log()
    return float(entropy.mean())


class Suggestions:
    """Uncertainties of the photographs of a project, computed once for each adapter."""

    def __init__(self, project: Project, assistant: Assistant):
        self.project, self.assistant = project, assistant
        self._known: dict[tuple[int, str], float] = {}
        self._lock = threading.Lock()

    def next_image(self, who: str, besides: str | None = None) -> tuple[str, float | None]:
        """
        The image without label from which most is to be learned.

        Args:
            who: asks; images that others are labelling are left out.
            besides: an image that is not meant.

        Returns:
            its name and its uncertainty; None where there was nothing to choose, or no classes to predict.

        Raises:
            SSPromptError: all images have labels.
        """
        waiting = [
            name
            for name in self.project.images
            if name != besides
            and not self.project.pixels_of_classes(name)
            and self.project.locks.holder(name) in (None, who)
        ]
        if not waiting:
            raise SSPromptError("every photograph has a label, or is being labelled by somebody else")
        if len(waiting) == 1 or not self.project.classes:
            return waiting[0], None
        step = max(1, len(waiting) // MAX_LOOKED_AT)
        with self._lock:
            found = {name: self._uncertainty(name) for name in waiting[::step][:MAX_LOOKED_AT]}
        best = max(found, key=found.__getitem__)
        return best, found[best]

    def _uncertainty(self, name: str) -> float:
        model = self.assistant.predictor()
        key = (self.assistant.version, name)
        if key not in self._known:
            self._known = {old: value for old, value in self._known.items() if old[0] == key[0]}
            self._known[key] = uncertainty(model, self.project.read_image(name))
        return self._known[key]
