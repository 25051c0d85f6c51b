"""SEEM: segment everything everywhere all at once, by class names, phrases, strokes or reference regions."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ...utils.cpu_ops import matmul
from ..transformers_compat import LoadsPromptAdapters
from .backbones.build import build_backbone
from .configuration_seem import SeemConfig
from .mask_decoder import SeemImageFeatures, SeemMaskDecoder, SeemQueryStates
from .pixel_decoder import build_pixel_decoder, init_deformable_weights
from .pretrained_names import ResolvesPretrainedNames
from .prompt_slots import SeemClassEmbeddings, SeemObjectQueries, SeemPointCoordinates, SeemPointTokens
from .prompting import SeemPrompting
from .spatial_prompts import SeemSpatialPromptEncoder, SeemSpatialPrompts
from .text_encoder import SeemTextModel


@dataclass
class SeemModelOutput(ModelOutput):
    """
    Args:
        object_states (`SeemQueryStates` of `(B, Q, ...)`, *optional*):
            Answers of the object queries; missing if only phrases or strokes were asked about.
        auxiliary_states (tuple of `SeemQueryStates`, *optional*):
            The same before each decoder layer, if `output_auxiliary_predictions`.
        phrase_states (`SeemQueryStates`, *optional*), phrase_embeds (`(B, phrases, projection_dim)`, *optional*):
            Answers of the queries that attended to the phrases, and the embeddings of the phrases.
        spatial_states (`SeemQueryStates`, *optional*), spatial_prompts (`SeemSpatialPrompts`, *optional*):
            Answers of the queries that attended to strokes, and the embeddings of the strokes.
        image_features (`SeemImageFeatures`):
            Can be passed to further calls in place of `pixel_values`.
    """

    object_states: SeemQueryStates | None = None
    auxiliary_states: tuple[SeemQueryStates, ...] | None = None
    phrase_states: SeemQueryStates | None = None
    phrase_embeds: torch.Tensor | None = None
    spatial_states: SeemQueryStates | None = None
    spatial_prompts: SeemSpatialPrompts | None = None
    image_features: SeemImageFeatures | None = None


@dataclass
class SeemForUniversalSegmentationOutput(ModelOutput):
    """
    Masks are logits at the resolution of the mask features (a quarter of the padded image in the published models).

    Args:
        class_queries_logits (`(B, Q, classes + 1)`):
            Class scores of the object queries; the last class is "no object".
        masks_queries_logits (`(B, Q, h, w)`):
            Masks of the object queries.
        auxiliary_predictions (tuple of dicts with the two names above, *optional*):
            The predictions before each decoder layer.
        grounding_masks_logits (`(B, phrases, h, w)`, *optional*), grounding_scores (`(B, phrases)`, *optional*):
            The mask that fits each phrase best, and the (scaled) cosine similarity of its query.
        spatial_masks_logits (`(B, objects, h, w)`, *optional*):
            The mask of each object given by strokes. Pass it as `previous_masks` in the next round.
        class_queries_embeds (`(B, Q, projection_dim)`), mask_queries_embeds (`(B, Q, mask_feature_size)`):
            What the logits are made of.
        image_features (`SeemImageFeatures`):
            Can be passed to further calls in place of `pixel_values`.
        padded_size (`(height, width)`):
            Of the padded images, in pixels.
        image_sizes, original_sizes (`(B, 2)`, *optional*):
            As passed; post-processing cuts the padding off by them.
    """

    loss: torch.Tensor | None = None
    class_queries_logits: torch.Tensor | None = None
    masks_queries_logits: torch.Tensor | None = None
    auxiliary_predictions: tuple[dict, ...] | None = None
    grounding_masks_logits: torch.Tensor | None = None
    grounding_scores: torch.Tensor | None = None
    spatial_masks_logits: torch.Tensor | None = None
    class_queries_embeds: torch.Tensor | None = None
    mask_queries_embeds: torch.Tensor | None = None
    image_features: SeemImageFeatures | None = None
    padded_size: tuple[int, int] | None = None
    image_sizes: torch.Tensor | None = None
    original_sizes: torch.Tensor | None = None


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
        elif isinstance(module, (SeemClassEmbeddings, SeemPointTokens, SeemPointCoordinates)):
            if module.weight is not None:
                init.zeros_(module.weight)
        elif isinstance(module, SeemModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if module.memory_features is not None:
                init.normal_(module.memory_features, std=std)
                init.normal_(module.memory_positions, std=std)


class SeemModel(SeemPreTrainedModel):
    """SEEM without its heads: image features, prompt encoders and the mask decoder."""

    def __init__(self, config: SeemConfig):
        super().__init__(config)
        self.backbone = build_backbone(config.backbone_config)
        self.pixel_decoder = build_pixel_decoder(config, self.backbone.channels)
        self.mask_decoder = SeemMaskDecoder(config)
        self.object_queries = SeemObjectQueries(config.num_queries, config.hidden_dim)
        self.point_tokens = SeemPointTokens(config.num_point_tokens, config.hidden_dim)
        self.point_coordinates = SeemPointCoordinates(config.num_point_coordinates)
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

    def get_point_tokens(
        self, image_features: SeemImageFeatures, points: torch.Tensor, image_sizes: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """What the visual sampler says of single positive points; differentiable in their coordinates.

        Args:
            image_features: of B images.
            points: `(P, 2)`, x and y in 0..1.
            image_sizes: `(B, 2)`, height and width in pixels of the part of each image that is not padding, which the
                coordinates are shares of. By default the whole padded image.

        Returns:
            three tensors `(B, P, hidden_dim)`, coarsest level first.
        """
        if self.spatial_prompt_encoder is None:
            raise ValueError("points need the spatial prompt encoder: load it with use_spatial_prompt_encoder=True")
        points = points.expand(len(image_features.mask_features), -1, -1)
        if image_sizes is not None:
            height, width = image_features.padded_size
            shares = torch.as_tensor(image_sizes, device=points.device) / points.new_tensor([height, width])
            points = points * shares.flip(-1)[:, None].to(points.dtype)
        return self.spatial_prompt_encoder.point_tokens(self.mask_decoder.level_features(image_features), points)

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
        **kwargs,
    ) -> SeemModelOutput:
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
            self._decode_objects(image_features, output, output_auxiliary_predictions, image_sizes)
        if input_ids is not None:
            self._decode_phrases(image_features, output, input_ids, attention_mask)
        if has_strokes:
            prompts = reference_prompts
            if prompts is None:
                prompts = self.get_spatial_prompts(image_features, positive_prompt_masks, negative_prompt_masks)
            self._decode_strokes(image_features, output, prompts, previous_masks, spatial_query_indices)
        return output

    def _decode_objects(
        self,
        features: SeemImageFeatures,
        output: SeemModelOutput,
        output_all_layers: bool,
        image_sizes: torch.Tensor | None,
    ):
        queries, positions, tokens = (
            self.object_queries.weight,
            self.mask_decoder.query_positions,
            self.point_tokens.weight,
        )
        batch_size, self_mask = len(features.mask_features), None
        if tokens is None and (points := self.point_coordinates.weight) is not None:
            tokens = self.get_point_tokens(features, points, image_sizes)
        if tokens is not None:
            # One copy of an object query per point; it sees itself and the token of its point.
            index = torch.arange(tokens[0].shape[-2], device=queries.device)
            queries, positions = queries[index % len(queries)], positions[index % len(positions)]
            self_mask = (index[:, None] == index[None]).repeat(2, 2)
            self_mask[len(index) :, : len(index)] = False
            tokens = tuple(level.expand(batch_size, -1, -1) for level in tokens)
        states, earlier = self.mask_decoder(
            features,
            queries.expand(batch_size, -1, -1),
            positions.expand(batch_size, -1, -1),
            tokens=tokens,
            self_mask=self_mask,
            output_all_layers=output_all_layers,
        )
        output.object_states = self.mask_decoder.predict(states)
        if output_all_layers:
            output.auxiliary_states = tuple(self.mask_decoder.predict(states) for states in earlier)

    def _decode_phrases(
        self,
        features: SeemImageFeatures,
        output: SeemModelOutput,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
    ):
        if self.text_model is None:
            raise ValueError(
                "phrases need the text encoder, which this model was loaded without (use_text_model=False)"
            )
        if self.config.projection_dim != self.config.hidden_dim:
            raise ValueError(
                f"phrases are tokens of the decoder: projection_dim ({self.config.projection_dim}) must equal "
                f"hidden_dim ({self.config.hidden_dim})"
            )
        if input_ids.ndim not in (2, 3):
            raise ValueError(
                f"input_ids must be (phrases, tokens) or (batch, phrases, tokens), got shape {tuple(input_ids.shape)}"
            )
        if attention_mask is not None:
            attention_mask = attention_mask.flatten(0, -2)
        text = self.text_model(input_ids.flatten(0, -2), attention_mask)
        # Phrases for every image are encoded once.
        batch_size = len(features.mask_features) if input_ids.ndim == 2 else len(input_ids)
        tokens, valid, embeds = (
            value[None].expand(batch_size, *value.shape)
            if input_ids.ndim == 2
            else value.unflatten(0, input_ids.shape[:2])
            for value in (text.token_embeddings, text.attention_mask, text.text_embeds)
        )
        tokens, valid = tokens.flatten(1, 2), valid.flatten(1)
        features = features.expand(batch_size)
        queries, positions = self.object_queries.weight, self.mask_decoder.query_positions
        seen = F.pad(valid, (len(queries), 0), value=True)
        # Padding is seen by nobody; it sees itself, so that its row of attention is defined.
        self_mask = seen[:, None, :] | torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)
        states, _ = self.mask_decoder(
            features,
            queries.expand(batch_size, -1, -1),
            positions.expand(batch_size, -1, -1),
            tokens=tokens,
            self_mask=self_mask[:, None],
        )
        output.phrase_states = self.mask_decoder.predict(states)
        output.phrase_embeds = embeds

    def _decode_strokes(
        self,
        features: SeemImageFeatures,
        output: SeemModelOutput,
        prompts: SeemSpatialPrompts,
        previous_masks: torch.Tensor | None,
        query_indices: torch.Tensor | None,
    ):
        batch_size, num_objects = prompts.mask_embeds.shape[:2]
        features = features.expand(batch_size)
        if previous_masks is not None and previous_masks.shape[:2] != (batch_size, num_objects):
            raise ValueError(
                f"previous_masks of shape {tuple(previous_masks.shape)} were passed for strokes on {batch_size} "
                f"images with {num_objects} objects each: pass spatial_masks_logits of the round before"
            )
        device = prompts.mask_embeds.device
        queries, positions = self.object_queries.weight, self.mask_decoder.query_positions
        if query_indices is None:
            v1 = self.config.decoder_version == "v1"
            count = self.config.queries_per_object * num_objects if v1 else len(queries)
            query_indices = torch.arange(count, device=device) % len(queries)
        if len(query_indices) % num_objects:
            raise ValueError(
                f"{len(query_indices)} spatial_query_indices cannot be shared equally by {num_objects} objects"
            )
        queries, positions = queries[query_indices], positions[query_indices]
        num_queries = len(query_indices)
        query_objects = torch.arange(num_objects, device=device).repeat_interleave(num_queries // num_objects)
        memory_masks, num_memories = None, 0
        cross_objects = query_objects
        if previous_masks is not None:
            num_memories = len(self.memory_features)
            # The memories are shared equally; the official code draws their objects at random.
            memory_objects = torch.arange(num_memories, device=device) * num_objects // num_memories
            cross_objects = torch.cat([query_objects, memory_objects])
            queries = torch.cat([queries, self.memory_features])
            positions = torch.cat([positions, self.memory_positions])
            memory_masks = tuple(
                F.interpolate(previous_masks, size=level.shape[-2:], mode="bilinear", align_corners=False).flatten(2)[
                    :, memory_objects
                ]
                >= 0
                for level in features.multi_scale_features
            )
        # Everything sees only what belongs to its own object. Strokes do not look back at queries and memories, nor
        # memories at queries and strokes. Padding (-1) belongs to no object.
        objects = torch.cat([cross_objects.expand(batch_size, -1), prompts.token_objects], dim=1)
        kind = torch.zeros(objects.shape[1], dtype=torch.long, device=device)
        kind[num_queries : num_queries + num_memories] = 1
        kind[num_queries + num_memories :] = 2
        self_mask = (objects[:, :, None] == objects[:, None, :]) & ((kind[:, None] == 0) | (kind[:, None] == kind))
        states, _ = self.mask_decoder(
            features,
            queries.expand(batch_size, -1, -1),
            positions.expand(batch_size, -1, -1),
            tokens=tuple(prompts.tokens),
            self_mask=self_mask[:, None],
            memory_masks=memory_masks,
        )
        output.spatial_states = self.mask_decoder.predict(states[:, :num_queries])
        output.spatial_prompts = prompts


class SeemForUniversalSegmentation(LoadsPromptAdapters, SeemPrompting, SeemPreTrainedModel):
    """SEEM with masks and class scores: semantic, instance and panoptic segmentation, grounding and interaction."""

    # A model may be loaded without the parts that its prompts do not need.
    _keys_to_ignore_on_load_unexpected = list(SeemPrompting.optional_parts)

    def __init__(self, config: SeemConfig):
        super().__init__(config)
        self.model = SeemModel(config)
        self.class_embeddings = SeemClassEmbeddings(
            None if config.class_names is None else len(config.class_names), config.projection_dim
        )
        self.post_init()

    def get_text_model(self) -> SeemTextModel | None:
        """The text encoder; None if it was not loaded or has been dropped."""
        return self.model.text_model

    @torch.no_grad()
    def set_class_names(self, class_names: list[str], tokenizer, thing_class_ids: list[int] | None = None):
        """Embed class names by the text encoder (the ensemble of `config.prompt_templates`) and keep the embeddings.

        Args:
            class_names: without "background", which is added.
            tokenizer: of the text encoder, or a `SeemProcessor`.
            thing_class_ids: positions of countable classes in `class_names`; all classes are things if not given.
        """
        if self.model.text_model is None:
            raise ValueError(
                "class names need the text encoder, which this model was loaded without (use_text_model=False): load "
                "it, or call set_class_embeddings"
            )
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        embeddings = self.model.text_model.encode_class_names(
            class_names, tokenizer, templates=self.config.prompt_templates, add_background=True
        )
        self.set_class_embeddings(embeddings, class_names, thing_class_ids)

    def set_class_embeddings(
        self, embeddings: torch.Tensor, class_names: list[str], thing_class_ids: list[int] | None = None
    ):
        """Keep given class embeddings `(classes + 1, projection_dim)`, the last row being "background"."""
        expected = (len(class_names) + 1, self.config.projection_dim)
        if tuple(embeddings.shape) != expected:
            raise ValueError(
                f"embeddings of {len(class_names)} classes and background must have shape {expected}, "
                f"got {tuple(embeddings.shape)}"
            )
        outside = [index for index in thing_class_ids or [] if not 0 <= index < len(class_names)]
        if outside:
            raise ValueError(f"thing_class_ids {outside} are not positions in the {len(class_names)} class names")
        self.class_embeddings.weight = embeddings.to(self.device, self.dtype)
        self.name_classes(class_names, thing_class_ids)

    def get_image_features(self, pixel_values: torch.Tensor, prepare: bool = True) -> SeemImageFeatures:
        """See `SeemModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, prepare)

    def get_spatial_prompts(self, *args, **kwargs) -> SeemSpatialPrompts:
        """See `SeemModel.get_spatial_prompts`."""
        return self.model.get_spatial_prompts(*args, **kwargs)

    def class_logits(self, class_embeds: torch.Tensor, class_embeddings: torch.Tensor) -> torch.Tensor:
        """Scaled cosine similarity of `class_embeds` `(B, Q, D)` with `class_embeddings` `(C, D)` or `(B, C, D)`,
        which are taken as they are: `(B, Q, C)`."""
        if class_embeddings.shape[-1] != class_embeds.shape[-1]:
            raise ValueError(
                f"class_embeddings of shape {tuple(class_embeddings.shape)} must have {class_embeds.shape[-1]} "
                "columns (projection_dim)"
            )
        class_embeds = class_embeds / (class_embeds.norm(dim=-1, keepdim=True) + 1e-7)
        return self.model.logit_scale.exp() * class_embeds @ class_embeddings.transpose(-1, -2)

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
        padded_size: tuple[int, int] | None = None,
        **kwargs,
    ) -> SeemForUniversalSegmentationOutput:
        """
        Args:
            image_sizes, original_sizes: `(B, 2)`, from the image processor; handed through to post-processing. The
                network itself sees the padding, as the official one does (see `SeemModel.forward` for the exception).
            class_embeddings: `(classes + 1, projection_dim)`, or one such matrix per image, last row "background".
                By default those of `set_class_names`.
            class_queries_embeds, masks_queries_logits, padded_size: of an earlier call about the same images, in place
                of `pixel_values`: class embeddings enter only the last similarity, and nothing else is computed anew.

            The other arguments are those of `SeemModel.forward`.
        """
        if class_queries_embeds is not None:
            if masks_queries_logits is None:
                raise ValueError("class_queries_embeds were passed without masks_queries_logits: pass both or neither")
            if class_embeddings is None:
                class_embeddings = self._own_class_embeddings()
            return SeemForUniversalSegmentationOutput(
                class_queries_logits=self.class_logits(
                    class_queries_embeds, class_embeddings.to(class_queries_embeds.dtype)
                ),
                masks_queries_logits=masks_queries_logits,
                class_queries_embeds=class_queries_embeds,
                padded_size=padded_size,
                image_sizes=image_sizes,
                original_sizes=original_sizes,
            )
        if output_objects is None and class_embeddings is not None:
            output_objects = True
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
            output_auxiliary_predictions=output_auxiliary_predictions,
            image_sizes=image_sizes,
        )
        mask_features = states.image_features.mask_features
        output = SeemForUniversalSegmentationOutput(
            image_features=states.image_features,
            padded_size=states.image_features.padded_size,
            image_sizes=image_sizes,
            original_sizes=original_sizes,
        )
        if states.object_states is not None:
            if class_embeddings is None:
                class_embeddings = self._own_class_embeddings()
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
        if states.phrase_states is not None:
            similarity = self._phrase_similarity(states)
            output.grounding_scores, best = similarity.max(dim=1)
            output.grounding_masks_logits = _chosen_masks(states.phrase_states, best, mask_features)
        if states.spatial_states is not None:
            best = _best_stroke_queries(states.spatial_states, states.spatial_prompts)
            output.spatial_masks_logits = _chosen_masks(states.spatial_states, best, mask_features)
        return output

    def _own_class_embeddings(self) -> torch.Tensor:
        class_embeddings = self.class_embeddings.weight
        if class_embeddings is None:
            raise ValueError("no classes: call set_class_names(names, tokenizer) or pass class_embeddings")
        return class_embeddings

    def _predictions(self, states: SeemQueryStates, class_embeddings: torch.Tensor, mask_features: torch.Tensor):
        class_logits = self.class_logits(states.class_embeds, class_embeddings.to(states.class_embeds.dtype))
        return class_logits, _masks(states.mask_embeds, mask_features)

    def _phrase_similarity(self, states: SeemModelOutput) -> torch.Tensor:
        """`(B, Q, phrases)`: scaled cosine of every query with every phrase; the scale is clamped here, and only here,
        in the official code."""
        queries = states.phrase_states.class_embeds
        queries = queries / (queries.norm(dim=-1, keepdim=True) + 1e-7)
        phrases = states.phrase_embeds / (states.phrase_embeds.norm(dim=-1, keepdim=True) + 1e-7)
        return self.model.logit_scale.exp().clamp(max=100) * queries @ phrases.transpose(1, 2)


def _masks(mask_embeds: torch.Tensor, mask_features: torch.Tensor) -> torch.Tensor:
    """`(B, Q, C)` times `(B, C, h, w)`: mask logits `(B, Q, h, w)`."""
    return matmul(mask_embeds, mask_features.flatten(2)).unflatten(2, mask_features.shape[-2:])


def _chosen_masks(states: SeemQueryStates, index: torch.Tensor, mask_features: torch.Tensor) -> torch.Tensor:
    """Masks of the queries `index` `(B, N)` only: `(B, N, h, w)`."""
    chosen = states.mask_embeds.gather(1, index[..., None].expand(-1, -1, states.mask_embeds.shape[-1]))
    return _masks(chosen, mask_features)


def _best_stroke_queries(states: SeemQueryStates, prompts: SeemSpatialPrompts) -> torch.Tensor:
    """For each object the query, among its own, whose mask embedding fits the mean mask feature under the strokes."""
    num_queries, num_objects = states.mask_embeds.shape[1], prompts.mask_embeds.shape[1]
    scores = states.mask_embeds @ prompts.mask_embeds.transpose(1, 2)
    own = torch.arange(num_queries, device=scores.device) // (num_queries // num_objects)
    own = own[:, None] == torch.arange(num_objects, device=scores.device)
    return scores.masked_fill(~own, -torch.inf).argmax(dim=1)


__all__ = ["SeemForUniversalSegmentation", "SeemForUniversalSegmentationOutput", "SeemModel", "SeemPreTrainedModel"]
