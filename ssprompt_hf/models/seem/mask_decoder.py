"""The mask decoder of SEEM, versions 0 and 1.

Every kind of prompt has its own copy of the object queries, and in the published attention pattern the copies never
see each other. They are therefore decoded one after another by the same loop, with small dense self-attention, instead
of together under one large mask:

* generic segmentation: the object queries alone;
* phrases: a copy of the queries and the tokens of the phrases, all attending to each other;
* strokes: copies of queries that attend to each other, to the tokens and to the memory of their own object.
"""

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from ...utils.cpu_ops import Linear, matmul, scaled_dot_product_attention
from .configuration_seem import SeemConfig
from .outputs import SeemImageFeatures, SeemQueryStates

NUM_LEVELS = 3  # the decoder always looks at three scales, in turn


def add_sine_positions(states: torch.Tensor) -> torch.Tensor:
    """
    Add two-dimensional sine embeddings to a map, those of its rows to the first half of the channels.

    Args:
        states: `(B, height, width, channels)`.

    Returns:
        a new tensor of the same shape.
    """
    _, height, width, channels = states.shape
    half = channels // 2
    # Half precision cannot tell neighbouring positions of a large map apart.
    dtype = torch.promote_types(states.dtype, torch.float32)
    frequency = torch.arange(half, dtype=dtype, device=states.device)
    frequency = 10000 ** (2 * torch.div(frequency, 2, rounding_mode="floor") / half)

    def axis(size: int) -> torch.Tensor:
        position = torch.arange(1, size + 1, dtype=dtype, device=states.device) / (size + 1e-6) * (2 * torch.pi)
        angle = position[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1).to(states.dtype)

    # The embedding, as large as the map, is never made.
    states = states.clone(memory_format=torch.contiguous_format)
    states[..., :half] += axis(height)[:, None]
    states[..., half:] += axis(width)
    return states


class SeemAttention(nn.Module):
    """Multi-head attention whose keys and values may have been projected before."""

    def __init__(self, hidden_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Linear(hidden_dim, hidden_dim)
        self.k_proj = Linear(hidden_dim, hidden_dim)
        self.v_proj = Linear(hidden_dim, hidden_dim)
        self.out_proj = Linear(hidden_dim, hidden_dim)

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """`(B, L, hidden_dim)` -> `(B, heads, L, head_dim)`."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None = None,
        weights: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """
        Args:
            query: `(B, Q, hidden_dim)`.
            keys, values: `(B, heads, L, head_dim)`, already projected.
            mask: bool, broadcastable to `(B, heads, Q, L)`; True where a query may look.
            weights: a list that the attention weights `(B, heads, Q, L)` are added to. They are computed beside the
                result, which is the same to the bit with and without.
        """
        query = self.split_heads(self.q_proj(query))
        if weights is not None:
            scores = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
            scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
            weights.append(scores.softmax(-1))
        attended = scaled_dot_product_attention(query, keys, values, mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class SeemMaskDecoderLayer(GradientCheckpointingLayer):
    """Cross-attention to one scale of the image, self-attention, feed-forward; each with a residual and a norm."""

    def __init__(self, config: SeemConfig):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.cross_attention = SeemAttention(config.hidden_dim, config.num_attention_heads)
        self.cross_attention_norm = nn.LayerNorm(config.hidden_dim)
        self.self_attention = SeemAttention(config.hidden_dim, config.num_attention_heads)
        self.self_attention_norm = nn.LayerNorm(config.hidden_dim)
        self.fc1 = Linear(config.hidden_dim, config.dim_feedforward)
        self.fc2 = Linear(config.dim_feedforward, config.hidden_dim)
        self.feedforward_norm = nn.LayerNorm(config.hidden_dim)

    def forward(
        self,
        states: torch.Tensor,
        positions: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        cross_mask: torch.Tensor,
        self_mask: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
        token_positions: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, list[torch.Tensor] | None]:
        """
        Args:
            states, positions: `(B, Q, hidden_dim)`, what attends to the image.
            keys, values: `(B, heads, L, head_dim)`, the image.
            cross_mask: `(B, 1, Q, L)`; self_mask: `(B, 1, Q + T, Q + T)`; bool, True where attention is allowed.
            tokens, token_positions: `(B, T, hidden_dim)`, what takes part in self-attention only.
            output_attentions: whether to return the attention weights.

        Returns:
            the new states, the new tokens, and the weights of cross-attention `(B, heads, Q, L)` and self-attention
            `(B, heads, Q + T, Q + T)`.
        """
        weights = [] if output_attentions else None
        states = self._residual(
            states,
            lambda x: self.cross_attention(x + positions, keys, values, cross_mask, weights),
            self.cross_attention_norm,
        )
        num_queries = states.shape[1]
        if tokens is not None:
            states = torch.cat([states, tokens], dim=1)
            positions = torch.cat([positions, token_positions], dim=1)
        attention = self.self_attention

        def attend(x):
            query = x + positions
            keys = attention.split_heads(attention.k_proj(query))
            return attention(query, keys, attention.split_heads(attention.v_proj(x)), self_mask, weights)

        states = self._residual(states, attend, self.self_attention_norm)
        states = self._residual(states, lambda x: self.fc2(F.relu(self.fc1(x))), self.feedforward_norm)
        if tokens is None:
            return states, None, weights
        return states[:, :num_queries], states[:, num_queries:], weights

    def _residual(self, states, block, norm):
        if self.pre_norm:
            return states + block(norm(states))
        return norm(states + block(states))


class SeemMLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        dims = [in_dim] + [hidden_dim] * (num_layers - 1) + [out_dim]
        self.layers = nn.ModuleList(Linear(n, k) for n, k in pairwise(dims))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            states = F.relu(layer(states))
        return self.layers[-1](states)


class DecodedQueries(NamedTuple):
    """
    What becomes of queries in the mask decoder.

    Args:
        last: `(B, Q, hidden_dim)`, after the last layer.
        earlier: the same before each layer.
        attentions, cross_attentions: the weights of each layer, `(B, heads, Q + T, Q + T)` and `(B, heads, Q, L_i)`;
            None unless asked for.
    """

    last: torch.Tensor
    earlier: tuple[torch.Tensor, ...]
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


class SeemMaskDecoder(nn.Module):
    """Queries that look at an image and answer with mask and class embeddings."""

    def __init__(self, config: SeemConfig):
        super().__init__()
        self.layers = nn.ModuleList(SeemMaskDecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.query_positions = nn.Parameter(torch.empty(config.num_queries, config.hidden_dim))
        self.level_embeddings = nn.Parameter(torch.empty(NUM_LEVELS, config.hidden_dim))
        self.input_projections = nn.ModuleList(
            nn.Identity()
            if config.feature_size == config.hidden_dim
            else nn.Conv2d(config.feature_size, config.hidden_dim, kernel_size=1)
            for _ in range(NUM_LEVELS)
        )
        self.mask_embedder = SeemMLP(config.hidden_dim, config.hidden_dim, config.mask_feature_size, 3)
        self.class_projection = Linear(config.hidden_dim, config.projection_dim, bias=False)

    def level_features(self, features: SeemImageFeatures) -> tuple[torch.Tensor, ...]:
        """The three maps `(B, hidden_dim, h_i, w_i)` with their level embeddings added."""
        return tuple(
            projection(level) + embedding[:, None, None]
            for projection, level, embedding in zip(
                self.input_projections, features.multi_scale_features, self.level_embeddings
            )
        )

    def prepare(self, features: SeemImageFeatures, projections: bool = True) -> SeemImageFeatures:
        """Fill in `attention_features`, which are small, and with `projections` also `key_states` and `value_states`:
        once an image, whatever the number of prompts."""
        if features.attention_features is None:
            features = replace(features, attention_features=self._attention_features(features))
        if features.key_states is not None or not projections:
            return features
        keys, values = [None] * len(self.layers), [None] * len(self.layers)
        # Finest level first: its large temporary is gone before the next memory is needed.
        for level, states in reversed(list(enumerate(self.level_features(features)))):
            attended = self._attended(states)
            for index in range(level, len(self.layers), NUM_LEVELS):
                keys[index], values[index] = self._project(index, attended)
        return replace(features, key_states=tuple(keys), value_states=tuple(values))

    @staticmethod
    def _attended(level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What keys and what values are projections of: `(B, h * w, hidden_dim)` with and without positions."""
        states = level.permute(0, 2, 3, 1)
        return add_sine_positions(states).flatten(1, 2), states.flatten(1, 2)

    def _project(self, index: int, attended: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of layer `index`."""
        attention = self.layers[index].cross_attention
        with_positions, states = attended
        return attention.split_heads(attention.k_proj(with_positions)), attention.split_heads(attention.v_proj(states))

    @staticmethod
    def _attention_features(features: SeemImageFeatures) -> tuple[torch.Tensor, ...]:
        # Bilinear down-sampling is linear: down-sampled mask features give the down-sampled masks.
        return tuple(
            F.interpolate(features.mask_features, size=level.shape[-2:], mode="bilinear", align_corners=False).flatten(
                2
            )
            for level in features.multi_scale_features
        )

    def predict(self, states: torch.Tensor) -> SeemQueryStates:
        """The answers of queries in `states` `(B, Q, hidden_dim)`."""
        states = self.norm(states)
        return SeemQueryStates(mask_embeds=self.mask_embedder(states), class_embeds=self.class_projection(states))

    @torch.no_grad()
    def attention_mask(self, states: torch.Tensor, attention_features: torch.Tensor) -> torch.Tensor:
        """Where each query may look: inside its present mask. `(B, Q, L)`, bool."""
        return matmul(self.mask_embedder(self.norm(states)), attention_features) >= 0

    def forward(
        self,
        features: SeemImageFeatures,
        queries: torch.Tensor,
        positions: torch.Tensor,
        tokens: torch.Tensor | tuple[torch.Tensor, ...] | None = None,
        self_mask: torch.Tensor | None = None,
        memory_masks: tuple[torch.Tensor, ...] | None = None,
        output_attentions: bool = False,
        offsets: torch.Tensor | None = None,
    ) -> DecodedQueries:
        """
        Args:
            features: of the images. If they are not prepared, each layer projects its keys and values when it needs
                them and lets go of them again: less memory, and faster for a single call.
            queries, positions: `(B, Q, hidden_dim)`.
            tokens: `(B, T, hidden_dim)`, which the layers update (phrases), or one such tensor per level, presented
                anew to every layer (strokes). As they enter, tokens are their own position embeddings.
            self_mask: bool, broadcastable to `(B, 1, Q + T, Q + T)`; None if all see all.
            memory_masks: one `(B, M, L_i)` bool tensor per level: where the last M queries may look, instead of
                inside their own present mask.
            output_attentions: whether to return the attention weights.
            offsets: `(P, Q, hidden_dim)`, at most one a layer: added to the states after each of the last P layers.
        """
        attended = None
        if features.key_states is None:
            attended = [self._attended(level) for level in self.level_features(features)]
        attention_features = features.attention_features or self._attention_features(features)
        states, earlier, weights = queries, [], []
        without = len(self.layers) - (0 if offsets is None else len(offsets))
        presented = token_positions = None if isinstance(tokens, tuple) else tokens
        for index, layer in enumerate(self.layers):
            level = index % NUM_LEVELS
            earlier.append(states)
            if memory_masks is None:
                allowed = self.attention_mask(states, attention_features[level])
            else:
                own = states[:, : -memory_masks[level].shape[1]]
                allowed = self.attention_mask(own, attention_features[level])
                allowed = torch.cat([allowed, memory_masks[level]], dim=1)
            # A query with an empty mask may look everywhere.
            cross_mask = (allowed | ~allowed.any(-1, keepdim=True))[:, None]
            if isinstance(tokens, tuple):
                presented = token_positions = tokens[level]
            if attended is None:
                keys, values = features.key_states[index], features.value_states[index]
            else:
                keys, values = self._project(index, attended[level])
            states, updated, own_weights = layer(
                states, positions, keys, values, cross_mask, self_mask, presented, token_positions, output_attentions
            )
            if index >= without:  # in the dtype of the states, which autocast may have chosen
                states = states + offsets[index - without].to(states.dtype)
            weights.append(own_weights)
            if not isinstance(tokens, tuple):
                presented = updated
        cross, own = zip(*weights) if output_attentions else (None, None)
        return DecodedQueries(states, tuple(earlier), own, cross)


__all__ = ["SeemMaskDecoder"]
