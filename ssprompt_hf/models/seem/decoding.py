"""How each kind of prompt asks the mask decoder, and what its answers make of the mask features."""

import torch
from torch.nn import functional as F

from ...utils.cpu_ops import matmul
from .outputs import SeemImageFeatures, SeemModelOutput, SeemQueryStates
from .spatial_prompts import SeemSpatialPrompts


class SeemDecoding:
    """The part of `SeemModel` that lets object queries, phrases and strokes look at the image, each by itself."""

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
        points = points.expand(image_features.mask_features.shape[0], -1, -1)
        if image_sizes is not None:
            height, width = image_features.padded_size
            shares = torch.as_tensor(image_sizes, device=points.device) / points.new_tensor([height, width])
            points = points * shares.flip(-1)[:, None].to(points.dtype)
        return self.spatial_prompt_encoder.point_tokens(self.mask_decoder.level_features(image_features), points)

    def _decode_objects(
        self,
        features: SeemImageFeatures,
        output: SeemModelOutput,
        image_sizes: torch.Tensor | None,
        output_auxiliary: bool,
        output_hidden_states: bool,
        output_attentions: bool,
    ):
        queries, positions, tokens = (
            self.object_queries.weight,
            self.mask_decoder.query_positions,
            self.point_tokens.weight,
        )
        offsets = self.deep_prompts.weight
        batch_size, self_mask = features.mask_features.shape[0], None
        if tokens is None and (points := self.point_coordinates.weight) is not None:
            tokens = self.get_point_tokens(features, points, image_sizes)
        if tokens is not None:
            # One copy of an object query per point; it sees itself and the token of its point.
            index = torch.arange(tokens[0].shape[-2], device=queries.device)
            queries, positions = queries[index % len(queries)], positions[index % len(positions)]
            offsets = None if offsets is None else offsets[:, index % offsets.shape[1]]
            self_mask = (index[:, None] == index[None]).repeat(2, 2)
            self_mask[len(index) :, : len(index)] = False
            tokens = tuple(level.expand(batch_size, -1, -1) for level in tokens)
        decoded = self.mask_decoder(
            features,
            queries.expand(batch_size, -1, -1),
            positions.expand(batch_size, -1, -1),
            tokens=tokens,
            self_mask=self_mask,
            output_attentions=output_attentions,
            offsets=offsets,
        )
        output.object_states = self.mask_decoder.predict(decoded.last)
        if output_auxiliary:
            output.auxiliary_states = tuple(self.mask_decoder.predict(states) for states in decoded.earlier)
        if output_hidden_states:
            output.hidden_states = (*decoded.earlier, decoded.last)
        output.attentions, output.cross_attentions = decoded.attentions, decoded.cross_attentions

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
        batch_size = features.mask_features.shape[0] if input_ids.ndim == 2 else len(input_ids)
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
        states = self.mask_decoder(
            features,
            queries.expand(batch_size, -1, -1),
            positions.expand(batch_size, -1, -1),
            tokens=tokens,
            self_mask=self_mask[:, None],
        ).last
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
        states = self.mask_decoder(
            features,
            queries.expand(batch_size, -1, -1),
            positions.expand(batch_size, -1, -1),
            tokens=tuple(prompts.tokens),
            self_mask=self_mask[:, None],
            memory_masks=memory_masks,
        ).last
        output.spatial_states = self.mask_decoder.predict(states[:, :num_queries])
        output.spatial_prompts = prompts


def mask_logits(mask_embeds: torch.Tensor, mask_features: torch.Tensor) -> torch.Tensor:
    """`(B, Q, C)` times `(B, C, h, w)`: mask logits `(B, Q, h, w)`."""
    return matmul(mask_embeds, mask_features.flatten(2)).unflatten(2, mask_features.shape[-2:])


def chosen_masks(states: SeemQueryStates, index: torch.Tensor, mask_features: torch.Tensor) -> torch.Tensor:
    """Masks of the queries `index` `(B, N)` only: `(B, N, h, w)`."""
    chosen = states.mask_embeds.gather(1, index[..., None].expand(-1, -1, states.mask_embeds.shape[-1]))
    return mask_logits(chosen, mask_features)


def best_stroke_queries(states: SeemQueryStates, prompts: SeemSpatialPrompts) -> torch.Tensor:
    """For each object the query, among its own, whose mask embedding fits the mean mask feature under the strokes."""
    num_queries, num_objects = states.mask_embeds.shape[1], prompts.mask_embeds.shape[1]
    scores = states.mask_embeds @ prompts.mask_embeds.transpose(1, 2)
    own = torch.arange(num_queries, device=scores.device) // (num_queries // num_objects)
    own = own[:, None] == torch.arange(num_objects, device=scores.device)
    return scores.masked_fill(~own, -torch.inf).argmax(dim=1)
