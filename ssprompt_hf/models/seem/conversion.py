"""Conversion of official SEEM checkpoints to this package's layout, without holding a second copy in memory.

All checks need names and shapes only. The result is written beside its final place and moved there when complete.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from ...errors import CheckpointError
from ...utils.files import give_usual_modes, place, told_when_full
from ...utils.temporary_folders import temporary_folder
from ..fingerprint import first_not_finite
from .architectures import ARCHITECTURES, base_model_config, convertible_names
from .configuration_seem import SeemConfig
from .converted import load_tokenizer, local_model_dir
from .image_processing_seem import SeemImageProcessor
from .modeling_seem import SeemForUniversalSegmentation
from .official_checkpoint import listed, read_official_checkpoint
from .processing_seem import SeemProcessor
from .weight_mapping import TensorMapping, config_from_official, map_official_name

logger = logging.get_logger(__name__)

WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def convert_seem_checkpoint(
    checkpoint: str | os.PathLike,
    name: str | None = None,
    output_dir: str | os.PathLike | None = None,
    config: SeemConfig | None = None,
    tokenizer: Any = None,
) -> Path:
    """
    Convert an official checkpoint to a folder that `from_pretrained` loads.

    Args:
        checkpoint: a file written by `torch.save`: an official state dict, or a dictionary with one under "model",
            "state_dict" or "model_state_dict"; prefixes "module." and "model." of all names are removed.
        name: the architecture, one of `convertible_names()`. By default it is found from the tensors' shapes and, as
            decoders v0 and v1 have equal tensors, from "v0" or "v1" in the file's name.
        output_dir: the folder to write; it must not exist or be empty. By default the model is kept in the cache of
            converted models, where `from_pretrained(name)` finds it.
        config: the architecture, for a model that has no name; `name` must then be None.
        tokenizer: of the text encoder, to be saved with the image processor, as checkpoints have none; a tokenizer, or
            the folder or Hub id of one (a warning if it is not found).

    Returns:
        the folder, with `config.json`, `model.safetensors` and `preprocessor_config.json` (`processor_config.json` and
        the tokenizer's files if it was given).

    Raises:
        UnknownNameError: `name` is not the name of an official architecture.
        CheckpointError: the file is not there, not a checkpoint, damaged or unsafe; tensors are missing, unexpected or
            of other shapes; the architecture cannot be told; the output exists or cannot be written. Nothing is left
            behind then.
    """
    if name is not None and config is not None:
        raise ValueError(
            f"both name ({name!r}) and config are given: the name stands for a config, so pass one of them"
        )
    if config is not None and config.class_names is not None:
        raise ValueError(
            "config.class_names must be None: official checkpoints hold no class embeddings; "
            "call set_class_names on the converted model"
        )
    if name is not None:
        config = base_model_config(name)
    checkpoint = Path(checkpoint)
    if output_dir is not None:
        check_output_dir(Path(output_dir))
    state_dict = read_official_checkpoint(checkpoint)
    if config is None:
        name = detect_name(state_dict, checkpoint)
        config = base_model_config(name)
    _warn_of_other_version(checkpoint, config)
    if output_dir is None:
        if name is None:
            raise ValueError("output_dir is needed for a model without a name")
        output_dir = local_model_dir(name)
        check_output_dir(output_dir)
    mappings = match_tensors(state_dict, config, checkpoint, name)
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer = load_tokenizer(tokenizer)
    wrong = first_not_finite(state_dict)
    if wrong is not None:
        raise CheckpointError(f"{wrong} in {checkpoint} holds values that are not finite: the file is damaged")
    needed = sum(tensor.numel() * tensor.element_size() for tensor in state_dict.values())
    with atomic_output_dir(Path(output_dir), needed) as folder:
        _write(folder, state_dict, mappings, config, tokenizer)
    return Path(output_dir)


def _backbone_of_tensors(state_dict: dict[str, torch.Tensor]) -> tuple | None:
    """Kind, width and depth of the backbone in a checkpoint, comparable with `_backbone_of_config`."""

    def width(name):
        return state_dict[name].shape[-1] if state_dict[name].ndim else None

    def blocks(pattern):
        return len({match[0] for match in map(re.compile(pattern).match, state_dict) if match})

    if "backbone.patch_embed.norm.weight" in state_dict and blocks(r"backbone\.layers\.0\."):
        kind = "focal_dw" if blocks(r".*\.dw1\.") else "focal"
        return kind, width("backbone.patch_embed.norm.weight"), blocks(r"backbone\.layers\.\d+\.blocks\.\d+\.")
    if "backbone.convs.0.norm.weight" in state_dict:
        return "davit", width("backbone.convs.0.norm.weight"), blocks(r"backbone\.blocks\.\d+\.\d+\.")
    if "backbone.pos_embed" in state_dict:
        return "vit", width("backbone.pos_embed"), blocks(r"backbone\.blocks\.\d+\.")
    return None


def _backbone_of_config(config: SeemConfig) -> tuple | None:
    backbone = config.backbone_config
    if backbone.model_type == "seem_focalnet":
        kind = "focal_dw" if backbone.use_depthwise_conv else "focal"
        return kind, backbone.embed_dim, sum(backbone.depths)
    if backbone.model_type == "seem_davit":
        return "davit", backbone.embed_dim[0], sum(backbone.depths)
    return "vit", backbone.hidden_size, backbone.num_hidden_layers


def matching_names(state_dict: dict[str, torch.Tensor]) -> list[str]:
    """Names of the official architectures whose backbone is the one in an official state dict."""
    found = _backbone_of_tensors(state_dict)
    return [name for name in convertible_names() if _backbone_of_config(base_model_config(name)) == found]


def detect_name(state_dict: dict[str, torch.Tensor], path: Path) -> str:
    """
    The name of the architecture of an official state dict that was read from `path`.

    Raises:
        CheckpointError: no architecture or several fit.
    """
    names = matching_names(state_dict)
    if not names:
        raise CheckpointError(
            f"the architecture of {path} is not one of {', '.join(convertible_names())}"
            + ("." if _backbone_of_tensors(state_dict) else f": it holds {listed(state_dict)}.")
            + " For a SEEM model of another size, pass its config."
        )
    version = _version_in(path)
    if len(names) > 1 and version is not None:
        names = [name for name in names if ARCHITECTURES[name]["decoder_version"] == version]
    if len(names) > 1:
        raise CheckpointError(
            f"{path} may be {' or '.join(names)}: they differ only in what the decoder does with their tensors. Pass "
            f"the name: {' or '.join(f'--name {name}' for name in names)}."
        )
    return names[0]


def _version_in(path: Path) -> str | None:
    """The decoder version that official file names, such as `seem_focalt_v0.pt`, end in."""
    versions = re.findall(r"(?<![a-z0-9])v[01](?![0-9])", path.stem.lower())
    return versions[-1] if versions else None


def _warn_of_other_version(path: Path, config: SeemConfig):
    version = _version_in(path)
    if version is not None and version != config.decoder_version:
        logger.warning(
            f"{path.name} seems to be of decoder {version} but is converted with decoder {config.decoder_version}; "
            "the tensors cannot tell."
        )


def match_tensors(
    state_dict: dict[str, torch.Tensor], config: SeemConfig, path: Path, name: str | None = None
) -> dict[str, TensorMapping]:
    """
    What becomes of every tensor of an official state dict, after checking that the model gets all it needs.

    Args:
        state_dict: official names and tensors; only shapes and dtypes are looked at.
        config: of the model.
        path, name: for messages.

    Raises:
        CheckpointError: tensors are missing, unexpected or of other shapes; the message lists them and says whose
            layout it is, if it is known.
    """
    missing = expected_shapes(config)
    mappings, unexpected, wrong = {}, [], []
    for official, tensor in state_dict.items():
        try:
            mapping = map_official_name(official, config)
        except KeyError:
            unexpected.append(official)
            continue
        mappings[official] = mapping
        shape = mapping.shape(tensor.shape)
        for ours in mapping.names:
            wanted = missing.pop(ours, None)
            if wanted is None:
                unexpected.append(official)
            elif wanted != shape or tensor.dtype not in WEIGHT_DTYPES:
                wrong.append(f"{official} {tuple(tensor.shape)} {tensor.dtype}, for {ours} {wanted}")
    unexpected = list(dict.fromkeys(unexpected))
    if not (missing or unexpected or wrong):
        return mappings

    problems = [
        f"{len(items)} {what}: {listed(items)}"
        for items, what in (
            (list(missing), "missing (names as in this package)"),
            (unexpected, "unexpected"),
            (wrong, "of another shape or type"),
        )
        if items
    ]
    names = matching_names(state_dict)
    advice = "check that the file is complete and an official SEEM checkpoint"
    if names and name not in names:
        advice = f"its backbone is that of {' and '.join(names)}: pass {' or '.join(f'--name {n}' for n in names)}"
    what = name or "a model of the given config"
    raise CheckpointError(f"the tensors of {path} are not those of {what}: {advice}. {'; '.join(problems)}")


def expected_shapes(config: SeemConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of `SeemForUniversalSegmentation(config)`, without allocating them."""
    with torch.device("meta"):
        model = SeemForUniversalSegmentation(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_output_dir(folder: Path) -> None:
    """
    Raises:
        CheckpointError: something is there that would have to be overwritten.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise CheckpointError(f"{folder} already exists; choose another output folder or delete this one")


@contextmanager
def atomic_output_dir(folder: Path, needed: int | None = None) -> Iterator[Path]:
    """
    A new folder to write to, which becomes `folder` when the block ends and disappears if it fails in any way. What a
    process that was killed has left beside `folder` disappears first.

    Args:
        folder: it must not be there, or be empty.
        needed: bytes that it takes, for the message if there is no room.

    Raises:
        CheckpointError: `folder` cannot be written, or has been made by somebody else in the meantime.
    """
    folder = folder.absolute()
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    try:
        with told_when_full(folder, needed):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder(folder) as temporary:
                yield temporary
                give_usual_modes(temporary)
                if folder.is_dir():
                    folder.rmdir()
                place(temporary, folder)
    except BaseException as error:
        for parent in new_parents:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, OSError | SafetensorError):
            raise CheckpointError(f"{folder} could not be written: {error}") from error
        raise


def image_processor_for(config: SeemConfig) -> SeemImageProcessor:
    """As the official code prepares images for a model of this architecture."""
    size = {}
    if config.backbone_config.model_type == "seem_sam_vit":
        # SAM's position embeddings are for one square size. The official test size is 1000, at most 1024.
        limit = config.backbone_config.image_size
        size = {"size": {"shortest_edge": 1000 * limit // 1024, "longest_edge": limit}}
    return SeemImageProcessor(
        size_divisibility=config.size_divisibility,
        object_mask_threshold=config.object_mask_threshold,
        overlap_threshold=config.overlap_threshold,
        **size,
    )


def _write(folder: Path, state_dict: dict, mappings: dict[str, TensorMapping], config: SeemConfig, tokenizer):
    tensors = {
        name: part.contiguous()
        for official, mapping in mappings.items()
        for name, part in mapping.apply(state_dict[official])
    }
    save_file(tensors, folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})
    config = type(config).from_dict(config.to_dict())
    config.architectures = ["SeemForUniversalSegmentation"]
    dtypes = {tensor.dtype for tensor in tensors.values()}
    config.dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    config.save_pretrained(folder)
    image_processor = image_processor_for(config)
    processor = image_processor if tokenizer is None else SeemProcessor(image_processor, tokenizer)
    processor.save_pretrained(folder)


__all__ = [
    "config_from_official",
    "convert_seem_checkpoint",
    "convertible_names",
    "detect_name",
    "read_official_checkpoint",
]
