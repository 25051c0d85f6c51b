"""From names to base models and adapters."""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from .adapters.files import AdapterFiles, fetch_adapter, read_adapter
from .errors import AdapterError, CheckpointError, DownloadError, SSPromptError, UnknownNameError
from .models.interface import KINDS, SEMANTIC, BaseModelInfo, ModelFamily, PromptableImageProcessor
from .models.model_files import check_folder, check_weights
from .models.registry import ADAPTER_CONFIG, BASE_MODELS, HUB_ID, ModelSource, find_family, find_source
from .models.transformers_compat import find_adapter_config_file
from .tuners import PromptConfig, SSPromptConfig
from .tuners.base.config import ANY_BASE_MODEL, checked_class_names
from .tuners.text import TextPromptConfig, base_tokenizer
from .utils.hub import checked_downloads
from .utils.memory import is_out_of_memory


class Loaded(NamedTuple):
    """
    All that a `SSPromptModel` is made of.

    Args:
        model, image_processor: the base model and what prepares its images (None: unknown).
        config: of the adapter.
        files: of the adapter; None for a new one.
        access: how to read more files of the base model: `revision`, `cache_dir`, `token`, `local_files_only`.
    """

    model: nn.Module
    image_processor: PromptableImageProcessor | None
    config: PromptConfig
    files: AdapterFiles | None
    access: dict[str, Any]


def load_model_and_adapter(
    base: str | os.PathLike | nn.Module | None,
    adapter: str | os.PathLike | None,
    is_trainable: bool,
    config: PromptConfig | None,
    class_names: list[str] | None,
    thing_class_ids: list[int] | None,
    keep_prompt_encoders: bool,
    check_base_model: bool,
    namespace: str | None,
    revision: str | None,
    adapter_revision: str | None,
    access: dict[str, Any],
    **kwargs: Any,
) -> Loaded:
    """See `SSPromptModel.from_pretrained`, of which these are the arguments; `access` are `cache_dir`, `token` and
    `local_files_only`."""
    files = None
    if class_names is not None:
        class_names = checked_class_names(class_names)
    if adapter is not None:
        if class_names is not None or config is not None:
            raise AdapterError("an adapter brings its own classes and configuration: pass these without `adapter`")
        files = read_adapter(fetch_adapter(adapter, namespace, adapter_revision, **access))
        config = files.config
        config.inference_mode = not is_trainable
        if not check_base_model:
            config.base_model_fingerprint = ANY_BASE_MODEL
        if base is None:
            base, revision = config.base_model_name_or_path, revision or config.revision
    if base is None:
        raise AdapterError("no base model: pass its name, folder or Hub id, for instance 'seem-lite'")
    config = SSPromptConfig() if config is None else config
    config.revision = config.revision or revision
    encoders = set(config.prompt_encoders(is_new=files is None, is_trainable=is_trainable))
    text_encoder = kwargs.pop("text_encoder", None) or getattr(config, "text_encoder", None)
    if text_encoder is not None and hasattr(config, "text_encoder"):
        config.text_encoder = os.fspath(text_encoder)
    if isinstance(base, nn.Module):
        model, image_processor = base, None
    else:
        wanted = encoders | ({NAMES, "spatial"} if keep_prompt_encoders else {NAMES} if class_names else set())
        model, image_processor = load_base_model(
            base, wanted, revision=revision, text_encoder=text_encoder, **access, **kwargs
        )
    access = {**access, "revision": revision}
    if class_names is not None:
        _set_class_names(model, config, class_names, thing_class_ids, access)
        learns_words = isinstance(config, TextPromptConfig)
        if not keep_prompt_encoders and not isinstance(base, nn.Module) and not learns_words:
            model.drop_text_encoder()
    return Loaded(model, image_processor, config, files, access)


def _set_class_names(
    model: nn.Module,
    config: PromptConfig,
    class_names: list[str],
    thing_class_ids: list[int] | None,
    access: dict[str, Any],
) -> None:
    """Semantic prompts for a new adapter, and the tokens of its words, where it learns any."""
    knows_words = model.borrowed_text_encoder is None
    if not knows_words and config.starts_from_words and model.word_embeddings() is None:
        raise AdapterError(
            "semantic prompts are to start from words, but the base model was loaded without a text encoder: load it "
            "by load_base_model(name, ('text',))"
        )
    if not knows_words and config.starts_from_words:
        config.text_encoder = model.borrowed_text_encoder
    # a borrowed tokenizer may have to be downloaded, too
    needs_tokenizer = knows_words or model.word_embeddings() is not None
    tokenizer = base_tokenizer(model, **access) if needs_tokenizer else None
    model.set_class_names(class_names, tokenizer if knows_words or config.starts_from_words else None, thing_class_ids)
    if isinstance(config, TextPromptConfig) and config.tokenizer_name is None and needs_tokenizer:
        config.tokenize(class_names, tokenizer, model.class_template)


NAMES = "names"
"""Among the parts that a base model must have: whatever it makes semantic prompts of class names with."""


def _parts_for(family: ModelFamily, prompt_encoders: Iterable[str]) -> set[str]:
    """What a family is to load, for `prompt_encoders` that may hold `NAMES`."""
    parts = set(prompt_encoders)
    needs_text = NAMES in parts and not family.borrows_text_encoder
    return parts - {NAMES} | ({"text"} if needs_text else set())


def load_base_model(
    name: str | os.PathLike,
    prompt_encoders: Iterable[str] = (),
    revision: str | None = None,
    text_encoder: str | os.PathLike | None = None,
    **kwargs: Any,
) -> tuple[nn.Module, PromptableImageProcessor]:
    """
    A base model and its image processor.

    Args:
        name: a name of `models/registry.py`, a folder or a Hub id.
        prompt_encoders: the parts it must have besides: `"text"`, `"spatial"`, or `"names"`: what it needs to make
            semantic prompts of class names, which is its text encoder, if it has one of its own.
        revision: of a Hub id, or of the repository behind a name.
        text_encoder: folder or Hub id of the text encoder that is lent to a model without one (SAM, SAM 2), if
            `"text"` is asked for.
        kwargs: `cache_dir`, `token`, `local_files_only`, and others of transformers' `from_pretrained`.

    Raises:
        UnknownNameError: no such name, or a model that prompts cannot be learned for.
        DownloadError: the files cannot be had.
        AdapterError: the name is an adapter's, the files lack a prompt encoder, or `text_encoder` was given for a
            model that has its own.
    """
    access = {key: kwargs.pop(key) for key in ("cache_dir", "token", "local_files_only") if key in kwargs}
    with _told_errors(name, access, kwargs):
        source = _find(name, revision, access)
        if text_encoder is not None:
            if not source.family.borrows_text_encoder:
                raise AdapterError(
                    f"text_encoder is {os.fspath(text_encoder)!r}, but {os.fspath(name)!r} has a text encoder of its "
                    "own: leave it out"
                )
            kwargs["text_encoder"] = os.fspath(text_encoder)
        parts = _parts_for(source.family, prompt_encoders)
        # of the access, a folder needs none itself, but what it borrows may lie elsewhere
        if os.path.isdir(source.path):
            check_folder(source.path)
        own_access = access | source.access if source.family.borrows_text_encoder else source.access
        with checked_downloads(source.path, access.get("cache_dir")):
            model, image_processor = source.family.load(source.path, parts, **own_access, **kwargs)
        check_weights(model, source.path)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise AdapterError(f"{source.path!r} is an adapter and no base model: pass it as adapter={source.path!r}")
    if os.fspath(name) in BASE_MODELS:
        # Adapters record the name, not where this machine keeps the files.
        model.name_or_path = os.fspath(name)
    return model, image_processor


def base_model_info(name: str | os.PathLike, revision: str | None = None, **access: Any) -> BaseModelInfo:
    """What a base model's files say before it is loaded; arguments and errors as of [`load_base_model`]."""
    with _told_errors(name, access):
        source = _find(name, revision, access)
        return source.family.info(source.path, **source.access)


def _find(name: str | os.PathLike, revision: str | None, access: dict[str, Any]) -> ModelSource:
    if os.path.isfile(os.path.join(name, ADAPTER_CONFIG)) and not os.path.isfile(os.path.join(name, "config.json")):
        raise UnknownNameError(f"{os.fspath(name)!r} is an adapter and no base model: pass it as adapter (--adapter)")
    if os.path.isdir(name):
        check_folder(name)
    return find_source(name, revision, **access)


DAMAGE = (
    SafetensorError,
    StrictDataclassError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What libraries raise that believe what the files of a model say."""


MISTAKES = (TypeError, ValueError)
"""Those of them that it also raises about arguments, where the user has given some."""


class _told_errors:
    """What transformers raises when files cannot be had, as one of our errors; one of its own where an adapter was
    taken for a base model."""

    def __init__(self, name: str | os.PathLike, access: dict[str, Any], options: dict[str, Any] | None = None):
        self.name, self.access = os.fspath(name), access
        self.options = dict(options or {})  # of the user, for transformers

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        is_told = isinstance(error, SSPromptError)
        is_missing = isinstance(error, OSError) and not is_told and error.errno is None
        is_unknown = isinstance(error, UnknownNameError) and HUB_ID.fullmatch(self.name)
        if (is_missing or is_unknown) and not os.path.exists(self.name) and self._is_adapter():
            raise AdapterError(
                f"{self.name!r} is an adapter and no base model: pass it as adapter={self.name!r}"
            ) from error
        is_damage = isinstance(error, DAMAGE) and not is_told and not is_out_of_memory(error)
        if is_damage and self.options and isinstance(error, MISTAKES) and not isinstance(error, StrictDataclassError):
            return  # the library says what it does not take
        if is_damage and os.path.isdir(self.name):
            raise CheckpointError(
                f"the model in {self.name!r} cannot be loaded, as its files do not belong together or are damaged "
                f"({type(error).__name__}: {' '.join(str(error).split())[:300]}): copy, download or convert them again"
            ) from error
        if not is_missing:
            return
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DownloadError(f"the base model {self.name!r} cannot be loaded: {reason}") from error

    def _is_adapter(self) -> bool:
        try:
            return find_adapter_config_file(self.name, **self.access) is not None
        except OSError:  # nothing is there
            return False


def random_base_model(
    name: str | os.PathLike, class_names: list[str], prompt_encoders: Iterable[str] = (), **access: Any
) -> tuple[nn.Module, PromptableImageProcessor]:
    """
    A model of the architecture of a base model, with random weights, and the base model's image processor. For names
    of `models/registry.py` nothing is downloaded; of a folder or a Hub id its configurations are read.

    Args:
        name, prompt_encoders, access: as of [`load_base_model`].
        class_names: of the random semantic prompts.

    Raises:
        as [`load_base_model`].
    """
    name = os.fspath(name)
    with _told_errors(name, access):
        family = find_family(name, **access)
        model, processor = family.random_model(name, class_names, _parts_for(family, prompt_encoders))
        known = BASE_MODELS.get(name)
        if known is not None and not known.embedded and not os.path.exists(name):
            return model, model.default_image_processor() or processor  # it may not have been downloaded
        return model, family.load_image_processor(family.resolve(name, **access), model, **access) or processor


def is_on_disk(name: str | os.PathLike, **access: Any) -> bool:
    """
    Whether the files of a base model are on this machine, so that nothing is downloaded to load it.

    Args:
        name, access: as of [`load_base_model`].

    Raises:
        UnknownNameError: no such name, or one that no files are published for.
    """
    access = access | {"local_files_only": True}
    try:
        with _told_errors(name, access):
            source = find_source(name, **access)
    except DownloadError:
        return False
    folder = access.get("cache_dir")
    return os.path.isdir(source.path) or any(
        isinstance(try_to_load_from_cache(source.path, file, folder, source.access["revision"]), str)
        for file in WEIGHT_FILES
    )


WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""One of which a model has."""


EXAMPLE_SIZE = (1024, 2048)
"""(height, width) of the image that memory is told for, where there is no other: Cityscapes'."""


def base_model_facts(
    name: str | os.PathLike,
    size: tuple[int, int] = EXAMPLE_SIZE,
    shorter_side: int | None = None,
    prompt_encoders: Iterable[str] = (NAMES, "spatial"),
    **access: Any,
) -> dict[str, Any]:
    """
    What a base model takes, told from its architecture: nothing but its configuration is read, and that of its image
    processor if it is a folder or a Hub id.

    Args:
        name: a name of `models/registry.py`, a folder or a Hub id.
        size: (height, width) of the images.
        shorter_side: that they are given; by default the image processor's.
        prompt_encoders: as of [`load_base_model`].
        access: as of [`load_base_model`].

    Returns:
        ready for JSON: `name`, `description`, `family`, `parameters` by part and `total`, `image_size` and
        `padded_size` (of pixel values), `cached_bytes` of an image by stage, in float32, `stages` (`spatial`: what can
        be cached while spatial prompts are learned, `semantic`: while no others are; smallest first), and
        `decoder_bytes` (`inference`, `training`; None where they are small beside the weights), of one image with one
        class more.

    Raises:
        as [`load_base_model`].
    """
    name = os.fspath(name)
    with _told_errors(name, access):
        family, known = find_family(name, **access), BASE_MODELS.get(name)
        with torch.random.fork_rng([]), torch.device("meta"):
            model, processor = random_base_model(name, ["class"], prompt_encoders, **access)
    if shorter_side is not None:
        processor = processor.with_image_size(shorter_side)
    padded_size = processor.padded_size(processor.resized_size(size))
    parameters = {part: sum(p.numel() for p in module.parameters()) for part, module in _parts(model).items()}
    stages = {"spatial": list(model.feature_stages(KINDS)), "semantic": list(model.feature_stages((SEMANTIC,)))}
    cached = {stage: model.feature_bytes(padded_size, stage) for stage in stages["spatial"] + stages["semantic"]}
    return {
        "name": name,
        "description": None if known is None else known.description,
        "family": family.name,
        "parameters": {part: count for part, count in parameters.items() if count}
        | {"total": sum(p.numel() for p in model.parameters())},
        "image_size": list(size),
        "padded_size": list(padded_size),
        "cached_bytes": cached,
        "stages": stages,
        "decoder_bytes": {
            use: model.decoder_bytes(padded_size, with_gradient=use == "training") for use in ("inference", "training")
        },
    }


def _parts(model: nn.Module) -> dict[str, nn.Module]:
    """What a model consists of, one level below a module that holds nearly everything."""
    parts = dict(model.named_children())
    total = sum(p.numel() for p in model.parameters())
    for name, part in list(parts.items()):
        if sum(p.numel() for p in part.parameters()) > 0.9 * total and any(True for _ in part.children()):
            parts |= dict(parts.pop(name).named_children())
    return parts


def describe_base_model(name: str | os.PathLike, **access: Any) -> str:
    """[`base_model_facts`] as text for a terminal."""
    facts = base_model_facts(name, **access)
    height, width = facts["image_size"]
    lines = [f"{'base model':<12} {facts['name']}" + (f": {facts['description']}" if facts["description"] else "")]
    lines += [f"{'family':<12} {facts['family']}", f"{'parameters':<12} {facts['parameters']['total'] / 1e6:.1f} M"]
    for part, count in facts["parameters"].items():
        if part != "total":
            lines.append(f"{'':<12} {part} {count / 1e6:.1f} M")
    padded = "x".join(map(str, facts["padded_size"]))
    lines.append(f"{'images':<12} {height}x{width} pixels become {padded}")
    for stage, count in facts["cached_bytes"].items():
        mib = f"{count / 2**20:.{0 if count >= 2**20 else 1}f}"
        lines.append(f"{'cache':<12} {mib} MiB an image ({stage}), half of it in float16")
    for use, count in facts["decoder_bytes"].items():
        if count is not None:
            lines.append(f"{'decoding':<12} about {count / 2**20:.0f} MiB a class for {use}")
    return "\n".join(lines)
