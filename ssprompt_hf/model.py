"""`SSPromptModel`: a base model and its adapters, from names to pictures."""

import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from torch import nn

from .adapters.card import write_card
from .adapters.files import CARD, AdapterFiles, fetch_adapter, read_adapter, replacing_folder
from .adapters.upload import uploaded_folder
from .data.image_inputs import ImageLike
from .errors import AdapterError, SSPromptError
from .loading import load_model_and_adapter
from .models.image_processing import MAX_IMAGE_SIZE, PromptableImageProcessor
from .prediction import EncodedImage, encode_image, predict_classes, predict_prompts
from .segmentation.prompted import PromptedResult
from .segmentation.results import SegmentationResult
from .tuners import PromptConfig, PromptTuner
from .tuners.base.config import ANY_BASE_MODEL, check_range
from .utils.names import file_name


class SSPromptModel(PeftModel):
    """
    A [`~peft.PeftModel`] that finds base models and adapters by name, predicts from images, and writes adapters with
    their card.

    ```python
    model = SSPromptModel.from_pretrained("seem-lite", adapter="my-adapter")
    result = model.predict("street.jpg")
    result.overlay().save("overlay.png")
    ```

    Everything that PEFT offers works on it. A model loaded for inference keeps the active adapter merged into the
    base model; switching, disabling and training take it out by themselves.

    Args:
        model ([`PromptableModel`]): the base model.
        peft_config ([`PromptConfig`]): configuration of the first adapter.
        adapter_name (`str`, *optional*, defaults to `"default"`): its name.
        image_processor ([`PromptableImageProcessor`], *optional*): prepares images; needed by `predict`.
        kwargs: as for `PeftModel`.
    """

    # Class attributes, as PEFT's constructor already calls methods that ask for them.
    _keep_merged = False
    _num_disabling = 0
    image_processor = None
    _access: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        model: nn.Module,
        peft_config: PromptConfig,
        adapter_name: str = "default",
        image_processor: PromptableImageProcessor | None = None,
        **kwargs,
    ):
        super().__init__(model, peft_config, adapter_name, **kwargs)
        self.image_processor = image_processor or model.default_image_processor()

    @classmethod
    def from_pretrained(
        cls,
        base: str | os.PathLike | nn.Module | None = None,
        adapter: str | os.PathLike | None = None,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: PromptConfig | None = None,
        class_names: list[str] | None = None,
        thing_class_ids: list[int] | None = None,
        keep_prompt_encoders: bool = False,
        check_base_model: bool = True,
        namespace: str | None = None,
        revision: str | None = None,
        adapter_revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> "SSPromptModel":
        """
        Load a base model and, if one is named, an adapter.

        Args:
            base: a name such as `"seem-t"`, a folder, a Hub id, or a model. Without it, the one the adapter names.
            adapter: a folder, a Hub id, or a bare name under `namespace`. Without it the model starts with an
                untrained adapter, which changes nothing.
            adapter_name: what the adapter is called in this model.
            is_trainable: keep the adapter apart, ready to be trained, in place of merging it.
            config: configuration of the untrained adapter; by default `SSPromptConfig()`.
            class_names, thing_class_ids: give the base model other classes first; needs its text encoder and its
                tokenizer, and no `adapter`, which brings its own.
            keep_prompt_encoders: keep the text encoder and the encoder of strokes, which segmentation by class names
                has no use for once the class embeddings are known.
            check_base_model: refuse an adapter that was made for another base model.
            namespace, adapter_revision: where a bare adapter name is looked up, and which version of it is taken.
            revision, cache_dir, token, local_files_only: as for transformers' models.
            kwargs: for the base model's `from_pretrained`, such as `dtype` or `device_map`; and `text_encoder`, the
                folder or Hub id of what base models without one (SAM, SAM 2) borrow for methods that learn words.

        Raises:
            UnknownNameError, DownloadError: something cannot be found.
            AdapterError: the adapter's files are damaged, or do not fit the base model.
        """
        access = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
        made = load_model_and_adapter(
            base,
            adapter,
            is_trainable,
            config,
            class_names,
            thing_class_ids,
            keep_prompt_encoders,
            check_base_model,
            namespace,
            revision,
            adapter_revision,
            access,
            **kwargs,
        )
        loaded = cls(made.model, made.config, adapter_name, image_processor=made.image_processor)
        if made.files is not None:
            set_peft_model_state_dict(loaded, made.files.tensors, adapter_name)
        loaded.eval()
        loaded._access = made.access
        loaded._keep_merged = not is_trainable
        loaded._merge_if_kept()
        return loaded

    def get_base_model(self) -> nn.Module:
        """As in PEFT, also when no adapter is left."""
        return self.base_model.model

    def __getstate__(self) -> dict[str, Any]:
        """Without the token, which is no business of whoever gets a pickled model."""
        return self.__dict__ | {"_access": {key: value for key, value in self._access.items() if key != "token"}}

    # Merging, for inference

    def _merge_if_kept(self) -> None:
        can_merge = self.active_adapters and not self._adapters_disabled and not self.training
        with self.base_model.lock:
            if self._keep_merged and can_merge and not any(layer.merged for layer in self.base_model.prompt_layers()):
                self.base_model.merge_adapter()

    @contextmanager
    def _unmerged(self) -> Iterator[None]:
        with self.base_model.lock:
            self.base_model.unmerge_adapter()
            try:
                yield
            finally:
                self._merge_if_kept()

    def merge(self) -> nn.Module:
        """The base model with the active adapter's prompts and class names for good, free of PEFT. To keep it, save
        `image_processor` into the same folder, which knows the size of images."""
        return self.merge_and_unload()

    def train(self, mode: bool = True) -> "SSPromptModel":
        """As in PyTorch, but the frozen base model stays in evaluation mode."""
        super().train(mode)
        if isinstance(getattr(self, "base_model", None), PromptTuner):
            if mode:
                self.base_model.unmerge_adapter()
            else:
                self._merge_if_kept()
        return self

    # Adapters

    def add_adapter(self, adapter_name: str, peft_config: PromptConfig, *args: Any, **kwargs: Any) -> None:
        """As in PEFT; adapters of different methods may live together, of which one is active."""
        self.peft_type = peft_config.peft_type  # PEFT would refuse any but the method of the first adapter
        with self._unmerged():
            super().add_adapter(adapter_name, peft_config, *args, **kwargs)

    @functools.wraps(PromptTuner.add_weighted_adapter)
    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        with self._unmerged():
            self.base_model.add_weighted_adapter(*args, **kwargs)

    @functools.wraps(PromptTuner.join_adapters)
    def join_adapters(self, *args: Any, **kwargs: Any) -> None:
        with self._unmerged():
            self.base_model.join_adapters(*args, **kwargs)

    def load_adapter(
        self,
        model_id: str | os.PathLike,
        adapter_name: str | None = None,
        is_trainable: bool = False,
        namespace: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        check_base_model: bool = True,
        **kwargs: Any,
    ) -> Any:
        """
        Load a further adapter, or new weights for one that is there. `set_adapter` makes it the active one.

        Args:
            model_id: a folder, a Hub id, or a bare name under `namespace`.
            adapter_name: what to call it; by default the last part of `model_id`, with a number if that is taken.
            is_trainable: as in PEFT.
            namespace, revision, cache_dir, token, local_files_only, check_base_model: as in `from_pretrained`.
            kwargs: PEFT's options about devices and precision, which prompts are too small to have a use for.

        Returns:
            as in PEFT, the missing and unexpected keys (there are none).

        Raises:
            UnknownNameError, DownloadError: the adapter cannot be found.
            AdapterError: its files are damaged, or do not fit the base model.
        """
        folder = fetch_adapter(model_id, namespace, revision, cache_dir, token, local_files_only)
        files = read_adapter(folder)
        if adapter_name is None:
            # `train` calls every folder "adapter", so a taken name does not mean that the adapter is to be replaced
            stem = Path(os.fspath(model_id)).resolve().name.replace(".", "_")
            names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
            adapter_name = next(name for name in names if name not in self.peft_config)
        with self._unmerged():
            if adapter_name in self.peft_config:
                config = self.peft_config[adapter_name]
                records = vars(config).copy()
                config.take_records(files.config, str(folder), adapter_name, check_base_model)
                try:
                    return set_peft_model_state_dict(self, files.tensors, adapter_name)
                except AdapterError:
                    vars(config).update(records)
                    raise
            return self._add_loaded(adapter_name, files, is_trainable, check_base_model)

    def _add_loaded(self, adapter_name: str, files: AdapterFiles, is_trainable: bool, check_base_model: bool):
        config = files.config
        config.inference_mode = not is_trainable
        if not check_base_model:
            config.base_model_fingerprint = ANY_BASE_MODEL
        self.add_adapter(adapter_name, config)
        try:
            result = set_peft_model_state_dict(self, files.tensors, adapter_name)
        except AdapterError:  # half an adapter is of no use to anybody
            super().delete_adapter(adapter_name)
            raise
        if is_trainable:
            self.set_requires_grad(adapter_name)
        return result

    def set_adapter(self, adapter_name: str, inference_mode: bool = False) -> None:
        """Make an adapter the active one; the model's class names become its own."""
        with self._unmerged():
            super().set_adapter(adapter_name, inference_mode=inference_mode or self._keep_merged)

    def delete_adapter(self, adapter_name: str) -> None:
        """As in PEFT."""
        with self._unmerged():
            super().delete_adapter(adapter_name)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """The base model as it was, with its own classes. See `zero_shot` for its answers about the adapter's."""
        with self.base_model.lock:
            if self._num_disabling == 0:
                self.base_model.unmerge_adapter()
                self._disabling = ExitStack()
                self._disabling.enter_context(super().disable_adapter())
            self._num_disabling += 1
        try:
            yield
        finally:
            with self.base_model.lock:
                self._num_disabling -= 1
                if self._num_disabling == 0:  # no other thread, and no block around this one
                    self._disabling.close()
                    self._merge_if_kept()

    # Files

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        safe_serialization: bool = True,
        selected_adapters: list[str] | None = None,
        is_main_process: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Write the adapters, each with its card: `"default"` to the folder itself, others to sub-folders, as in PEFT.
        Every file appears whole or not at all.

        Raises:
            AdapterError: `safe_serialization=False`, as pickles are not written; or there is no adapter.
        """
        if not safe_serialization:
            raise AdapterError("adapters are written as safetensors only: leave safe_serialization=True")
        if not self.peft_config:
            raise AdapterError("there is no adapter to save: the last one has been deleted")
        if not is_main_process:
            return
        selected = list(self.peft_config) if selected_adapters is None else list(selected_adapters)
        if wrong := [name for name in selected if name != file_name(name)]:
            raise AdapterError(
                f"the adapter {wrong[0]!r} would be saved into a folder of that name, which cannot be one"
            )
        with replacing_folder(save_directory) as folder:
            # Prompts are no vocabulary; PEFT would ask the Hub for the base model's.
            kwargs["save_embedding_layers"] = False
            super().save_pretrained(folder, selected_adapters=selected, **kwargs)
            for name in selected:
                own = Path(folder) if name == "default" else Path(folder, name)
                self._write_card(own, name, adapter=Path(save_directory).name)

    def create_or_update_model_card(self, output_dir: str) -> None:
        """Write the card of the active adapter, unless another file is there."""
        if not Path(output_dir, CARD).exists() and isinstance(self.active_adapter, str):
            self._write_card(Path(output_dir), self.active_adapter, adapter=Path(output_dir).name)

    def _write_card(self, folder: Path, adapter_name: str, adapter: str) -> None:
        learned = (
            getattr(layer, attribute)[adapter_name].numel()
            for layer in self.base_model.prompt_layers()
            for attribute in layer.adapter_layer_names
            if adapter_name in getattr(layer, attribute)
            and attribute not in layer.frozen_peft_weight_names.get(adapter_name, ())
        )
        write_card(folder, self.peft_config[adapter_name], sum(learned), adapter)

    def push_to_hub(
        self,
        repo_id: str,
        adapter_name: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """
        Upload one adapter, by default the active one, with its card.

        Args:
            repo_id: `user/name`, or a name under your own account; made if it is not there.
            adapter_name: which adapter.
            commit_message, private, token, revision, create_pr: as for transformers' models.

        Returns:
            the address of the commit.
        """
        adapter_name = adapter_name or self.active_adapter
        with uploaded_folder(repo_id, commit_message, private, token, revision, create_pr) as upload:
            self.save_pretrained(upload.folder, selected_adapters=[adapter_name])
            if adapter_name != "default":
                upload.folder = upload.folder / adapter_name
            self._write_card(upload.folder, adapter_name, adapter=upload.repo_id)
        return upload.address

    # Prediction

    @torch.no_grad()
    def predict(
        self,
        images: ImageLike | EncodedImage | list[ImageLike],
        task: str | None = None,
        batch_size: int = 1,
        threshold: float | None = None,
        image_size: int | None = None,
        adapter: str | None = None,
        min_area: int | None = None,
        tile: int | None = None,
        *,
        points: Any = None,
        labels: Any = None,
        boxes: Any = None,
        box_labels: Any = None,
        scribbles: Any = None,
        scribble_labels: Any = None,
        text: str | list[str] | None = None,
        connected: bool = False,
    ) -> SegmentationResult | PromptedResult | list[SegmentationResult] | list[PromptedResult]:
        """
        Segment images by classes; or find what is pointed at (`points`, `boxes`, `scribbles`) or named (`text`).
        Several threads may do so at the same time, with one adapter each.

        Args:
            images: a PIL image, an array (H, W, 3) of uint8, a file, a folder (all images in and below it), or a list
                of these; or an `EncodedImage`. Files and PIL images are turned upright as their EXIF data says.
            task: `"semantic"`, `"instance"` or `"panoptic"`; by default the adapter's. Instances, and panoptic
                segments that stay apart, are those of the thing classes (`thing_class_ids`): of the adapter, or of
                the base model. Where class names were given without, every class is a thing, as `set_class_names`
                has it.
            batch_size: images per pass of the model.
            threshold: least score of instances and panoptic segments; by default the image processor's.
            image_size: shorter side in pixels to which images are resized; by default the adapter's, or the
                processor's.
            adapter: name of the adapter to predict with; by default the active one. The active adapter, which is the
                model's, stays the same: threads that want different ones name them here.
            min_area: pixels of the smallest instance, panoptic segment or mask of a phrase; by default a
                ten-thousandth of the image.
            tile: side in pixels of squares in which large images are looked at one after the other, for more detail
                and less memory; semantic segmentation only. By default images are looked at as a whole.
            points, labels, boxes, box_labels, scribbles, scribble_labels, text, connected: x, y in pixels, and
                phrases: see [`~ssprompt_hf.segmentation.visual_prompts.read_prompts`]. The base model answers,
                whatever adapter is active or named; see [`~ssprompt_hf.prediction.predict_prompts`].

        Returns:
            one result for one image, otherwise a list in the order of the images.

        Raises:
            NoImagesError: a folder without images, or a path that is not there.
            UnreadableFileError: a file that is no image.
            SSPromptError: an array that is no image, a size below 1, or a threshold that is no score.
            AdapterError: an unknown task or adapter.
        """
        if batch_size < 1:
            raise SSPromptError(f"batch_size is {batch_size}; it must be at least 1")
        check_range("image_size", image_size, 1, MAX_IMAGE_SIZE)
        prompts = {"points": points, "labels": labels, "boxes": boxes, "box_labels": box_labels, "text": text}
        prompts |= {"scribbles": scribbles, "scribble_labels": scribble_labels, "connected": connected or None}
        if asked := {name: value for name, value in prompts.items() if value is not None}:
            return predict_prompts(self, images, asked, adapter, threshold, image_size, min_area, task=task, tile=tile)
        with self.base_model.use_adapter(adapter) as call:
            return predict_classes(self, call, images, task, batch_size, threshold, image_size, min_area, tile)

    encode_image = encode_image

    def sized_image_processor(self, image_size: int | None) -> PromptableImageProcessor:
        """
        The base model's image processor, for images with a shorter side of `image_size` pixels (None: as it is).

        Raises:
            SSPromptError: the model was made without one.
        """
        if self.image_processor is None:
            raise SSPromptError(
                f"{type(self).__name__} was made without an image processor: pass image_processor, or load the base "
                "model by its name"
            )
        return self.image_processor if image_size is None else self.image_processor.with_image_size(image_size)
