"""One processor for all of SEEM's inputs: images, spatial prompts and phrases."""

from typing import Any

from transformers import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack

from .image_processing_seem import PROMPT_ARGUMENTS, SeemImageProcessorKwargs
from .pretrained_names import ResolvesPretrainedNames


class SeemProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: SeemImageProcessorKwargs
    _defaults = {"text_kwargs": {"padding": True, "truncation": True}}


class SeemProcessor(ResolvesPretrainedNames, ProcessorMixin):
    r"""
    A [`SeemImageProcessor`] and a CLIP-like tokenizer.

    ```python
    inputs = processor(images=image, text=["the red car"], input_points=[[[[320, 200]]]], return_tensors="pt")
    ```

    Args:
        image_processor ([`SeemImageProcessor`]): prepares images and spatial prompts.
        tokenizer: prepares phrases; its end-of-text token must have the largest id.
    """

    valid_processor_kwargs = SeemProcessorKwargs

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | list[str] | None = None,
        segmentation_maps: ImageInput | None = None,
        instance_id_to_semantic_id: list[dict[int, int]] | dict[int, int] | None = None,
        **kwargs: Unpack[SeemProcessorKwargs],
    ) -> BatchFeature:
        """
        Prepare images, phrases or both.

        Args:
            images (`ImageInput`, *optional*): B images; see [`SeemImageProcessor.preprocess`].
            text (`str` or `list[str]`, *optional*): P phrases, looked for in every image.
            segmentation_maps, instance_id_to_semantic_id (*optional*): see [`SeemImageProcessor.preprocess`].
            input_points, input_labels, input_boxes, input_boxes_labels, input_scribbles, input_scribbles_labels,
            input_masks, input_masks_labels (*optional*): spatial prompts; see [`rasterize_prompts`].

        Returns:
            `BatchFeature`: the image processor's values, and `input_ids` and `attention_mask` (P, T) of the phrases.

        Raises:
            ValueError: if there is neither an image nor a phrase, prompts come without images, or as the image
                processor says.
        """
        prompts = {name: kwargs.pop(name) for name in PROMPT_ARGUMENTS if name in kwargs}
        if images is None and text is None:
            raise ValueError("Pass `images`, `text` or both.")
        init_kwargs = {} if text is None else self.tokenizer.init_kwargs
        merged = self._merge_kwargs(SeemProcessorKwargs, tokenizer_init_kwargs=init_kwargs, **kwargs)
        data = BatchFeature()
        if images is not None:
            data = self.image_processor(
                images,
                segmentation_maps=segmentation_maps,
                instance_id_to_semantic_id=instance_id_to_semantic_id,
                **prompts,
                **merged["images_kwargs"],
            )
        elif prompts or segmentation_maps is not None:
            raise ValueError(f"{sorted(prompts) or '`segmentation_maps`'} need the images that they belong to.")
        if text is not None:
            # A list even for one phrase: the model takes (P, T).
            phrases = [text] if isinstance(text, str) else list(text)
            if not phrases or not all(isinstance(phrase, str) and phrase.strip() for phrase in phrases):
                raise ValueError(f"`text` must be a phrase or a list of non-empty phrases, got {text!r}.")
            encoding = self.tokenizer(phrases, **merged["text_kwargs"])
            data.update({name: encoding[name] for name in ("input_ids", "attention_mask")})
        return data

    @property
    def model_input_names(self) -> list[str]:
        return [*self.image_processor.model_input_names, "input_ids", "attention_mask"]

    def post_process_semantic_segmentation(self, *args: Any, **kwargs: Any) -> Any:
        """See [`SeemImageProcessor.post_process_semantic_segmentation`]."""
        return self.image_processor.post_process_semantic_segmentation(*args, **kwargs)

    def post_process_instance_segmentation(self, *args: Any, **kwargs: Any) -> Any:
        """See [`SeemImageProcessor.post_process_instance_segmentation`]."""
        return self.image_processor.post_process_instance_segmentation(*args, **kwargs)

    def post_process_panoptic_segmentation(self, *args: Any, **kwargs: Any) -> Any:
        """See [`SeemImageProcessor.post_process_panoptic_segmentation`]."""
        return self.image_processor.post_process_panoptic_segmentation(*args, **kwargs)

    def post_process_grounding(self, *args: Any, **kwargs: Any) -> Any:
        """See [`SeemImageProcessor.post_process_grounding`]."""
        return self.image_processor.post_process_grounding(*args, **kwargs)

    def post_process_spatial(self, *args: Any, **kwargs: Any) -> Any:
        """See [`SeemImageProcessor.post_process_spatial`]."""
        return self.image_processor.post_process_spatial(*args, **kwargs)
