"""An adapter and its base model to one file."""

import contextlib
import copy
import importlib.util
import io
import json
import os
import re
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import ExportError
from ..model import SSPromptModel
from ..models.image_processing import MAX_IMAGE_SIZE, PromptableImageProcessor
from ..utils.files import atomic_path
from ..utils.version import __version__
from .merged_model import MergedModel

FORMATS = {"onnx": ".onnx", "torch_export": ".pt2"}
"""Name of a format -> the usual suffix of its files."""

OUTPUTS = ("class_scores", "class_map")

ONNX_OPSET = 20
METADATA_FILE = "ssprompt.json"
"""Where the metadata lie in a file of `torch.export`: a key of `extra_files`."""


def export_model(
    model: SSPromptModel,
    path: str | os.PathLike,
    format: str = "onnx",
    output: str = "class_scores",
    image_size: int | None = None,
    size: tuple[int, int] | None = None,
) -> dict[str, str]:
    """
    Write a model for semantic segmentation, with the active adapter's prompts and classes for good, in float32.

    The file's input is `pixel_values`, float32 `(B, 3, H, W)`, RGB on the scale 0 to 255, with a shorter side
    brought to `image_size` if it is shorter, and to `max_image_size` if it is longer (see the metadata);
    normalisation and padding are part of the model. SEEM takes any B, H and W. Other models are written for one image
    of one size, as they go through the images of a batch one by one and resize all to the same square.

    Args:
        model: as loaded for inference. It stays as it is.
        path: of the file.
        format: `"onnx"` or `"torch_export"`.
        output: `"class_scores"`, float32 `(B, K, H, W)`, not negative, or `"class_map"`, int64 `(B, H, W)`, positions
            in the list of classes.
        image_size: shorter side in pixels of resized images; by default the adapter's, or the image processor's.
        size: (H, W) in pixels of all images; by default any, or the only one that the model knows.

    Returns:
        the metadata, which are in the file, too (`metadata_props` of ONNX, `extra_files["ssprompt.json"]` of
        `torch.export`): `class_names`, `class_ids` in label files, `none_id` and `colors` as JSON, `image_size` and
        `max_image_size`, the least and the largest shorter side of resized images, with `enlargement`, that of
        those in between, or `size`, `output`, `base_model`, and `ssprompt_hf`, the version.

    Raises:
        ExportError: an unknown format or output; packages are missing; the model needs a size; it cannot be exported.
        StorageError: the disk is full.
    """
    if format not in FORMATS:
        raise ExportError(f"format is {format!r}; it must be {' or '.join(map(repr, FORMATS))}")
    if output not in OUTPUTS:
        raise ExportError(f"output is {output!r}; it must be {' or '.join(map(repr, OUTPUTS))}")
    if format == "onnx" and (missing := [name for name in ("onnx", "onnxscript") if not _is_installed(name)]):
        raise ExportError(f"{' and '.join(missing)} cannot be found: pip install 'ssprompt-hf[export]'")
    active = next(iter(model.active_adapters), None)
    with model.base_model.use_adapter(active) as call:  # and not what this thread sees, which no copy remembers
        config, class_names = call.config, list(call.class_names or ())
        labels = {"class_ids": list(range(len(class_names))), "none_id": 255, **call.label_ids}
        colors = call.colors
    processor = model.sized_image_processor(image_size or (config.image_size if config is not None else None))
    merged = copy.deepcopy(model).merge().float().cpu().eval()
    least, largest = (min(processor.resized_size((side, side))) for side in (1, MAX_IMAGE_SIZE))
    if size is None and not merged.takes_any_size:
        size = _only_size(merged, processor)
    elif size is not None:
        sized = processor.with_image_size(min(max(min(size), least), largest))
        if tuple(size) != tuple(sized.resized_size(size)):
            fits = " ".join(map(str, sized.resized_size(size)))
            raise ExportError(f"an image of {size[0]}x{size[1]} pixels is resized by the model: give the size {fits}")
    module = MergedModel(merged, processor, size, output == "class_map").eval()
    _check_inputs(module, processor)
    metadata = {
        "class_names": json.dumps(class_names),
        "class_ids": json.dumps(labels["class_ids"]),
        "none_id": json.dumps(labels["none_id"]),
        "colors": json.dumps(colors),
        "image_size": json.dumps(least) if size is None else "",
        "max_image_size": json.dumps(largest) if size is None else "",
        "enlargement": json.dumps(getattr(processor, "enlargement", 1.0)) if size is None else "",
        "size": "" if size is None else json.dumps(list(size)),
        "output": output,
        "base_model": str(getattr(config, "base_model_name_or_path", None) or ""),
        "ssprompt_hf": __version__,
    }
    try:
        program = _program(module, size)
        if size is None:
            _check_any_size(program, module)
        with atomic_path(path) as temporary:
            write = {"onnx": _write_onnx, "torch_export": _write_torch_export}[format]
            write(program, temporary, output, metadata)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError) as error:
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error.__cause__ or error)).strip().partition("\n")[0]
        raise ExportError(f"{type(merged).__name__} cannot be written as {format}: {reason}") from error
    return metadata


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _only_size(model: torch.nn.Module, processor: PromptableImageProcessor) -> tuple[int, int]:
    """The size that all images get, whatever theirs is."""
    sizes = {tuple(processor.resized_size(size)) for size in ((100, 200), (200, 100))}
    if len(sizes) > 1:
        raise ExportError(
            f"{type(model).__name__} with these prompts depends on the size of the image: give the size of all "
            f"images, for instance {' '.join(map(str, min(sizes)))}"
        )
    return sizes.pop()


def _check_inputs(module: MergedModel, processor: PromptableImageProcessor) -> None:
    """Whether the module normalises and pads as the image processor does; an image processor may have its own ways."""
    processor = processor.with_image_size(min(module.size or (100, 150)))  # which leaves these as they are
    size = processor.resized_size(module.size or (100, 150))
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted = torch.as_tensor(processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"])
    made = module.inputs(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
    if made.shape != wanted.shape or (made - wanted).abs().max() > 1e-4:
        raise ExportError(
            f"{type(processor).__name__} does more than to resize, normalise and pad images: it cannot be exported"
        )


def _program(module: MergedModel, size: tuple[int, int] | None) -> torch.export.ExportedProgram:
    """What `torch.export` makes of the module, for images of any or of one size."""
    dimensions = None
    shape = (1, 3, *size) if size is not None else (2, 3, 100, 150)  # other numbers than are in the model
    if size is None:
        any_size = torch.export.Dim.DYNAMIC  # which fails where the model takes one size only
        dimensions = {"pixel_values": {0: any_size, 2: any_size, 3: any_size}}
    # Its cache compares expressions of sizes, which takes longer than what it saves.
    quick = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    # A failure is reported with thousands of lines of the program so far, on stderr, whatever becomes of the error.
    with torch.no_grad(), quick, contextlib.redirect_stderr(io.StringIO()):
        return torch.export.export(module, (torch.zeros(shape),), dynamic_shapes=dimensions, strict=False)


@torch.no_grad()
def _check_any_size(program: torch.export.ExportedProgram, module: MergedModel) -> None:
    """Whether the program computes what the module does also for another number of images and another size: where
    Python makes numbers of a size, those of the first one may have become constants."""
    pixel_values = torch.rand(1, 3, 230, 170, generator=torch.Generator().manual_seed(0)) * 255
    try:
        same = (program.module()(pixel_values) - module(pixel_values)).abs() <= 1e-4
    except (AssertionError, RuntimeError, ValueError):
        same = torch.zeros(1)
    # of two classes that are equal but for rounding, a class map may have either
    if same.float().mean() < (0.999 if module.returns_map else 1.0):
        raise ExportError(f"{type(module.model).__name__} is written for images of one size only: give the size")


def _write_onnx(program: torch.export.ExportedProgram, path: Path, output: str, metadata: dict[str, str]) -> None:
    with warnings.catch_warnings(), torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        warnings.simplefilter("ignore", FutureWarning)  # of PyTorch, about itself
        written = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=["pixel_values"],
            output_names=[output],
            opset_version=ONNX_OPSET,
            verbose=False,
        )
    written.model.metadata_props.update(metadata)
    written.save(path)


def _write_torch_export(
    program: torch.export.ExportedProgram, path: Path, output: str, metadata: dict[str, str]
) -> None:
    torch.export.save(program, path, extra_files={METADATA_FILE: json.dumps(metadata)})
