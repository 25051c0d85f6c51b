"""What instance and panoptic scores have in common: small records of images, and the way over processes."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..errors import SSPromptError


class ImageRecords(ABC):
    """
    Scores that keep a few numbers of every image, with the methods of an `evaluate` metric.

    Scores are computed from the records in the order of the images' ids, so that batches, processes and repeated
    images (with which samplers fill up the last batch) change nothing, not even a rounding error. With several
    processes either `gather` the metrics, or make one a process with `num_process` and `process_id`, as everywhere in
    `evaluate`: `compute` then collects the records through `torch.distributed` and returns the scores in process 0,
    None elsewhere.

    Args:
        class_names: of K classes; or their number.
        thing_indices: class indices of the countable classes; all when None.
        ignore_index: label of void pixels.
        num_process, process_id: how many processes there are, and which this is.

    Raises:
        SSPromptError: no classes, or a thing that is no class.
    """

    def __init__(
        self,
        class_names: Sequence[str] | int,
        thing_indices: Sequence[int] | None = None,
        ignore_index: int = 255,
        num_process: int = 1,
        process_id: int = 0,
    ):
        self.class_names = None if isinstance(class_names, int) else list(class_names)
        self.num_classes = class_names if isinstance(class_names, int) else len(self.class_names)
        if self.num_classes < 1:
            raise SSPromptError(f"{type(self).__name__} needs at least one class, got {class_names!r}.")
        things = range(self.num_classes) if thing_indices is None else thing_indices
        self.thing_indices = sorted(int(thing) for thing in things)
        if outside := [thing for thing in self.thing_indices if thing not in range(self.num_classes)]:
            raise SSPromptError(f"`thing_indices` holds {outside}, but there are {self.num_classes} classes.")
        self.ignore_index = ignore_index
        self.num_process, self.process_id = num_process, process_id
        self.reset()

    @abstractmethod
    def record(self, prediction: dict[str, Any], reference: dict[str, Any]) -> Any:
        """What is kept of one image: something small that can be pickled."""

    @abstractmethod
    def scores(self, records: list[Any]) -> dict[str, Any]:
        """The scores of all images."""

    def __len__(self) -> int:
        """Images added since the last `compute`, in this process."""
        return len(self._records)

    def reset(self) -> None:
        """Forgets everything added."""
        self._records: dict[int | str, Any] = {}

    def add(
        self,
        *,
        prediction: dict[str, Any] | None = None,
        reference: dict[str, Any] | None = None,
        image_id: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Adds one image.

        Args:
            prediction, reference: as the class describes them.
            image_id: a number or text of its own, the same in every process; an image that was added before is
                replaced. By default images are numbered, every process taking its turn.

        Raises:
            SSPromptError: a form, size, class or argument that cannot be; ids of two kinds.
        """
        if kwargs or prediction is None or reference is None:
            raise SSPromptError(
                f"{type(self).__name__}.add takes `prediction`, `reference` and `image_id`"
                + (f", not {', '.join(kwargs)}." if kwargs else "; the first two are needed.")
            )
        if image_id is None:
            image_id = len(self) * self.num_process + self.process_id
        if any(isinstance(known, str) != isinstance(image_id, str) for known in list(self._records)[:1]):
            raise SSPromptError(f"The image id {image_id!r} is of another kind than those of other images.")
        self._records[image_id] = self.record(prediction, reference)

    def add_batch(
        self,
        *,
        predictions: Iterable[dict] = (),
        references: Iterable[dict] = (),
        image_ids: Iterable[int | str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds as many images as `predictions` and `references` hold; see `add`."""
        if kwargs:
            raise SSPromptError(f"{type(self).__name__}.add_batch does not take {', '.join(kwargs)}.")
        predictions, references = list(predictions), list(references)
        image_ids = [None] * len(predictions) if image_ids is None else list(image_ids)
        if not len(predictions) == len(references) == len(image_ids):
            raise SSPromptError(
                f"{len(predictions)} predictions, {len(references)} references and {len(image_ids)} image ids."
            )
        for prediction, reference, image_id in zip(predictions, references, image_ids):
            self.add(prediction=prediction, reference=reference, image_id=image_id)

    def merge(self, other: "ImageRecords") -> None:
        """Adds the images of another metric of the same kind, whose image ids must be of the same making."""
        self._records.update(other._records)

    def gather(self) -> None:
        """
        Adds the images of all processes of `torch.distributed` to this one's; to be called in each of them.

        Raises:
            SSPromptError: `torch.distributed` is not initialised.
        """
        if not torch.distributed.is_initialized():
            raise SSPromptError(
                f"{type(self).__name__} collects the images of several processes through `torch.distributed`, which "
                "is not initialised."
            )
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, self._records)
        self._records = {image_id: record for records in gathered for image_id, record in records.items()}

    def compute(
        self, *, predictions: Any = None, references: Any = None, image_ids: Any = None, **kwargs: Any
    ) -> dict[str, Any] | None:
        """
        Adds images where given, returns the scores of everything added, and starts afresh.

        Returns:
            the scores; None in all processes but the first when there are several.

        Raises:
            SSPromptError: nothing was added, or `num_process` is above 1 without an initialised `torch.distributed`.
        """
        if (predictions is None) != (references is None):
            raise SSPromptError("Give both `predictions` and `references`, or neither.")
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references, image_ids=image_ids, **kwargs)
        if self.num_process > 1:
            self.gather()
        records = [self._records[image_id] for image_id in sorted(self._records)]
        self.reset()
        if self.process_id > 0:
            return None
        if not records:
            raise SSPromptError("Nothing to compute: call `add` or `add_batch` first.")
        return self.scores(records)

    def by_class(self, values: Sequence[float]) -> list[float] | dict[str, float]:
        """K numbers as a list, or by name."""
        values = [float(value) for value in values]
        return values if self.class_names is None else dict(zip(self.class_names, values))
