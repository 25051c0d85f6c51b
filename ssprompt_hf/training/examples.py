"""Examples as training and evaluation read them, and the order in which training does."""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, Dataset
from transformers import TrainingArguments

from ..data.classes import IGNORE_INDEX
from ..data.dataset import SegmentationDataset
from ..data.transforms import draw_flip, flip_example, mask_targets
from ..errors import SSPromptError
from ..models.interface import PromptableImageProcessor

MAX_IMAGES = 64
"""So many training images are looked at, at most, by what looks at them before and after training."""
TARGET_MEMORY = 2**28
"""Bytes of prepared label maps that a data set keeps, so that cached features are not held up by decoding labels."""


class SegmentationExamples(Dataset):
    """
    Images with the targets of one task, preprocessed for the model.

    Args:
        dataset: images and labels.
        image_processor: the base model's; resizing, normalisation and padding follow its settings.
        task: `"semantic"`, `"instance"` or `"panoptic"`.
        seed: of the mirrorings and of the points at which masks are compared.
        random_flip: mirror half of the images, drawn from (seed, epoch, index).
        load_pixels: hand out pixel values with every example; otherwise they are read when `pixel_values` is called.
        negative_classes: name, in `class_indices`, the classes that an image is to be asked about: its own and so many
            others, drawn from (seed, epoch, index). None: it is asked about all.

    Raises:
        SSPromptError: another task, or a task that needs instances where there are none.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        image_processor: PromptableImageProcessor,
        task: str = "semantic",
        seed: int = 0,
        random_flip: bool = False,
        load_pixels: bool = False,
        negative_classes: int | None = None,
    ):
        self.dataset, self.image_processor, self.task = dataset, image_processor, task
        self.seed, self.random_flip, self.load_pixels = seed, random_flip, load_pixels
        self.negative_classes = negative_classes
        self._targets: dict[int, dict[str, np.ndarray]] = {}
        self._target_bytes = 0
        self._digests: dict[int, str] = {}
        self._digested: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def is_flipped(self, epoch: int, index: int) -> bool:
        """Whether image `index` is mirrored in round `epoch` of training."""
        return self.random_flip and draw_flip(self.seed, epoch, index)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """
        Args:
            key: round of training and index of the image.

        Returns:
            `index`, `flipped`, `seed` (of random points), `image_size` (height and width without padding), `label`
            int64 `(H, W)` over the padded image; for other tasks than semantic `class_labels` `(M,)` and `mask_labels`
            bool `(M, H, W)`; perhaps `class_indices` int64 `(C,)` and `pixel_values` `(1, 3, H, W)`.
        """
        epoch, index = key
        flipped = self.is_flipped(epoch, index)
        digest = hashlib.sha256(f"points {self.seed} {epoch} {index}".encode()).digest()
        example: dict[str, Any] = {
            "index": index,
            "flipped": flipped,
            "seed": int.from_bytes(digest[:6], "big"),
        }
        targets = self._resized_targets(index)
        if flipped:
            targets = {name: target[:, ::-1] for name, target in targets.items()}
        example["image_size"] = next(iter(targets.values())).shape
        targets = {name: self._padded(target, IGNORE_INDEX * (name == "label")) for name, target in targets.items()}
        if self.task != "semantic":
            example["class_labels"], example["mask_labels"] = mask_targets(
                targets["label"], targets.get("instance"), self.dataset.classes.thing_indices, self.task
            )
        example["label"] = torch.from_numpy(targets["label"].astype(np.int64))
        if self.negative_classes is not None:
            example["class_indices"] = self._asked_classes(targets["label"], epoch, index)
        if self.load_pixels:
            example["pixel_values"] = self.pixel_values(index, flipped)
        return example

    def pixel_values(self, index: int, flipped: bool = False) -> torch.Tensor:
        """Preprocessed image `index`: float32 `(1, 3, H, W)`."""
        image = self._image(index)
        if flipped:
            image = flip_example({"image": image})["image"]
        return self._preprocessed(image)

    def _preprocessed(self, image: np.ndarray) -> torch.Tensor:
        return self.image_processor(images=image, return_tensors="pt")["pixel_values"]

    def image_digest(self, index: int) -> str:
        """Hexadecimal digest of the decoded image `index`, before preprocessing."""
        if index not in self._digests:
            # whoever asks for the digest of an image that was never seen asks for its pixels next
            self._digested = index, self._image(index)
        return self._digests[index]

    @property
    def knows_digests(self) -> bool:
        """Whether images have been read here before."""
        return bool(self._digests)

    def take_digest(self, index: int, digest: str) -> None:
        """What `image_digest` gives, from a worker that has read the image."""
        self._digests[index] = digest

    def padded_size(self, index: int) -> tuple[int, int]:
        """(H, W) of the preprocessed image `index`."""
        return self.image_processor.padded_size(self._resized_targets(index)["label"].shape)

    def _asked_classes(self, label: np.ndarray, epoch: int, index: int) -> torch.Tensor:
        """int64 `(C,)`, in order: the classes in the image, and some that are not; at least one."""
        present = [value for value in np.unique(label).tolist() if value != IGNORE_INDEX]
        absent = sorted(set(range(len(self.dataset.classes))) - set(present))
        # sorted digests, as in the order of training: no generator whose stream could change between versions
        digests = {
            value: hashlib.sha256(f"negative {self.seed} {epoch} {index} {value}".encode()).digest()
            for value in absent
        }
        count = max(self.negative_classes, 0 if present else 1)
        return torch.tensor(sorted(present + sorted(absent, key=digests.__getitem__)[:count]))

    def _image(self, index: int) -> np.ndarray:
        digested, self._digested = self._digested, None
        if digested is not None and digested[0] == index:
            return digested[1]
        image = self.dataset[index]["image"]
        if index not in self._digests:
            self._digests[index] = pixels_digest(image)
        return image

    def _resized_targets(self, index: int) -> dict[str, np.ndarray]:
        """`label` uint8 and perhaps `instance`, `(h, w)` at the size of the image without padding."""
        if index in self._targets:
            return self._targets[index]
        if self.task == "semantic":
            targets = {"label": self.dataset.read_label(index)}
        else:
            targets = self.dataset.read_targets(index)
        height, width = self.image_processor.resized_size(targets["label"].shape)
        for name, target in targets.items():
            resized = Image.fromarray(target).resize((width, height), Image.Resampling.NEAREST)
            targets[name] = np.asarray(resized)
        size_bytes = sum(target.nbytes for target in targets.values())
        if self._target_bytes + size_bytes <= TARGET_MEMORY:
            self._targets[index] = targets
            self._target_bytes += size_bytes
        return targets

    def _padded(self, target: np.ndarray, value: int) -> np.ndarray:
        size = self.image_processor.padded_size(target.shape)
        padding = [(0, padded - side) for padded, side in zip(size, target.shape)]
        return np.pad(target, padding, constant_values=value)


class EvaluationExamples(SegmentationExamples):
    """The same images with their labels at original size."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Returns:
            `index`, `label` uint8 `(H, W)`; for other tasks than semantic `instance` int32 `(H, W)`; perhaps
            `pixel_values` `(1, 3, H', W')` and `image_digest`.

        Raises:
            SSPromptError: the task needs instances, and the data set has none.
        """
        if self.task == "semantic" and not self.load_pixels:
            return {"index": index, "label": torch.from_numpy(np.ascontiguousarray(self.dataset.read_label(index)))}
        read = self.dataset[index] if self.load_pixels else self.dataset.read_targets(index)
        example = {"index": index, "label": torch.from_numpy(np.ascontiguousarray(read["label"]))}
        if self.task != "semantic":
            if "instance" not in read:
                raise SSPromptError(
                    f"{self.task} evaluation needs instance maps; {self.dataset.name} has none. Use task='semantic'."
                )
            example["instance"] = torch.from_numpy(np.ascontiguousarray(read["instance"], np.int32))
        if self.load_pixels:
            example["pixel_values"] = self._preprocessed(read["image"])
            example["image_digest"] = self._digests.get(index) or pixels_digest(read["image"])
        return example


def pixels_digest(image: np.ndarray) -> str:
    """Hexadecimal digest of an image's size and pixels."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()


def preprocessing_text(image_processor: PromptableImageProcessor) -> str:
    """All settings of an image processor, as text."""
    return json.dumps(image_processor.to_dict(), sort_keys=True, default=str)


def collate_examples(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Lists of what differs in size, tensors of what does not: `index` `(B,)`, `flipped` and `seed` stay lists."""
    batch: dict[str, Any] = {"index": torch.tensor([example["index"] for example in examples])}
    for name in examples[0]:
        if name != "index":
            batch[name] = [example[name] for example in examples]
    return batch


class TrainingBatchSampler(BatchSampler):
    """
    An endless order of training, cut into batches for one of several processes.

    Images come in rounds; every round is a permutation of its own, drawn from (seed, round). The rounds follow each
    other without gaps, so that every batch is full and every image is seen equally often, whatever the batch size. An
    epoch, as the trainer counts it, is as many full batches as cover the images once.

    Args:
        num_images: of the data set.
        batch_size: of one process and one forward pass.
        steps: forward passes of one process in one optimizer step (gradient accumulation).
        num_processes, process_index: who reads which part of a step: the images of one optimizer step are the same
            however they are divided.
        seed: of the permutations.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        steps: int = 1,
        num_processes: int = 1,
        process_index: int = 0,
        seed: int = 0,
    ):
        if batch_size < 1 or num_images < 1:
            raise SSPromptError(f"cannot make batches of {batch_size} of {num_images} images; both must be at least 1")
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.num_processes, self.process_index = num_processes, process_index
        self.step_size = batch_size * steps * num_processes
        self.steps_per_epoch = math.ceil(num_images / self.step_size)
        self.epoch = 0
        self.drop_last = False

    @classmethod
    def of_process(cls, examples: SegmentationExamples, args: TrainingArguments) -> "TrainingBatchSampler":
        """The order in which the process that `args` belong to sees `examples`."""
        return cls(
            len(examples),
            args.train_batch_size,
            args.gradient_accumulation_steps,
            args.world_size,
            args.process_index,
            examples.seed,
        )

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps_per_epoch * self.step_size // (self.batch_size * self.num_processes)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Lists of (round, index of the image)."""
        start = self.epoch * self.steps_per_epoch * self.step_size
        group = self.batch_size * self.num_processes
        for batch in range(len(self)):
            first = start + batch * group + self.process_index * self.batch_size
            yield [self.at(position) for position in range(first, first + self.batch_size)]

    def at(self, position: int) -> tuple[int, int]:
        """Round and image at a position of the endless order."""
        round_, offset = divmod(position, self.num_images)
        return round_, self._permutation(round_)[offset]

    def _permutation(self, round_: int) -> list[int]:
        # sorted digests, as in the choice of shots: no generator whose stream could change between versions
        if getattr(self, "_permuted", (None, None))[0] != round_:
            keys = [
                hashlib.sha256(f"order {self.seed} {round_} {index}".encode()).digest()
                for index in range(self.num_images)
            ]
            self._permuted = round_, sorted(range(self.num_images), key=keys.__getitem__)
        return self._permuted[1]


class PromptDataLoader(DataLoader):
    """A loader whose batch sampler is told the epoch, as the trainer tells its loaders."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.batch_sampler.set_epoch(epoch)


def first_views(trainer: Any) -> Iterator[dict[str, Any]]:
    """Batches of one: the training images of an `SSPromptTrainer` as the first round has them, or 64 of them that are
    spread over all."""
    examples = trainer.train_examples
    for index in range(0, len(examples), math.ceil(len(examples) / MAX_IMAGES)):
        yield trainer._prepare_inputs(trainer.data_collator([examples[0, index]]))
