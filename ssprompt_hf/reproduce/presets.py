"""Where a table runs: on the paper's data, on drawn scenes that come with the package, or on a folder like CamVid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..data.datasets.acdc import CONDITIONS
from ..errors import SSPromptError
from ..models.registry import BASE_MODELS, DEFAULT_BASE_MODEL
from ..training.settings import DataArguments, parse_options
from ..utils.tasks import TASKS

PRESETS = ("full", "embedded", "camvid")
SEMANTIC_ONLY = ("semantic",)


@dataclass(frozen=True)
class Domain:
    """
    A data set to learn from and to be scored on.

    Args:
        name: what users write in `--columns`.
        title: the column's.
        data: fields of `DataArguments`, without the base model; None if the data have not been given.
        classes: domains of one value here have the same classes, so that adapters for one can be scored on the other.
        tasks: what its labels are good for.
        folder: the name in `--data_dir`, for the message that it is missing.
    """

    name: str
    title: str
    data: Mapping[str, Any] | None = field(hash=False)
    classes: str
    tasks: tuple[str, ...] = SEMANTIC_ONLY
    folder: str | None = None

    def arguments(self, base_model: str) -> DataArguments:
        """The settings by which `ssprompt-hf train` and `evaluate` see the same data."""
        return DataArguments(base_model=base_model, **self.data)


@dataclass(frozen=True)
class StepSetting:
    """What a training step is measured on (Table 7): image size, classes, and tokens that a class name and the words
    before it take in the base model's vocabulary."""

    height: int
    width: int
    classes: int
    name_tokens: int
    template_tokens: int


@dataclass(frozen=True)
class Preset:
    """
    Args:
        name: one of `PRESETS`.
        base_models: names, in the order of the rows.
        domains: by name, in the order of the columns.
        step: what Table 7 is measured on.
        with_sam: base models of Table 9: those that users asked for, or SAM if the preset has one, and then the first
            of the preset's own, unless a SEEM is among them.
        notes: what a reader of its tables has to know.
    """

    name: str
    base_models: tuple[str, ...]
    domains: dict[str, Domain]
    step: StepSetting
    with_sam: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def make_preset(
    name: str,
    data_dirs: Sequence[str] = (),
    base_models: Sequence[str] | None = None,
    dataset_options: Sequence[str] = (),
    image_size: int | None = None,
    max_eval_images: int | None = None,
) -> Preset:
    """
    A preset with the user's folders and changes.

    Args:
        name: `full`, `embedded` or `camvid`.
        data_dirs: `NAME=FOLDER` texts for `full` (missing ones leave columns empty), one folder for `camvid`.
        base_models: in place of the preset's own.
        dataset_options: as of `DataArguments`: `NAME=JSON` texts for `full`, one JSON text for the others.
        image_size, max_eval_images: as of `DataArguments`.

    Raises:
        SSPromptError: no such preset; a folder that is missing, that is not there, or that the preset has no use for.
    """
    if name not in PRESETS:
        raise SSPromptError(f"preset is {name!r}; it must be one of {', '.join(PRESETS)}")
    preset = {"full": _full, "embedded": _embedded, "camvid": _camvid}[name](list(data_dirs))
    changes: dict[str, Any] = {"image_size": image_size, "max_eval_images": max_eval_images}
    changes = {key: value for key, value in changes.items() if value is not None}
    options = _dataset_options(preset, list(dataset_options))
    domains = {}
    for key, domain in preset.domains.items():
        if domain.data is not None:
            data = {**domain.data, **changes}
            if given := options.get(domain.folder):
                data["dataset_options"] = data.get("dataset_options", {}) | given
            domain = replace(domain, data=data)
            domain.arguments("")  # a bad value is told before anything runs
        domains[key] = domain
    step = preset.step
    if image_size is not None:
        step = replace(step, height=image_size, width=round(image_size * step.width / step.height))
    # what comes with the package is tried without downloads, so that a SAM has to be asked for
    asked = tuple(base_models or (("sam-vit-b",) if name == "full" else ()))
    has_seem = any(base in BASE_MODELS and BASE_MODELS[base].family == "seem" for base in asked)
    return replace(
        preset,
        base_models=tuple(base_models or preset.base_models),
        domains=domains,
        step=step,
        with_sam=tuple(dict.fromkeys(asked if has_seem else (*asked, preset.base_models[0]))),
    )


def _dataset_options(preset: Preset, texts: list[str]) -> dict[str | None, dict[str, Any]]:
    """What users gave, by `Domain.folder`."""
    if preset.name != "full":
        if len(texts) > 1:
            raise SSPromptError(
                f"dataset_options are {' '.join(texts)!r}; preset {preset.name} takes one JSON object, in quotes"
            )
        return {None: parse_options("dataset_options", texts[0])} if texts else {}
    there = {domain.folder for domain in preset.domains.values() if domain.data is not None}
    options: dict[str | None, dict[str, Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or name not in FULL_FOLDERS:
            raise SSPromptError(
                f"dataset_options is {text!r}; preset full takes NAME=JSON, for instance "
                f'mapillary_vistas=\'{{"version": "1.2"}}\', where NAME is one of {", ".join(FULL_FOLDERS)}'
            )
        if name not in there:
            raise SSPromptError(f"dataset_options is {text!r}, but no folder was given: --data_dir {name}=FOLDER")
        options[name] = options.get(name, {}) | parse_options(f"dataset_options of {name}", values)
    return options


FULL_FOLDERS = {
    "cityscapes": "Cityscapes",
    "bdd100k": "BDD100K",
    "mapillary_vistas": "Mapillary Vistas",
    "ade20k": "ADE20K",
    "pascal_context": "PASCAL Context",
    "acdc": "ACDC",
}


def _full(data_dirs: list[str]) -> Preset:
    from ..data.datasets.catalog import KNOWN_DATASETS

    folders: dict[str, str] = {}
    for text in data_dirs:
        key, equals, folder = text.partition("=")
        if not equals or key not in FULL_FOLDERS:
            raise SSPromptError(
                f"data_dir is {text!r}; preset full takes NAME=FOLDER, where NAME is one of {', '.join(FULL_FOLDERS)}"
            )
        _check_folder(text, folder, f"`ssprompt-hf datasets {key}` shows where to get it and how it must look")
        folders[key] = folder
    domains = {}
    for key, title in FULL_FOLDERS.items():
        info = KNOWN_DATASETS[key]
        # the nineteen classes of Cityscapes are those of BDD100K and ACDC, and what Mapillary's are mapped to
        classes = "cityscapes" if key in ("bdd100k", "acdc", "mapillary_vistas") else key
        for condition in CONDITIONS if key == "acdc" else (None,):
            data = None
            if key in folders:
                # the paper's images have a shorter side of 512 pixels
                data = {"dataset": key, "data_dir": folders[key], "condition": condition, "image_size": 512}
            name = key if condition is None else condition
            full_title = title if condition is None else f"{title} {condition}"
            domains[name] = Domain(name, full_title, data, classes, tuple(info.tasks), key)
    # images of ADE20K are mostly 4:3; most of its names have one or two tokens in CLIP's vocabulary
    return Preset("full", ("seem-t", "seem-l"), domains, StepSetting(512, 683, 150, 2, 4))


def _embedded(data_dirs: list[str]) -> Preset:
    if data_dirs:
        raise SSPromptError(
            f"data_dir is {data_dirs[0]!r}, but preset embedded draws its own scenes: leave it out, or use --preset "
            "camvid or full"
        )
    tasks = {
        "fog": ("fog", "fog"),
        "night": ("night", "night"),
        "rain": ("rain", "rain"),
        "snow": ("snow", "snow"),
        "taxonomy": ("clear/custom", "own classes"),
        "both": ("fog/custom", "own classes in fog"),
    }
    domains = {}
    for name, (scenes, title) in tasks.items():
        data = {"dataset": f"street-scenes/{scenes}", "dataset_options": {"num_images": 100}, "eval_split": "test"}
        domains[name] = Domain(name, title, data, scenes.partition("/")[2] or "base", TASKS)
    # seem-lite reads letters: names of the scenes have about eight of them
    return Preset("embedded", (DEFAULT_BASE_MODEL,), domains, StepSetting(288, 576, 150, 8, 9))


def _camvid(data_dirs: list[str]) -> Preset:
    if len(data_dirs) != 1:
        raise SSPromptError(
            f"preset camvid needs one --data_dir, a folder with images/{{train,val}}, annotations/{{train,val}} and "
            f"classes.json; it was given {len(data_dirs)}"
        )
    folder = data_dirs[0].removeprefix("camvid=")
    _check_folder(data_dirs[0], folder, "it must hold images/, annotations/ and classes.json")
    domain = Domain("camvid", "CamVid", {"data_dir": folder}, "camvid")
    return Preset("camvid", (DEFAULT_BASE_MODEL,), {"camvid": domain}, StepSetting(360, 480, 150, 8, 9))


def _check_folder(given: str, folder: str, hint: str):
    if not Path(folder).is_dir():
        raise SSPromptError(f"data_dir is {given!r}, but there is no folder {folder!r}: {hint}")
