"""SEEM: segment everything everywhere all at once, by class names, phrases, strokes or reference regions."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from ...data.classes import IGNORE_INDEX
from ...errors import SSPromptError
from ..forward import model_forward
from ..matching import segments_of_classes, universal_segmentation_loss
from ..transformers_compat import LoadsPromptAdapters, can_return_tuple
from .answers import SeemAnswers
from .backbones.build import build_backbone
from .configuration_seem import SeemConfig
from .decoding import SeemDecoding, best_stroke_queries, chosen_masks, mask_logits
from .mask_decoder import SeemMaskDecoder
from .outputs import SeemForUniversalSegmentationOutput, SeemImageFeatures, SeemModelOutput, SeemQueryStates, in_order
from .pixel_decoder import build_pixel_decoder, init_deformable_weights
from .pretrained_names import ResolvesPretrainedNames
from .prompt_slots import (
    SeemClassEmbeddings,
    SeemClassMasks,
    SeemDeepPrompts,
    SeemObjectQueries,
    SeemPointCoordinates,
    SeemPointTokens,
)
from .prompting import SeemPrompting
from .spatial_prompts import SeemSpatialPromptEncoder, SeemSpatialPrompts
from .text_encoder import SeemTextModel

EMPTY_SLOTS = SeemClassEmbeddings, SeemClassMasks, SeemDeepPrompts, SeemPointTokens, SeemPointCoordinates


class SeemPreTrainedModel(ResolvesPretrainedNames, PreTrainedModel):
    config_class = SeemConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["SeemMaskDecoderLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        init_deformable_weights(module)
        std = self.config.initializer_range
        if isinstance(module, SeemObjectQueries):
            init.normal_(module.weight)
        elif isinstance(module, SeemMaskDecoder):
            init.normal_(module.query_positions)
            init.normal_(module.level_embeddings)
        elif isinstance(module, SeemSpatialPromptEncoder):
            init.normal_(module.polarity)
        elif isinstance(module, EMPTY_SLOTS):
            if module.weight is not None:
                init.zeros_(module.weight)
        elif isinstance(module, SeemModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if module.memory_features is not None:
                init.normal_(module.memory_features, std=std)
                init.normal_(module.memory_positions, std=std)


class SeemModel(SeemDecoding, SeemPreTrainedModel):
    """SEEM without its heads: image features, prompt encoders and the mask decoder."""

    def __init__(self, config: SeemConfig):
        super().__init__(config)
        self.backbone = build_backbone(config.backbone_config)
        self.pixel_decoder = build_pixel_decoder(config, self.backbone.channels)
        self.mask_decoder = SeemMaskDecoder(config)
        self.object_queries = SeemObjectQueries(config.num_queries, config.hidden_dim)
        self.point_tokens = SeemPointTokens(config.num_point_tokens, config.hidden_dim)
        self.point_coordinates = SeemPointCoordinates(config.num_point_coordinates)
        self.deep_prompts = SeemDeepPrompts(config.num_deep_prompts, config.num_queries, config.hidden_dim)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.spatial_prompt_encoder = None
        self.memory_features = self.memory_positions = None
        if config.use_spatial_prompt_encoder:
            self.spatial_prompt_encoder = SeemSpatialPromptEncoder(
                config.hidden_dim,
                config.max_spatial_points,
                empty_value=0.0 if config.decoder_version == "v0" else -1.0,
            )
            self.memory_features = nn.Parameter(torch.empty(config.num_spatial_memories, config.hidden_dim))
            self.memory_positions = nn.Parameter(torch.empty(config.num_spatial_memories, config.hidden_dim))
        self.text_model = SeemTextModel(config.text_config, config.projection_dim) if config.use_text_model else None
        self.post_init()

    def get_image_features(self, pixel_values: torch.Tensor, prepare: bool = True) -> SeemImageFeatures:
        """Everything the decoder needs of `pixel_values` `(B, 3, H, W)`, normalised and padded, H and W multiples of
        `config.size_divisibility`. Without `prepare` the decoder projects keys and values itself, at every call."""
        height, width = pixel_values.shape[-2:]
        if height % self.config.size_divisibility or width % self.config.size_divisibility:
            raise ValueError(
                f"pixel_values are {height}x{width} pixels; height and width must be multiples of "
                f"{self.config.size_divisibility}: use SeemImageProcessor, which pads the images"
            )
        feature_maps = self.backbone(pixel_values.to(self.dtype)).feature_maps
        mask_features, multi_scale_features = self.pixel_decoder(feature_maps)
        features = SeemImageFeatures(
            mask_features=mask_features,
            multi_scale_features=tuple(multi_scale_features),
            padded_size=(height, width),
        )
        return self.mask_decoder.prepare(features) if prepare else features

    def get_spatial_prompts(
        self,
        image_features: SeemImageFeatures,
        positive_prompt_masks: torch.Tensor,
        negative_prompt_masks: torch.Tensor | None = None,
    ) -> SeemSpatialPrompts:
        """Embeddings of strokes `(B, objects, H, W)`, bool, over the padded image. They can be applied to any other
        image by passing them as `reference_prompts`."""
        if self.spatial_prompt_encoder is None:
            raise ValueError("this model has no spatial prompt encoder: load it with use_spatial_prompt_encoder=True")
        if self.config.decoder_version == "v0" and positive_prompt_masks.shape[1] != 1:
            raise ValueError(
                f"decoder v0 segments one object per image and call, {positive_prompt_masks.shape[1]} were given: "
                "pass one object at a time (image_features can be reused), or use a v1 model"
            )
        batch_size = len(positive_prompt_masks)
        levels = self.mask_decoder.level_features(image_features)
        return self.spatial_prompt_encoder(
            image_features.expand(batch_size).mask_features,
            tuple(level.expand(batch_size, *level.shape[1:]) for level in levels),
            positive_prompt_masks,
            negative_prompt_masks,
        )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        image_features: SeemImageFeatures | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        positive_prompt_masks: torch.Tensor | None = None,
        negative_prompt_masks: torch.Tensor | None = None,
        reference_prompts: SeemSpatialPrompts | None = None,
        previous_masks: torch.Tensor | None = None,
        spatial_query_indices: torch.Tensor | None = None,
        output_objects: bool | None = None,
        output_auxiliary_predictions: bool = False,
        image_sizes: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> SeemModelOutput | tuple:
        """
        Args:
            pixel_values: `(B, 3, H, W)`, normalised and padded; or
            image_features: of an earlier call. One image serves any number of prompts: features of batch size 1 are
                expanded to the batch of the prompts.
            input_ids, attention_mask: `(phrases, T)`, looked for in every image, or `(B, phrases, T)`, where phrases
                that are all padding are not seen by the others.
            positive_prompt_masks, negative_prompt_masks: `(B, objects, H, W)`, bool: strokes, points, boxes or masks.
            reference_prompts: strokes on another image, from `get_spatial_prompts`.
            previous_masks: `(B, objects, h, w)`, mask logits of the round before.
            spatial_query_indices: `(queries,)`, which object queries are copied for strokes; by default the first.
            output_objects: whether the object queries are decoded. By default only if there is no other prompt.
            output_auxiliary_predictions: also return the answers before each layer.
            image_sizes: `(B, 2)`, height and width of each image without padding; only points given by their place
                (`SeemPointCoordinates`) depend on it.
            output_hidden_states, output_attentions, return_dict: as in transformers' models; of the object queries.

        Raises:
            ValueError: prompts do not fit the images, each other or the model.
        """
        if positive_prompt_masks is None and negative_prompt_masks is not None:
            raise ValueError("negative_prompt_masks were passed without positive_prompt_masks: pass both")
        has_strokes = positive_prompt_masks is not None or reference_prompts is not None
        has_prompts = has_strokes or input_ids is not None
        if output_objects is None:
            output_objects = not has_prompts
        if image_features is None:
            if pixel_values is None:
                raise ValueError("pass pixel_values or image_features")
            # Prompts come in rounds, which share keys and values; generic segmentation asks once.
            image_features = self.get_image_features(pixel_values, prepare=has_prompts)
        elif output_objects + has_strokes + (input_ids is not None) > 1:
            image_features = self.mask_decoder.prepare(image_features)
        output = SeemModelOutput(image_features=image_features)
        if output_objects:
            self._decode_objects(
                image_features,
                output,
                image_sizes,
                output_auxiliary_predictions,
                self.config.output_hidden_states if output_hidden_states is None else output_hidden_states,
                self.config.output_attentions if output_attentions is None else output_attentions,
            )
        if input_ids is not None:
            self._decode_phrases(image_features, output, input_ids, attention_mask)
        if has_strokes:
            prompts = reference_prompts
            if prompts is None:
                prompts = self.get_spatial_prompts(image_features, positive_prompt_masks, negative_prompt_masks)
            self._decode_strokes(image_features, output, prompts, previous_masks, spatial_query_indices)
        return in_order(output)


class SeemForUniversalSegmentation(LoadsPromptAdapters, SeemAnswers, SeemPrompting, SeemPreTrainedModel):
    """SEEM with masks and class scores: semantic, instance and panoptic segmentation, grounding and interaction."""

    # A model may be loaded without the parts that its prompts do not need.
    _keys_to_ignore_on_load_unexpected = list(SeemPrompting.optional_parts)
    unnamed_arguments = ("labels",)

    def __init__(self, config: SeemConfig):
        super().__init__(config)
        self.model = SeemModel(config)
        num_classes = None if config.class_names is None else len(config.class_names)
        self.class_embeddings = SeemClassEmbeddings(
            num_classes, config.projection_dim, config.prompts_per_class, config.class_bias
        )
        self.class_masks = SeemClassMasks(config.num_class_masks, config.mask_feature_size)
        self.post_init()

    def get_text_model(self) -> SeemTextModel | None:
        """The text encoder; None if it was not loaded or has been dropped."""
        return self.model.text_model

    def get_image_features(self, pixel_values: torch.Tensor, prepare: bool = True) -> SeemImageFeatures:
        """See `SeemModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, prepare)

    def get_spatial_prompts(self, *args: Any, **kwargs: Any) -> SeemSpatialPrompts:
        """See `SeemModel.get_spatial_prompts`."""
        return self.model.get_spatial_prompts(*args, **kwargs)

    def class_logits(self, class_embeds: torch.Tensor, class_embeddings: torch.Tensor) -> torch.Tensor:
        """Scaled cosine similarity of `class_embeds` `(B, Q, D)` with `class_embeddings` `(C, D)` or `(B, C, D)`,
        which are taken as they are: `(B, Q, C)`. With several times as many columns, a class has several embeddings,
        and the most similar one counts. With a column more, that is added to the logits of each class."""
        width, bias = class_embeds.shape[-1], None
        count, more = divmod(class_embeddings.shape[-1], width)
        if count == 0 or more > 1:
            raise ValueError(
                f"class_embeddings of shape {tuple(class_embeddings.shape)} must have {width} columns "
                "(projection_dim) or a multiple of them, or one more for a bias"
            )
        if more:
            class_embeddings, bias = class_embeddings.split([count * width, 1], dim=-1)
        class_embeds = class_embeds / (class_embeds.norm(dim=-1, keepdim=True) + 1e-7)
        scaled = self.model.logit_scale.exp() * class_embeds
        # one by one, so that equal embeddings give what a single one gives, to the bit
        singles = class_embeddings.split(width, dim=-1)
        similarities = [scaled @ single.contiguous().transpose(-1, -2) for single in singles]
        # of equal ones the first alone has a gradient, which sets equal prompts apart
        logits = similarities[0] if count == 1 else torch.stack(similarities).max(dim=0).values
        return logits if bias is None else logits + bias.transpose(-1, -2)

    def decode_class_masks(self, mask_features: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The masks of the classes in `mask_features` `(B, mask_feature_size, h, w)`, logits `(B, classes, h, w)`, and
        their shares `(classes,)`; None twice where classes have none."""
        weight = self.class_masks.weight
        if weight is None:
            return None, None
        vectors, bias, shares = weight.to(mask_features.dtype).tensor_split([-2, -1], dim=1)
        masks = mask_logits(vectors.expand(mask_features.shape[0], -1, -1), mask_features)
        return masks + bias[:, :, None], shares[:, 0]

    @model_forward
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        image_features: SeemImageFeatures | None = None,
        image_sizes: torch.Tensor | None = None,
        original_sizes: torch.Tensor | None = None,
        class_embeddings: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        positive_prompt_masks: torch.Tensor | None = None,
        negative_prompt_masks: torch.Tensor | None = None,
        reference_prompts: SeemSpatialPrompts | None = None,
        previous_masks: torch.Tensor | None = None,
        spatial_query_indices: torch.Tensor | None = None,
        output_objects: bool | None = None,
        output_auxiliary_predictions: bool = False,
        class_queries_embeds: torch.Tensor | None = None,
        masks_queries_logits: torch.Tensor | None = None,
        class_masks_logits: torch.Tensor | None = None,
        padded_size: tuple[int, int] | None = None,
        mask_labels: list[torch.Tensor] | None = None,
        class_labels: list[torch.Tensor] | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SeemForUniversalSegmentationOutput | tuple:
        """
        Args:
            image_sizes, original_sizes: `(B, 2)`, from the image processor; handed through to post-processing. The
                network itself sees the padding, as the official one does (see `SeemModel.forward` for the exception).
            class_embeddings: `(classes + 1, projection_dim)`, or one such matrix per image, last row "background".
                By default those of `set_class_names`.
            class_queries_embeds, masks_queries_logits, padded_size: of an earlier call about the same images, in place
                of `pixel_values`: class embeddings enter only the last similarity, and nothing else is computed anew.
            class_masks_logits: of the same call, if it had them; without effect where `class_embeddings` are given.
            mask_labels, class_labels: one `(M, H, W)` and one int64 `(M,)` an image, over the padded image: the
                segments to learn. The output then has the loss of Mask2Former, summed over the decoder layers (the
                last one alone with `use_auxiliary_loss=False` in `config`).
            labels: int64 `(B, H, W)`, in place of these two: class maps, 255 where there is no class; each class of
                an image is a segment. Not in the signature, from which `transformers.Trainer` takes the names of the
                labels that it waits for in evaluation: give it `label_names=["labels"]`.

            The other arguments are those of `SeemModel.forward`.

        Raises:
            SSPromptError: labels that do not fit the images, each other or the classes.
            TypeError: an unknown argument.
        """
        if mask_labels is None and kwargs.get("labels") is not None:
            mask_labels, class_labels = segments_of_classes(kwargs["labels"], IGNORE_INDEX)
        if (mask_labels is None) != (class_labels is None):
            raise SSPromptError("pass mask_labels and class_labels, both or neither")
        if class_queries_embeds is not None:
            if masks_queries_logits is None:
                raise ValueError("class_queries_embeds were passed without masks_queries_logits: pass both or neither")
            class_masks = self.class_masks.weight
            if class_embeddings is not None or class_masks is None:
                class_masks_logits = None  # which were those of other classes, or are out of force
            if class_embeddings is None:
                class_embeddings = self._own_class_embeddings()
            output = SeemForUniversalSegmentationOutput(
                class_queries_logits=self.class_logits(
                    class_queries_embeds, class_embeddings.to(class_queries_embeds.dtype)
                ),
                masks_queries_logits=masks_queries_logits,
                class_masks_logits=class_masks_logits,
                class_masks_shares=None if class_masks_logits is None else class_masks[:, -1],
                class_queries_embeds=class_queries_embeds,
                padded_size=padded_size,
                image_sizes=image_sizes,
                original_sizes=original_sizes,
            )
            if mask_labels is not None:
                output.loss = self._loss(output, mask_labels, class_labels)
            return in_order(output)
        if output_objects is None and (class_embeddings is not None or mask_labels is not None):
            output_objects = True
        with_earlier_losses = mask_labels is not None and self.config.use_auxiliary_loss
        states = self.model(
            pixel_values=pixel_values,
            image_features=image_features,
            input_ids=input_ids,
            attention_mask=attention_mask,
            positive_prompt_masks=positive_prompt_masks,
            negative_prompt_masks=negative_prompt_masks,
            reference_prompts=reference_prompts,
            previous_masks=previous_masks,
            spatial_query_indices=spatial_query_indices,
            output_objects=output_objects,
            output_auxiliary_predictions=output_auxiliary_predictions or with_earlier_losses,
            image_sizes=image_sizes,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        mask_features = states.image_features.mask_features
        output = SeemForUniversalSegmentationOutput(
            image_features=states.image_features,
            padded_size=states.image_features.padded_size,
            image_sizes=image_sizes,
            original_sizes=original_sizes,
            hidden_states=states.hidden_states,
            attentions=states.attentions,
            cross_attentions=states.cross_attentions,
        )
        if states.object_states is not None:
            if class_embeddings is None:
                class_embeddings = self._own_class_embeddings()
                output.class_masks_logits, output.class_masks_shares = self.decode_class_masks(mask_features)
            output.class_queries_embeds = states.object_states.class_embeds
            output.mask_queries_embeds = states.object_states.mask_embeds
            output.class_queries_logits, output.masks_queries_logits = self._predictions(
                states.object_states, class_embeddings, mask_features
            )
        if states.auxiliary_states is not None:
            output.auxiliary_predictions = tuple(
                dict(
                    zip(
                        ("class_queries_logits", "masks_queries_logits"),
                        self._predictions(auxiliary, class_embeddings, mask_features),
                    )
                )
                for auxiliary in states.auxiliary_states
            )
        if mask_labels is not None:
            output.loss = self._loss(output, mask_labels, class_labels)
            if not output_auxiliary_predictions:
                output.auxiliary_predictions = None
        if states.phrase_states is not None:
            similarity = self._phrase_similarity(states)
            output.grounding_scores, best = similarity.max(dim=1)
            output.grounding_masks_logits = chosen_masks(states.phrase_states, best, mask_features)
        if states.spatial_states is not None:
            best = best_stroke_queries(states.spatial_states, states.spatial_prompts)
            output.spatial_masks_logits = chosen_masks(states.spatial_states, best, mask_features)
        return in_order(output)

    def _own_class_embeddings(self) -> torch.Tensor:
        class_embeddings = self.class_embeddings.weight
        if class_embeddings is None:
            raise ValueError("no classes: call set_class_names(names, tokenizer) or pass class_embeddings")
        return class_embeddings

    def _loss(
        self,
        output: SeemForUniversalSegmentationOutput,
        mask_labels: list[torch.Tensor],
        class_labels: list[torch.Tensor],
    ) -> torch.Tensor:
        if output.class_queries_logits is None:
            raise SSPromptError("labels were passed with output_objects=False: it is the object queries that learn")
        layers = [output, *(output.auxiliary_predictions or ())] if self.config.use_auxiliary_loss else [output]
        predictions = [(layer["class_queries_logits"], layer["masks_queries_logits"]) for layer in layers]
        return universal_segmentation_loss(predictions, mask_labels, class_labels)

    def _predictions(self, states: SeemQueryStates, class_embeddings: torch.Tensor, mask_features: torch.Tensor):
        class_logits = self.class_logits(states.class_embeds, class_embeddings.to(states.class_embeds.dtype))
        return class_logits, mask_logits(states.mask_embeds, mask_features)

    def _phrase_similarity(self, states: SeemModelOutput) -> torch.Tensor:
        """`(B, Q, phrases)`: scaled cosine of every query with every phrase; the scale is clamped here, and only here,
        in the official code."""
        queries = states.phrase_states.class_embeds
        queries = queries / (queries.norm(dim=-1, keepdim=True) + 1e-7)
        phrases = states.phrase_embeds / (states.phrase_embeds.norm(dim=-1, keepdim=True) + 1e-7)
        return self.model.logit_scale.exp().clamp(max=100) * queries @ phrases.transpose(1, 2)


__all__ = ["SeemForUniversalSegmentation", "SeemForUniversalSegmentationOutput", "SeemModel", "SeemPreTrainedModel"]
