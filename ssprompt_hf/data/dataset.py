"""The one form in which training and evaluation see every data set."""

import copy
import hashlib
import json
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch.utils.data import Dataset
from transformers.utils import logging

from ..errors import NoImagesError
from .classes import SegmentationClasses

if TYPE_CHECKING:
    import datasets

logger = logging.get_logger(__name__)


class SegmentationSource(Protocol):
    """Where the rows of a `SegmentationDataset` come from. Must survive pickling, for loader workers.

    A source may have a `table`, a `datasets.Dataset` from whose columns it reads: label statistics of such sources are
    kept between runs. It may have `image_ids(rows)`, a text for each of the rows that is the same in all data sets
    that show this very image, and differs between images. It may have `coco_image_ids`, one for each row, and
    `semantic_ids`, one for each class: see `SegmentationDataset`. It may have `read_targets(row)`: that is `read(row)`
    without the image, which is not decoded.
    """

    file_names: Sequence[str]
    """One name a row; unique, and the same whenever the data set is opened."""

    def read(self, row: int) -> dict[str, Any]:
        """`image`, `label` and perhaps `instance`, as `SegmentationDataset` describes them."""

    def read_label(self, row: int) -> np.ndarray:
        """The `label` of `read(row)`, without decoding the image."""

    def fingerprint(self) -> str:
        """A text that changes when labels may have changed."""


class SegmentationDataset(Dataset):
    """Images with label maps, as a map-style PyTorch data set that reads its files when a row is asked for.

    `dataset[i]` is a dict of `image` (uint8 (H, W, 3), RGB), `label` (uint8 (H, W), class index, 255 ignored),
    `instance` (int32 (H, W), numbers of objects; only if the data set has them) and `file_name` (str). Pixels of a
    thing whose instance is 0 are a group of objects nobody told apart ("crowd"): no target, and ignored by metrics.
    Every read checks what it reads. A slice, `dataset[2:5]`, is a dict of lists; `select` makes a data set of some of
    the rows, and `to_hf_dataset` one with the methods of `datasets.Dataset`.

    Args:
        classes: the class list.
        source: reads single rows.
        name: what the data set is called in messages and adapter files.
        rows: the rows of `source` to show, in order; all when None.

    Raises:
        NoImagesError: there is no row.
    """

    def __init__(
        self,
        classes: SegmentationClasses,
        source: SegmentationSource,
        name: str,
        rows: Sequence[int] | None = None,
    ):
        self.classes = classes
        self.source = source
        self.name = name
        self.rows: Sequence[int] = range(len(source.file_names)) if rows is None else list(rows)
        if not len(self.rows):
            raise NoImagesError(f"{name}: no images.")

    def __repr__(self) -> str:
        return f"SegmentationDataset({self.name!r}, {len(self)} images, {len(self.classes)} classes)"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | slice) -> dict[str, Any]:
        if isinstance(key, slice):
            examples = [self[index] for index in range(*key.indices(len(self)))]
            return {column: [example[column] for example in examples] for column in (examples[0] if examples else ())}
        row = self._row(key)
        return self.source.read(row) | {"file_name": self.source.file_names[row]}

    def __getitems__(self, keys: Iterable[int]) -> list[dict[str, Any]]:
        """The rows of a batch, which PyTorch's loaders ask for in one call."""
        return [self[key] for key in keys]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def _row(self, index: int) -> int:
        """The row of the source at `index`, which may be negative."""
        try:
            return self.rows[operator.index(index)]
        except IndexError:
            raise IndexError(f"image {index} of {self.name}, which has {len(self)} images") from None
        except TypeError:
            raise TypeError(
                f"{self.name}: an image is chosen by its index or a slice, not by {index!r}. Use select(indices) for "
                "several images, and to_hf_dataset() for single columns."
            ) from None

    def read_label(self, index: int) -> np.ndarray:
        """uint8 (H, W): `self[index]["label"]`, without decoding the image."""
        return self.source.read_label(self._row(index))

    def read_targets(self, index: int) -> dict[str, np.ndarray]:
        """`label` and perhaps `instance` of `self[index]`, without decoding the image if the source can do so."""
        row = self._row(index)
        if hasattr(self.source, "read_targets"):
            return self.source.read_targets(row)
        return {name: array for name, array in self.source.read(row).items() if name != "image"}

    @property
    def file_names(self) -> list[str]:
        """One unique name an image."""
        return [self.source.file_names[row] for row in self.rows]

    @property
    def coco_image_ids(self) -> list[int | str] | None:
        """The `image_id` of each image in the panoptic or instances JSON that describes it, which differ; None where
        there is no such file."""
        ids = getattr(self.source, "coco_image_ids", None)
        return None if ids is None else [ids[row] for row in self.rows]

    @property
    def semantic_ids(self) -> list[int]:
        """One for each class: how the official evaluation of semantic segmentation numbers them in predictions."""
        return list(getattr(self.source, "semantic_ids", None) or self.classes.ids)

    @property
    def image_bits(self) -> int | None:
        """Of images with more than 8 bits, how many are in use in this data set; None for other images."""
        return getattr(self.source, "bits", None)

    def with_image_bits(self, bits: int | None) -> "SegmentationDataset":
        """The same images, those with more than 8 bits scaled as if so many of them were in use; as it is for None."""
        if bits is None or self.image_bits is None:
            return self
        source = copy.copy(self.source)
        source.bits = bits
        return SegmentationDataset(self.classes, source, self.name, self.rows)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of all that decides the label maps: the labels' identity, the ids and colours of classes
        and of ignored pixels, and the rows; computed at every call."""
        classes = self.classes
        ids_and_colors = [[info.id, info.color] for info in classes.classes]
        content = [self.source.fingerprint(), ids_and_colors, classes.ignore_ids, classes.ignore_color, self.rows]
        text = json.dumps(content, default=lambda value: list(value) if isinstance(value, range) else int(value))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def select(self, indices: Iterable[int]) -> "SegmentationDataset":
        """The images at `indices`, in that order, which may repeat or be negative.

        Raises:
            NoImagesError: `indices` is empty.
            IndexError: an index is outside the data set.
        """
        return SegmentationDataset(self.classes, self.source, self.name, [self._row(index) for index in indices])

    def to_hf_dataset(self) -> "datasets.Dataset":
        """The same rows as a `datasets.Dataset`, for `map`, `filter`, `shuffle`, `train_test_split` and the like.

        Its columns are `image`, `label`, `instance` (if the first row has one) and `file_name`. The table itself holds
        the file names, and for the other columns references only, such as `{"field": "label", "row": 3}`. Its
        transform reads the files of a row when the row is asked for, and gives the arrays that `self[i]` gives.
        Columns that `map` adds or replaces are handed out as they are.

        `datasets` reads whole rows even where `table["label"]` names one column. `table.select_columns("label")`
        decodes no image, and `table.select_columns("file_name")` opens no file. `with_format` takes the transform
        away, and shows the references. The digest that `datasets` makes of a transform covers the source, so where
        the source holds images in memory this takes as long as pickling them.

        Raises:
            DatasetError: the first row, which is read to know the columns, cannot be read.
        """
        import datasets

        fields = [field for field in self[0] if field != "file_name"]
        columns: dict[str, list] = {
            field: [{"field": field, "row": int(row)} for row in self.rows] for field in fields
        }
        table = datasets.Dataset.from_dict(columns | {"file_name": self.file_names})
        return table.with_transform(_ReadReferences(self.source))


class _ReadReferences:
    """The transform of `SegmentationDataset.to_hf_dataset`: batches with references -> batches with arrays."""

    def __init__(self, source: SegmentationSource):
        self.source = source

    def __deepcopy__(self, memo: dict) -> "_ReadReferences":
        return self  # copies of a table, which most of its methods make, need not copy the source

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        wanted = {value["field"] for values in batch.values() for value in values if _is_reference(value)}
        examples: dict[int, dict[str, Any]] = {}

        def read(row: int) -> dict[str, Any]:
            return {"label": self.source.read_label(row)} if wanted == {"label"} else self.source.read(row)

        def resolve(value: Any) -> Any:
            if not _is_reference(value):
                return value
            row = value["row"]
            if row not in examples:
                examples[row] = read(row)
            return examples[row][value["field"]]

        return {column: [resolve(value) for value in values] for column, values in batch.items()}


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"field", "row"}


def check_disjoint(train: SegmentationDataset, evaluation: SegmentationDataset) -> int:
    """Warns if images to learn from are also among those to be scored on, which makes scores too good.

    Images are the same if their files are (links followed), or for images inside tables, if they are the same row of
    the same table. For sources without such an identity, those of one type and `name`, their `file_names` decide.

    Returns:
        how many images of `train` are in `evaluation` too.
    """
    both = (train, evaluation)
    if all(hasattr(images.source, "image_ids") for images in both):
        ids = [images.source.image_ids(images.rows) for images in both]
    elif train.name == evaluation.name and type(train.source) is type(evaluation.source):
        ids = [images.file_names for images in both]
    else:
        return 0
    scored = set(ids[1])
    shared = [name for key, name in zip(ids[0], train.file_names) if key in scored]
    if shared:
        logger.warning(
            f"{len(shared)} of the {len(train)} images to learn from ({train.name}) are also among the "
            f"{len(evaluation)} images to be scored on ({evaluation.name}), the first is {shared[0]}: scores on them "
            "do not tell how well unseen images are segmented. Take them out of one of the two splits."
        )
    return len(shared)
