"""Names of base models and adapters, and what they stand for.

A base-model name stands for an architecture (arguments of `SeemConfig`) and, where one is published, for a checkpoint
in the official layout on the Hub. An adapter name is a folder, a Hub id, or a bare name under a namespace.
"""

import copy
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UnknownNameError

OFFICIAL_REPO = "xdecoder/SEEM"
# The tokenizer of the official text encoder, which the checkpoints do not contain.
TOKENIZER_REPO = "openai/clip-vit-base-patch32"
DEFAULT_NAMESPACE = "ssprompt-hf"
NAMESPACE_VARIABLE = "SSPROMPT_HUB_NAMESPACE"
ADAPTER_CONFIG = "adapter_config.json"

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class BaseModel:
    """
    A base model known by name.

    Args:
        name: what users write.
        description: one line for lists of models.
        config: arguments of `SeemConfig` that differ from its defaults.
        filename: the file in `repo_id` that holds the official checkpoint; None if none is public.
        embedded: the model lies, already converted, in this package's `assets/<name>`.
    """

    name: str
    description: str
    config: dict = field(default_factory=dict)
    filename: str | None = None
    repo_id: str = OFFICIAL_REPO
    embedded: bool = False


# From the `MODEL.BACKBONE` sections of the official `configs/seem/*.yaml`; everything else is equal across the family.
_FOCAL_T = {
    "model_type": "seem_focalnet",
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "focal_levels": [3, 3, 3, 3],
    "focal_windows": [3, 3, 3, 3],
    "use_depthwise_conv": True,
    "stem_padding": 3,
}
_FOCAL_L = {
    "model_type": "seem_focalnet",
    "embed_dim": 192,
    "depths": [2, 2, 18, 2],
    "focal_levels": [4, 4, 4, 4],
    "focal_windows": [3, 3, 3, 3],
    "use_depthwise_conv": False,
    "stem_padding": 2,
}
_DAVIT_D3 = {
    "model_type": "seem_davit",
    "patch_size": [7, 2, 2, 2],
    "patch_padding": [3, 0, 0, 0],
    "embed_dim": [128, 256, 512, 1024],
    "num_heads": [4, 8, 16, 32],
    "num_groups": [4, 8, 16, 32],
    "depths": [1, 1, 9, 1],
}
_DAVIT_D5 = {
    "model_type": "seem_davit",
    "patch_size": [7, 3, 3, 3],
    "patch_padding": [3, 1, 1, 1],
    "embed_dim": [256, 512, 1024, 2048],
    "num_heads": [8, 16, 32, 64],
    "num_groups": [8, 16, 32, 64],
    "depths": [1, 1, 9, 1],
}
_SAM_VIT_B = {
    "model_type": "seem_sam_vit",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "global_attn_indexes": [2, 5, 8, 11],
}
_SAM_VIT_L = {
    "model_type": "seem_sam_vit",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "global_attn_indexes": [5, 11, 17, 23],
}
_SAM = {
    "decoder_version": "v1",
    "pixel_decoder_type": "deformable",
    "encoder_feedforward_dim": 1024,
    "size_divisibility": 1024,
}

BASE_MODELS = {
    model.name: model
    for model in (
        BaseModel("seem-nano", "small, trained by this project, in the package", embedded=True),
        BaseModel(
            "seem-t",
            "Focal-T, mask decoder v0 (SEEM-T of the SSPrompt paper)",
            {"backbone_config": _FOCAL_T, "decoder_version": "v0"},
            "seem_focalt_v0.pt",
        ),
        BaseModel(
            "seem-t-v1",
            "Focal-T, mask decoder v1",
            {"backbone_config": _FOCAL_T, "decoder_version": "v1"},
            "seem_focalt_v1.pt",
        ),
        BaseModel(
            "seem-l",
            "DaViT-d3, mask decoder v1 (SEEM-L of the SSPrompt paper); no public file",
            {"backbone_config": _DAVIT_D3, "decoder_version": "v1"},
        ),
        BaseModel(
            "seem-davit-d5",
            "DaViT-d5, mask decoder v1; no public file",
            {"backbone_config": _DAVIT_D5, "decoder_version": "v1"},
        ),
        BaseModel(
            "seem-focal-l",
            "Focal-L, mask decoder v0",
            {"backbone_config": _FOCAL_L, "decoder_version": "v0"},
            "seem_focall_v0.pt",
        ),
        BaseModel(
            "seem-focal-l-v1",
            "Focal-L, mask decoder v1",
            {"backbone_config": _FOCAL_L, "decoder_version": "v1"},
            "seem_focall_v1.pt",
        ),
        BaseModel(
            "seem-sam-vit-b",
            "SAM ViT-B, deformable pixel decoder, mask decoder v1",
            {"backbone_config": _SAM_VIT_B, **_SAM},
            "seem_samvitb_v1.pt",
        ),
        BaseModel(
            "seem-sam-vit-l",
            "SAM ViT-L, deformable pixel decoder, mask decoder v1",
            {"backbone_config": _SAM_VIT_L, **_SAM},
            "seem_samvitl_v1.pt",
        ),
    )
}


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


def convertible_names() -> list[str]:
    """Names whose architecture is an official one, so that an official checkpoint can be converted to it."""
    return [model.name for model in BASE_MODELS.values() if not model.embedded]


def base_model_config(name: str):
    """
    The architecture of an official model, as `SeemConfig`.

    Raises:
        UnknownNameError: `name` is not the name of an official model; the message lists those names.
    """
    from .seem.configuration_seem import SeemConfig

    names = convertible_names()
    if name not in names:
        raise UnknownNameError(f"{name!r} is not the name of an official SEEM model; choose one of {', '.join(names)}")
    # A copy: configurations may change the dictionaries they are built from.
    return SeemConfig(**copy.deepcopy(BASE_MODELS[name].config))


def resolve_adapter_name(name: str | os.PathLike, namespace: str | None = None) -> str:
    """
    What to load an adapter from: a folder's path or a Hub id.

    A bare name that is a folder holding an adapter stands for that folder, otherwise for a repository under
    `namespace`.

    Args:
        name: a folder, a Hub id `user/name`, or a bare name.
        namespace: where bare names are looked up; by default the environment variable `SSPROMPT_HUB_NAMESPACE`, or
            `"ssprompt-hf"`.

    Returns:
        the folder as given, or the Hub id.

    Raises:
        UnknownNameError: a path that is no adapter folder, or a text that cannot be a Hub id.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    text = os.fspath(name)
    folder = Path(text)
    if (folder / ADAPTER_CONFIG).is_file():
        return text
    is_bare = bool(text) and "/" not in text and os.sep not in text and text not in (".", "..")
    if folder.is_dir() and not is_bare:
        raise UnknownNameError(f"the folder {text!r} holds no adapter: there is no {ADAPTER_CONFIG} in it")
    repo_id = text
    if is_bare:
        namespace = namespace or os.environ.get(NAMESPACE_VARIABLE) or DEFAULT_NAMESPACE
        repo_id = f"{namespace}/{text}"
    try:
        # The client would take a one-part id for a repository; adapters have an owner.
        if repo_id.count("/") != 1:
            raise HFValidationError(f"{repo_id!r} has not the form 'user/name'")
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UnknownNameError(
            f"{text!r} is neither a folder that holds an adapter, nor a Hub id 'user/name', nor a bare name: {error}"
        ) from None
    return repo_id
