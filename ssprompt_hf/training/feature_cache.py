"""The frozen part of the model runs once per image, and once for its mirror image.

What is kept of an image is an *entry*, a flat dict of tensors: either everything the mask decoder needs
(`SeemImageFeatures`), or, if only class embeddings are learned, what the decoder answered, as class embeddings enter
nothing but the last similarity.
"""

import contextlib
import hashlib
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging

from ..errors import SSPromptError
from ..models.seem.mask_decoder import SeemImageFeatures
from ..tuners.base.layer import PromptLayer
from ..utils.files import atomic_path

logger = logging.get_logger(__name__)

Entry = dict[str, torch.Tensor]
KINDS = ("features", "predictions")
SPATIAL_SLOTS = ("object_queries", "point_tokens", "point_coordinates")
# Of the model's configuration: names, and what comes before or after entries. The rest changes them, or may.
WITHOUT_EFFECT = {"_name_or_path", "architectures", "class_names", "id2label", "label2id", "problem_type"}
WITHOUT_EFFECT |= {"prompt_templates", "text_config", "use_text_model", "use_spatial_prompt_encoder", "dtype"}
WITHOUT_EFFECT |= {"object_mask_threshold", "overlap_threshold", "thing_class_ids", "num_point_tokens"}
WITHOUT_EFFECT |= {"num_point_coordinates", "transformers_version"}
STORAGES = ("memory", "device", "disk", "none")
ENTRY_FILE = re.compile(r"[0-9a-f]{64}\.safetensors|\.[0-9a-f]{64}-\w+\.safetensors", re.ASCII)
"""Names of the cache's files: entries, and the temporary names that `atomic_path` gives them. Other files in the
directory are somebody else's."""


def weights_digest(model: nn.Module) -> str:
    """Hexadecimal digest of all parameters and persistent buffers of `model`: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's values; through uint8, as numpy knows no bfloat16."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def entry_bytes(entry: Entry) -> int:
    """Memory that an entry takes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in entry.values())


@torch.no_grad()
def compute_entry(model: nn.Module, pixel_values: torch.Tensor, kind: str, keep_projections: bool = False) -> Entry:
    """
    What is kept of one image.

    Args:
        model: a `SeemForUniversalSegmentation`, in eval mode.
        pixel_values: `(1, 3, H, W)`. Always one image: results of larger batches differ by rounding, and would depend
            on the company an image was first seen in.
        kind: `"features"` or `"predictions"` (see the head of this module).
        keep_projections: also keep keys and values of the decoder's layers, which take a little more memory than the
            features themselves, instead of computing them at every step.
    """
    if kind == "predictions":
        # class scores are not kept: spare the text encoder of methods that learn words
        scored = pixel_values.new_zeros(1, model.config.projection_dim)
        output = model(pixel_values=pixel_values, class_embeddings=scored)
        entry = {
            "class_queries_embeds": output.class_queries_embeds,
            "masks_queries_logits": output.masks_queries_logits,
        }
        padded_size = output.padded_size
    else:
        features = model.get_image_features(pixel_values, prepare=False)
        features = model.model.mask_decoder.prepare(features, projections=keep_projections)
        padded_size = features.padded_size
        entry = {"mask_features": features.mask_features}
        for name in ("multi_scale_features", "keys", "values", "attention_features"):
            for index, tensor in enumerate(getattr(features, name) or ()):
                entry[f"{name}.{index}"] = tensor
    # views would keep more memory alive than they show, and cannot be written to a file
    entry = {name: tensor.contiguous(memory_format=_layout(name)) for name, tensor in entry.items()}
    return entry | {"padded_size": torch.tensor(padded_size)}


def _layout(name: str) -> torch.memory_format:
    """How a tensor of an entry lies in memory: keys and values are made of whole pixels, masks of whole maps."""
    return torch.channels_last if name.startswith("multi_scale_features") else torch.contiguous_format


def model_inputs(entries: list[Entry], device: torch.device | str | None = None) -> dict:
    """
    Arguments of `SeemForUniversalSegmentation.forward` for a batch of images of one size.

    Args:
        entries: of `compute_entry`, same kind and shapes.
        device: where the model is.

    Returns:
        `image_features`, or `class_queries_embeds` and `masks_queries_logits`.
    """
    batch = {
        # what comes from a file has lost its layout
        name: torch.cat([entry[name].to(device, non_blocking=True) for entry in entries]).contiguous(
            memory_format=_layout(name)
        )
        for name in entries[0]
        if name != "padded_size"
    }
    padded_size = tuple(entries[0]["padded_size"].tolist())
    if "class_queries_embeds" in batch:
        return batch
    tuples: dict[str, list] = {}
    for name in list(batch):
        if "." in name:
            tuples.setdefault(name.split(".")[0], []).append(batch.pop(name))
    levels = {name: tuple(tensors) for name, tensors in tuples.items()}
    return {"image_features": SeemImageFeatures(**batch, **levels, padded_size=padded_size)}


class FeatureCache:
    """
    Entries by key, in memory or in files, up to a limit.

    When the limit is reached nothing is thrown out for something new: training goes through its images in rounds, so
    that whatever replaced the oldest entry would itself be gone when its turn came. What does not fit is computed
    again each time.

    Args:
        storage: `"memory"` (of the host), `"device"` (where the model is), `"disk"` or `"none"`.
        directory: of the files, for `"disk"`. Several processes, and several runs, may share it. Other files there are
            neither counted nor touched.
        max_bytes: limit of all entries together. In a directory, entries that this run has not used make room, the
            oldest first.

    Raises:
        SSPromptError: an unknown storage, a limit that is not positive, or no directory where one is needed.
    """

    def __init__(
        self, storage: str = "memory", directory: str | os.PathLike | None = None, max_bytes: int = 4 * 2**30
    ):
        if storage not in STORAGES:
            raise SSPromptError(f"feature_cache is {storage!r}; it must be one of {', '.join(STORAGES)}")
        if storage == "disk" and directory is None:
            raise SSPromptError("feature_cache 'disk' needs feature_cache_dir")
        if max_bytes <= 0:
            raise SSPromptError(f"the limit of the feature cache is {max_bytes} bytes; it must be positive")
        self.storage, self.max_bytes = storage, max_bytes
        self.directory = None if directory is None else Path(directory)
        self.hits = self.misses = 0
        self._memory: dict[str, Entry] = {}
        self.memory_bytes = 0
        self._used: set[str] = set()
        self._written: set[str] = set()
        self._made_directory = self.directory is not None and not self.directory.exists()
        self._started = time.time_ns()
        self._told_full = False

    def get_or_compute(self, key: str, compute: Callable[[], Entry], store: bool = True) -> Entry:
        """The entry under `key`, else what `compute` returns, which is stored if there is room and `store` is true.

        `key` is a hexadecimal SHA-256 digest: files are known as entries by it.
        """
        entry = self._read(key)
        if entry is not None:
            self.hits += 1
            return entry
        self.misses += 1
        entry = compute()
        if store and self.storage != "none":
            self._write(key, entry)
        return entry

    def _read(self, key: str) -> Entry | None:
        if self.storage != "disk":
            return self._memory.get(key)
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                entry = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
                expected = (file.metadata() or {}).get("crc32")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            logger.warning(f"{path} is damaged ({error}); the features are computed again")
            path.unlink(missing_ok=True)
            return None
        if expected != _checksum(entry):
            logger.warning(f"{path} is damaged (wrong checksum); the features are computed again")
            path.unlink(missing_ok=True)
            return None
        self._used.add(path.name)
        return entry

    def _write(self, key: str, entry: Entry):
        size = entry_bytes(entry)
        if self.storage == "disk":
            if not self._make_room(size):
                self._tell_full()
                return
            entry = {name: tensor.cpu().contiguous() for name, tensor in entry.items()}
            with atomic_path(self._path(key)) as temporary:
                save_file(entry, temporary, metadata={"crc32": _checksum(entry)})
            self._used.add(self._path(key).name)
            self._written.add(self._path(key).name)
        elif self.memory_bytes + size > self.max_bytes:
            self._tell_full()
        else:
            self._memory[key] = entry if self.storage == "device" else {k: v.cpu() for k, v in entry.items()}
            self.memory_bytes += size

    def _make_room(self, size: int) -> bool:
        """Whether `size` bytes fit into the directory, after entries that this run has not used have been deleted."""
        files = []
        for path in self._entry_files():
            try:
                status = path.stat()
            except FileNotFoundError:  # another process cleared it away
                continue
            files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(file_size for _, file_size, _ in files)
        # younger files are those of another process of this run
        unused = sorted(file for file in files if file[2].name not in self._used and file[0] < self._started)
        if total - sum(file_size for _, file_size, _ in unused) + size > self.max_bytes:
            return False
        for _, file_size, path in unused:
            if total + size <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= file_size
        return True

    def remove(self, whole_directory: bool = False):
        """
        Delete the files that this cache has written; then the directory, if that leaves it empty and it was not there
        before. Every process calls it, when none reads any more. A file that cannot be deleted stays.

        Args:
            whole_directory: nobody else uses the directory. Entries that an interrupted run left go too, and so does
                the directory, even if it was there; files that are no entries stay.
        """
        if self.storage != "disk":
            return
        written = [self.directory / name for name in self._written]
        for path in self._entry_files() if whole_directory else written:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        if whole_directory or self._made_directory:
            with contextlib.suppress(OSError):  # not empty, or another process was faster
                self.directory.rmdir()

    def _entry_files(self) -> Iterator[Path]:
        for path in self.directory.glob("*.safetensors") if self.directory.is_dir() else ():
            if ENTRY_FILE.fullmatch(path.name):
                yield path

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.safetensors"

    def _tell_full(self):
        if not self._told_full:
            self._told_full = True
            logger.warning(
                f"the feature cache is full ({self.max_bytes / 2**30:.1f} GiB): the frozen part runs again for the "
                "images that did not fit. Raise feature_cache_gb, or use feature_cache='disk'"
            )


def _checksum(entry: Entry) -> str:
    value = 0
    for name in sorted(entry):
        value = zlib.crc32(_bytes(entry[name]), zlib.crc32(name.encode(), value))
    return f"{value:08x}"


class FeatureSource:
    """
    Entries of the images of a data set, from the cache or from the model.

    Args:
        model: the `SeemForUniversalSegmentation` inside the adapted model. It is put in eval mode.
        cache: where entries are kept.
        preprocessing: a text that changes whenever pixel values of the same image would.
        keep_projections: see `compute_entry`.
    """

    def __init__(self, model: nn.Module, cache: FeatureCache, preprocessing: str, keep_projections: bool = False):
        self.model, self.cache, self.keep_projections = model, cache, keep_projections
        self.kind = "features" if spatial_prompts_are_adapted(model) else "predictions"
        versions = f"torch {torch.__version__} transformers {transformers.__version__}"
        config = {name: value for name, value in model.config.to_dict().items() if name not in WITHOUT_EFFECT}
        settings = json.dumps(config, sort_keys=True, default=str)
        self._context = f"{self.kind} {keep_projections} {preprocessing} {settings} {versions}"
        self._weights: dict[torch.dtype, str] = {}

    @property
    def fingerprint(self) -> str:
        """Of everything an entry depends on but the image. Weights are hashed once; the base model is frozen."""
        dtype, device = self.model.dtype, self.model.device.type
        if dtype not in self._weights:
            frozen = self.model.model
            parts = [frozen.backbone, frozen.pixel_decoder]
            if self.kind == "predictions" or self.keep_projections:
                parts.append(frozen.mask_decoder)
            if self.kind == "predictions":
                parts += [getattr(frozen, slot) for slot in SPATIAL_SLOTS]
                if frozen.spatial_prompt_encoder is not None:  # which coordinates of points go through
                    parts.append(frozen.spatial_prompt_encoder)
            self._weights[dtype] = " ".join(map(weights_digest, parts))
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return hashlib.sha256(f"{self._context} {self._weights[dtype]} {device} {autocast}".encode()).hexdigest()

    def __call__(
        self, image_digest: str, flipped: bool, pixel_values: Callable[[], torch.Tensor], store: bool = True
    ) -> Entry:
        """
        Args:
            image_digest: of the image's bytes before preprocessing.
            flipped: whether the mirror image is meant.
            pixel_values: returns `(1, 3, H, W)`; called only if the entry has to be computed.
            store: whether to keep what was computed.
        """
        key = ""
        if self.cache.storage != "none":
            key = hashlib.sha256(f"{self.fingerprint} {image_digest} {flipped}".encode()).hexdigest()
        if self.model.training:
            self.model.eval()
        return self.cache.get_or_compute(
            key,
            lambda: compute_entry(self.model, pixel_values().to(self.model.device), self.kind, self.keep_projections),
            store,
        )


def spatial_prompts_are_adapted(model: nn.Module) -> bool:
    """Whether a tuner has wrapped a spatial prompt slot of the `SeemForUniversalSegmentation` `model`."""
    slots = (model.get_submodule(model.prompt_slots[name]) for name in SPATIAL_SLOTS)
    return any(isinstance(slot, PromptLayer) for slot in slots)
