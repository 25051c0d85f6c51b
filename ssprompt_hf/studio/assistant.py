"""The models behind the page: what is clicked on is asked of the base model, what is predicted of the adapter."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.image_inputs import ImageLike
from ..errors import SSPromptError
from ..model import SSPromptModel
from ..models.registry import DEFAULT_BASE_MODEL
from ..prediction import EncodedImage
from ..segmentation.prompted import PromptedResult
from ..segmentation.results import SegmentationResult
from .project import Project

ENCODED = 2
"""Images whose features are kept, the last ones: those of SEEM-T take 100 MB each."""


def load_model(base_model: str | None, adapter: str | None, classes: tuple[tuple[str, bool], ...]) -> SSPromptModel:
    """A model with its prompt encoders, and with an adapter, or with classes: names, and whether they are things."""
    named = {}
    if classes:
        things = [index for index, (_, thing) in enumerate(classes) if thing]
        named = {"class_names": [name for name, _ in classes], "thing_class_ids": things}
    return SSPromptModel.from_pretrained(base_model, adapter, keep_prompt_encoders=True, **named)


class Assistant:
    """
    One base model, with an adapter or without, for any number of people.

    Args:
        project: whose classes are predicted.
        base_model: name, folder or Hub id; None for that of the adapter.
        adapter: to begin with; None for classes by their names.
        load: in place of [`load_model`], for models that several share.
    """

    def __init__(
        self,
        project: Project,
        base_model: str | None = DEFAULT_BASE_MODEL,
        adapter: str | Path | None = None,
        load: Callable[..., SSPromptModel] = load_model,
    ):
        self.project, self.base_model, self._make = project, base_model, load
        self._lock = threading.RLock()
        self._model: SSPromptModel | None = None
        self._classes: tuple | None = None
        self._encoded: dict[str, EncodedImage] = {}
        self.adapter = adapter
        self.threshold: float | None = None
        """Least score of phrases and of single objects; None for the base model's own."""
        self.version = 0
        """Grows whenever predictions change."""

    # Prompts

    @property
    def model(self) -> SSPromptModel:
        """The base model with its prompt encoders; loaded on first use."""
        with self._lock:
            if self._model is None:
                self._load()
            return self._model

    def _load(self) -> None:
        classes = self._class_key() if self.adapter is None else ()
        self._model = self._make(self.base_model, None if self.adapter is None else str(self.adapter), classes)
        self._classes = classes
        self._encoded.clear()
        self.version += 1

    def _class_key(self) -> tuple:
        return tuple((info.name, info.thing) for info in self.project.classes)

    @property
    def takes(self) -> tuple[str, ...]:
        """Kinds of prompts that the base model takes, of those whose encoders are loaded."""
        base = self.model.get_base_model()
        return tuple(kind for kind in getattr(base, "visual_prompts", ()) if base.missing_encoder(kind) is None)

    def ask(self, name: str, **prompts: Any) -> PromptedResult:
        """The base model's answer about a photograph, whose image encoder runs once for any number of questions."""
        with self._lock:
            model, encoded = self.model, self._encoded.pop(name, None)
            if encoded is None or encoded.base_model is not model.get_base_model():
                encoded = model.encode_image(self.project.read_image(name))
            self._encoded[name] = encoded  # the last one is the newest
            while len(self._encoded) > ENCODED:
                del self._encoded[next(iter(self._encoded))]
        threshold = self.threshold if "text" in prompts else None
        return model.predict(encoded, threshold=threshold, **prompts)

    # Classes

    def use_adapter(self, adapter: str | Path | None) -> None:
        """
        Predict with another adapter from now on, or without one.

        Raises:
            SSPromptError: it cannot be loaded; subclasses say why. The one before stays then.
        """
        with self._lock:
            before, self.adapter = self.adapter, adapter
            try:
                self._load()
            except BaseException:
                self.adapter = before
                raise

    def predictor(self) -> SSPromptModel:
        """The model, which without an adapter has to know the classes of today."""
        with self._lock:
            if self._model is None or (self.adapter is None and self._classes != self._class_key()):
                self._load()
            return self._model

    def predict(self, image: ImageLike, zero_shot: bool = False, with_objects: bool = False) -> SegmentationResult:
        """
        Classes of an image, by the adapter or zero-shot.

        Args:
            image: as for `SSPromptModel.predict`.
            zero_shot: without what the adapter has learned.
            with_objects: whether things are told apart, where the base model can; pixels outside of all segments then
                have the class of the semantic map and belong to no object.
        """
        model = self.predictor()
        with model.base_model.use_adapter(zero_shot=True if zero_shot else None) as call:
            semantic = model.predict(image, "semantic")
            if not (with_objects and call.things and any(info.thing for info in self.project.classes)):
                return semantic
            try:
                panoptic = model.predict(image, "panoptic", threshold=self.threshold)
            except SSPromptError:  # a base model with one mask a class, which the first call could not tell
                return semantic
        return self._with_objects(semantic, panoptic)

    @staticmethod
    def _with_objects(semantic: SegmentationResult, panoptic: SegmentationResult) -> SegmentationResult:
        """The semantic map with the segments of the other that are of the same class."""
        agree = semantic.class_indices == panoptic.class_indices
        return replace(
            panoptic, class_indices=semantic.class_indices, segments_map=np.where(agree, panoptic.segments_map, 0)
        )

    def class_ids(self, result: SegmentationResult) -> dict[int, int]:
        """Class index of a result -> id in the project, by name; classes that the project does not have are left
        out."""
        known = {info.name: info.id for info in self.project.classes}
        return {index: known[name] for index, name in enumerate(result.class_names) if name in known}
