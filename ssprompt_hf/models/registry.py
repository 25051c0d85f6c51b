"""The base models known by name, and the family behind a name, a folder or a Hub id.

Nothing heavy is imported before a family is needed: lists of names and mistakes in them cost no time.
"""

import difflib
import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import UnknownNameError

if TYPE_CHECKING:
    from .interface import ModelFamily

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ASSETS = Path(__file__).resolve().parent.parent / "assets"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
DEFAULT_BASE_MODEL = "seem-lite"

FAMILIES: dict[str, str] = {
    name: f"ssprompt_hf.models.{name}.family" for name in ("seem", "sam3", "sam2", "sam", "clipseg")
}
"""Family -> the module that has it as `FAMILY`."""

MODEL_TYPES: dict[str, str] = {
    "seem": "seem",
    "sam3": "sam3",
    "sam3_video": "sam3",
    "sam3_lite_text": "sam3",
    "sam2": "sam2",
    "sam2_video": "sam2",
    "sam3_tracker": "sam2",
    "sam": "sam",
    "sam_hq": "sam",
    "clipseg": "clipseg",
}
"""`model_type` of a configuration -> family."""


@dataclass(frozen=True)
class BaseModel:
    """
    A base model known by name.

    Args:
        name: what users write.
        family: one of `FAMILIES`.
        description: one line for lists of models.
        repo_id: where its weights are published; None if they are not.
        filename: of an official checkpoint in `repo_id` that has to be converted.
        embedded: the model lies in this package's `assets/<name>`.
        title: as papers write it, where that differs from the name.
    """

    name: str
    family: str
    description: str
    repo_id: str | None = None
    filename: str | None = None
    embedded: bool = False
    title: str | None = None


OFFICIAL_SEEM = "xdecoder/SEEM"

BASE_MODELS = {
    model.name: model
    for model in (
        BaseModel("seem-lite", "seem", "small, trained by this project, in the package", embedded=True),
        BaseModel("seem-nano", "seem", "a smaller one, which has seen drawings only; in the package", embedded=True),
        BaseModel(
            "seem-t",
            "seem",
            "Focal-T, mask decoder v0 (SEEM-T of the SSPrompt paper)",
            OFFICIAL_SEEM,
            "seem_focalt_v0.pt",
            title="SEEM-T",
        ),
        BaseModel("seem-t-v1", "seem", "Focal-T, mask decoder v1", OFFICIAL_SEEM, "seem_focalt_v1.pt"),
        BaseModel(
            "seem-l",
            "seem",
            "DaViT-d3, mask decoder v1 (SEEM-L of the SSPrompt paper); no public file",
            OFFICIAL_SEEM,
            title="SEEM-L",
        ),
        BaseModel("seem-davit-d5", "seem", "DaViT-d5, mask decoder v1; no public file", OFFICIAL_SEEM),
        BaseModel("seem-focal-l", "seem", "Focal-L, mask decoder v0", OFFICIAL_SEEM, "seem_focall_v0.pt"),
        BaseModel("seem-focal-l-v1", "seem", "Focal-L, mask decoder v1", OFFICIAL_SEEM, "seem_focall_v1.pt"),
        BaseModel(
            "seem-sam-vit-b",
            "seem",
            "SAM ViT-B, deformable pixel decoder, mask decoder v1",
            OFFICIAL_SEEM,
            "seem_samvitb_v1.pt",
        ),
        BaseModel(
            "seem-sam-vit-l",
            "seem",
            "SAM ViT-L, deformable pixel decoder, mask decoder v1",
            OFFICIAL_SEEM,
            "seem_samvitl_v1.pt",
        ),
        BaseModel("sam3", "sam3", "SAM 3, 840 M parameters; gated", "facebook/sam3", title="SAM 3"),
        BaseModel("sam3-litetext-s0", "sam3", "SAM 3 with a small text encoder", "vil-uob/sam3-litetext-s0"),
        BaseModel("sam3-litetext-s1", "sam3", "SAM 3 with a small text encoder", "vil-uob/sam3-litetext-s1"),
        BaseModel("sam3-litetext-l", "sam3", "SAM 3 with a small text encoder", "vil-uob/sam3-litetext-l"),
        BaseModel(
            "sam3-tracker",
            "sam2",
            "what SAM 3 has for points: SAM 2 on its vision encoder, knows no words; gated",
            "facebook/sam3",
            title="SAM 3 tracker",
        ),
        *(
            BaseModel(
                f"sam2.1-{size}",
                "sam2",
                "SAM 2.1, which knows no words",
                f"facebook/sam2.1-hiera-{size}",
                title=f"SAM 2.1 {size}",
            )
            for size in ("tiny", "small", "base-plus", "large")
        ),
        *(
            BaseModel(
                f"sam-vit-{size[0]}",
                "sam",
                "SAM, which knows no words",
                f"facebook/sam-vit-{size}",
                title=f"SAM ViT-{size[0].upper()}",
            )
            for size in ("base", "large", "huge")
        ),
        *(
            BaseModel(
                f"sam-hq-vit-{size[0]}",
                "sam",
                "SAM-HQ, SAM with finer masks",
                f"syscv-community/sam-hq-vit-{size}",
                title=f"SAM-HQ ViT-{size[0].upper()}",
            )
            for size in ("base", "large", "huge")
        ),
        BaseModel("clipseg", "clipseg", "CLIPSeg rd64, small, knows words", "CIDAS/clipseg-rd64-refined"),
    )
}


def family(name: str) -> "ModelFamily":
    """The family called `name`, imported on first use."""
    return importlib.import_module(FAMILIES[name]).FAMILY


def load_prompt_methods() -> None:
    """Make the prompt methods known to PEFT, as far as they are not yet. Families call it when they are imported, so
    that PEFT and transformers can load adapters onto their models; they know nothing else of methods."""
    importlib.import_module("ssprompt_hf.tuners")


def register_family(name: str, module: str, model_types: tuple[str, ...]) -> None:
    """
    Make a family of your own known.

    Args:
        name: of the family.
        module: which has it as `FAMILY`, a [`ModelFamily`].
        model_types: the `model_type` of the configurations that belong to it.
    """
    FAMILIES[name] = module
    MODEL_TYPES.update(dict.fromkeys(model_types, name))


def check_name(name: str) -> None:
    """
    Raises:
        UnknownNameError: `name` is no base model, no folder and no Hub id; the message suggests what was meant.
    """
    if name in BASE_MODELS or os.path.exists(name) or HUB_ID.fullmatch(name):
        return
    near = difflib.get_close_matches(name, BASE_MODELS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(BASE_MODELS)}"
    raise UnknownNameError(f"{name!r} is no base model, no folder and no Hub id (user/name): {hint}")


def published_id(name: str, family: str) -> str:
    """The Hub id of a base model of `family` by its name; a folder of that name comes first, and stays as it is."""
    model = BASE_MODELS.get(name)
    if model is None or model.family != family or os.path.exists(name):
        return name
    return model.repo_id


def find_family(name: str | os.PathLike, **access: Any) -> "ModelFamily":
    """
    The family of a base model.

    Args:
        name: a name of `BASE_MODELS`, a folder or a Hub id. A folder of a name comes first.
        access: `revision`, `cache_dir`, `token`, `local_files_only`, to read the configuration of a Hub id.

    Raises:
        UnknownNameError: no such name, or a model of no known family.
        OSError: the configuration cannot be had, as transformers says it.
    """
    name = os.fspath(name)
    check_name(name)
    if name in BASE_MODELS and not os.path.exists(name):
        return family(BASE_MODELS[name].family)
    from transformers import PretrainedConfig

    model_type = PretrainedConfig.get_config_dict(name, **access)[0].get("model_type")
    if model_type is None:
        raise UnknownNameError(f"{name!r} holds no model: there is no config.json in it that says of which type it is")
    if model_type not in MODEL_TYPES:
        raise UnknownNameError(
            f"{name!r} is a model of the type {model_type!r}; prompts can be learned for {', '.join(MODEL_TYPES)}"
        )
    return family(MODEL_TYPES[model_type])


class ModelSource(NamedTuple):
    """
    Where the files of a base model are.

    Args:
        family: its family.
        path: a folder or a Hub id.
        access: how to reach the Hub; empty for a folder.
    """

    family: "ModelFamily"
    path: str
    access: dict[str, Any]


def find_source(name: str | os.PathLike, revision: str | None = None, **access: Any) -> ModelSource:
    """
    Where the files of a base model are, after what a family has to download and convert.

    Args:
        name: a name of `BASE_MODELS`, a folder or a Hub id.
        revision: of a Hub id, or of the repository behind a name.
        access: `cache_dir`, `token`, `local_files_only`.

    Raises:
        as [`find_family`], and `ModelFamily.resolve`.
    """
    name = os.fspath(name)
    access = {key: value for key, value in access.items() if value is not None}
    found = find_family(name, **access, **({} if revision is None else {"revision": revision}))
    path = found.resolve(name, revision=revision, **access)
    if os.path.isdir(path):
        return ModelSource(found, path, {})
    return ModelSource(found, path, access | {"revision": revision or "main"})


def get_base_model(name: str) -> BaseModel:
    """
    The base model called `name`.

    Raises:
        UnknownNameError: no model has this name; the message lists the names.
    """
    try:
        return BASE_MODELS[name]
    except KeyError:
        raise UnknownNameError(
            f"{name!r} is no base model; the names are {', '.join(BASE_MODELS)}. "
            "A folder written by save_pretrained, or a Hub id 'user/name', can be given instead of a name."
        ) from None
