"""SEEM's mask decoder as the official code arranges it, written plainly from its description.

An independent witness for `ssprompt_hf.models.seem.mask_decoder`, which computes the same in another order:

* all queries, tokens and memories are one sequence, under one large mask of who sees whom;
* every layer makes its masks at full resolution and then down-samples them, once per head;
* keys and values are projected anew in every layer, by packed weights;
* level maps are projected whole, and strokes are then sampled pixel by pixel.

Only weights, the features of the pixel decoder and the states of the text encoder are taken from the model.
"""

import math

import torch
from torch.nn import functional as F

# Whose content every group of the sequence reads in self-attention. The last two never look at the image.
SEES = {
    "object": ("object",),
    "phrase": ("phrase", "word"),
    "stroke": ("stroke", "memory", "dot"),
    "memory": ("memory",),
    "word": ("phrase", "word"),
    "dot": ("dot",),
}
LOOKING = ("object", "phrase", "stroke", "memory")


class Group:
    """Part of the sequence: contents and positions `(B, n, C)`, the object of every entry `(B, n)`, and which entries
    are padding."""

    def __init__(self, content, position, objects=None, padding=None):
        self.content, self.position = content, position
        shape = content.shape[:2]
        self.objects = torch.zeros(shape, dtype=torch.long) if objects is None else objects
        self.padding = torch.zeros(shape, dtype=torch.bool) if padding is None else padding


def sine_positions(height: int, width: int, channels: int) -> torch.Tensor:
    """`(height * width, channels)`, float64."""
    half = channels // 2
    rows = []
    for y in range(1, height + 1):
        for x in range(1, width + 1):
            values = []
            for place, size in ((y, height), (x, width)):
                angle = 2 * math.pi * place / (size + 1e-6)
                for i in range(half):
                    phase = angle / 10000 ** (2 * (i // 2) / half)
                    values.append(math.cos(phase) if i % 2 else math.sin(phase))
            rows.append(values)
    return torch.tensor(rows, dtype=torch.float64)


def sample(feature_map: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Bilinear sample of `(C, h, w)` at x and y in 0..1, where 0 and 1 are the centres of the outermost pixels."""
    height, width = feature_map.shape[-2:]
    x, y = x * (width - 1), y * (height - 1)
    left, top = min(int(x), width - 1), min(int(y), height - 1)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    dx, dy = x - left, y - top
    upper = (1 - dx) * feature_map[:, top, left] + dx * feature_map[:, top, right]
    lower = (1 - dx) * feature_map[:, bottom, left] + dx * feature_map[:, bottom, right]
    return (1 - dy) * upper + dy * lower


def attend(attention, query, key, value, forbidden):
    """Multi-head attention with packed weights; `forbidden` `(B * heads, Q, K)`."""
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    first = [states.transpose(0, 1) for states in (query, key, value)]
    output, _ = F.multi_head_attention_forward(
        *first,
        embed_dim_to_check=query.shape[-1],
        num_heads=attention.num_heads,
        in_proj_weight=torch.cat([layer.weight for layer in projections]),
        in_proj_bias=torch.cat([layer.bias for layer in projections]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=attention.out_proj.weight,
        out_proj_bias=attention.out_proj.bias,
        training=False,
        attn_mask=forbidden,
        need_weights=False,
    )
    return output.transpose(0, 1)


class NaiveDecoder:
    """
    Args:
        model: a `SeemForUniversalSegmentation` in float64.
        features: its `SeemImageFeatures`, of which only the maps of the pixel decoder are used.
    """

    def __init__(self, model, features):
        self.model, self.net, self.decoder = model, model.model, model.model.mask_decoder
        self.config = model.config
        self.mask_features = features.mask_features
        self.batch_size = len(self.mask_features)
        self.levels = []
        for projection, level, embedding in zip(
            self.decoder.input_projections, features.multi_scale_features, self.decoder.level_embeddings
        ):
            self.levels.append(projection(level) + embedding.reshape(1, -1, 1, 1))
        self.groups: dict[str, Group] = {}
        self.dots: list[torch.Tensor] = []
        self.previous_masks = None
        queries = self.rows(self.net.object_queries.weight), self.rows(self.decoder.query_positions)
        self.groups["object"] = Group(*queries)

    def rows(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.repeat(self.batch_size, 1, 1)

    def add_phrases(self, input_ids, attention_mask):
        """`(B, phrases, T)`; all tokens up to T are in the sequence, padding as padding."""
        text = self.net.text_model(input_ids.flatten(0, 1), attention_mask.flatten(0, 1), truncate=False)
        words = text.token_embeddings.reshape(self.batch_size, -1, text.token_embeddings.shape[-1])
        self.phrase_embeds = text.text_embeds.reshape(self.batch_size, input_ids.shape[1], -1)
        copy = self.groups["object"]
        self.groups["phrase"] = Group(copy.content, copy.position)
        self.groups["word"] = Group(words, words, padding=attention_mask.reshape(self.batch_size, -1) == 0)

    def add_strokes(self, positive, negative, previous_masks=None):
        """Masks `(B, O, H, W)`, bool."""
        v1, num_objects = self.config.decoder_version == "v1", positive.shape[1]
        height, width = positive.shape[-2:]
        encoder = self.net.spatial_prompt_encoder
        per_object = self.config.queries_per_object if v1 else self.config.num_queries
        copies = [index % self.config.num_queries for index in range(per_object * num_objects)]
        owners = torch.tensor([index // per_object for index in range(len(copies))]).repeat(self.batch_size, 1)
        every = self.groups["object"]
        self.groups["stroke"] = Group(every.content[:, copies], every.position[:, copies], owners)

        maps = [
            torch.einsum("bchw,dc->bdhw", level, projection.weight)
            for level, projection in zip(self.levels, encoder.projections)
        ]
        length = int((positive.flatten(1).sum(1) + negative.flatten(1).sum(1)).max())
        self.dots = [torch.zeros(self.batch_size, length, self.config.hidden_dim, dtype=torch.float64) for _ in maps]
        dot_objects = torch.full((self.batch_size, length), -1)
        self.means = torch.empty(self.batch_size, num_objects, self.mask_features.shape[1], dtype=torch.float64)
        for image in range(self.batch_size):
            place = 0
            for item in range(num_objects):
                under_stroke = []
                for polarity, strokes in enumerate((positive, negative)):
                    for row, column in strokes[image, item].nonzero().tolist():
                        # Coordinates are divided in float32, as in the official code.
                        x, y = (torch.tensor([column, row]) / torch.tensor([width, height])).tolist()
                        for dots, feature_map in zip(self.dots, maps):
                            dots[image, place] = sample(feature_map[image], x, y) + encoder.polarity[polarity]
                        dot_objects[image, place] = item
                        place += 1
                        if polarity == 0:
                            under_stroke.append(sample(self.mask_features[image], x, y))
                empty = -1.0 if v1 else 0.0
                self.means[image, item] = torch.stack(under_stroke).mean(0) if under_stroke else empty

        if previous_masks is not None:
            self.previous_masks, count = previous_masks, self.config.num_spatial_memories
            # Official memories are dealt out at random; ours in equal shares.
            self.memory_objects = [index * num_objects // count for index in range(count)]
            self.groups["memory"] = Group(
                self.rows(self.net.memory_features),
                self.rows(self.net.memory_positions),
                torch.tensor(self.memory_objects).repeat(self.batch_size, 1),
            )
        self.groups["dot"] = Group(self.dots[0], self.dots[0], dot_objects, dot_objects < 0)

    @torch.no_grad()
    def run(self):
        """Decode; `self.history` gets `(mask_embeds, class_embeds, masks)` of all queries before the first and after
        every layer."""
        order = [name for name in SEES if name in self.groups]
        looking = [name for name in order if name in LOOKING]
        forbidden = self._self_attention_mask(order)
        self.history = [self._predict(looking)]
        for index, layer in enumerate(self.decoder.layers):
            self._look(layer, index % 3, looking)
            self._exchange(layer, index % 3, order, forbidden)
            self.history.append(self._predict(looking))
        return self

    def _look(self, layer, level: int, looking):
        size, image = self.levels[level].shape[-2:], self.levels[level].flatten(2).transpose(1, 2)
        keys = image + sine_positions(*size, image.shape[-1])
        positions, outside = self._joined("position", looking), self._cross_attention_mask(size, looking)
        states = self._block(
            layer.cross_attention_norm,
            self._joined("content", looking),
            lambda states: attend(layer.cross_attention, states + positions, keys, image, outside),
        )
        self._part(states, looking)

    def _exchange(self, layer, level: int, order, forbidden):
        if "dot" in self.groups:  # strokes are presented anew to every layer
            self.groups["dot"].content = self.groups["dot"].position = self.dots[level]
        positions = self._joined("position", order)
        states = self._block(
            layer.self_attention_norm,
            self._joined("content", order),
            lambda states: attend(layer.self_attention, states + positions, states + positions, states, forbidden),
        )
        states = self._block(layer.feedforward_norm, states, lambda x: layer.fc2(layer.fc1(x).clamp(min=0)))
        self._part(states, order)

    def masks(self, group: str, after: int = -1) -> torch.Tensor:
        return self.history[after][2][group]

    def class_logits(self, class_embeddings, after: int = -1) -> torch.Tensor:
        """`(B, Q, classes)` of the object queries."""
        return self._cosine(self.history[after][1]["object"], class_embeddings, self.net.logit_scale.exp())

    def phrase_masks(self) -> torch.Tensor:
        """`(B, phrases, H, W)`: the mask of the query most similar to each phrase."""
        phrases = self.phrase_embeds / (self.phrase_embeds.norm(dim=-1, keepdim=True) + 1e-7)
        scale = self.net.logit_scale.exp().clamp(max=100)
        return self._best(self._cosine(self.history[-1][1]["phrase"], phrases, scale), "phrase")

    def stroke_masks(self) -> torch.Tensor:
        """`(B, objects, H, W)`: the mask of each object's best query."""
        scores = torch.einsum("bqc,boc->bqo", self.history[-1][0]["stroke"], self.means)
        for image, query, item in torch.cartesian_prod(*(torch.arange(size) for size in scores.shape)).tolist():
            if self.groups["stroke"].objects[image, query] != item:
                scores[image, query, item] = -math.inf
        return self._best(scores, "stroke")

    def _best(self, scores, group):
        masks = self.masks(group)
        return torch.stack([torch.stack([m[q] for q in best]) for m, best in zip(masks, scores.argmax(dim=1))])

    @staticmethod
    def _cosine(embeds, others, scale):
        return scale * (embeds / (embeds.norm(dim=-1, keepdim=True) + 1e-7)) @ others.transpose(-1, -2)

    def _block(self, norm, states, function):
        return states + function(norm(states)) if self.config.pre_norm else norm(states + function(states))

    def _joined(self, what, names):
        return torch.cat([getattr(self.groups[name], what) for name in names], dim=1)

    def _part(self, states, names):
        lengths = [self.groups[name].content.shape[1] for name in names]
        for name, part in zip(names, states.split(lengths, dim=1)):
            self.groups[name].content = part

    def _predict(self, looking):
        states = self.decoder.norm(self._joined("content", looking))
        embeds = states
        for index, linear in enumerate(self.decoder.mask_embedder.layers):
            embeds = F.linear(embeds if index == 0 else embeds.relu(), linear.weight, linear.bias)
        masks = torch.einsum("bqc,bchw->bqhw", embeds, self.mask_features)
        lengths = [self.groups[name].content.shape[1] for name in looking]
        class_embeds = states @ self.decoder.class_projection.weight.T
        return tuple(dict(zip(looking, values.split(lengths, dim=1))) for values in (embeds, class_embeds, masks))

    def _cross_attention_mask(self, size, looking):
        outside = []
        for name in looking:
            masks = self.masks(name)
            if name == "memory":
                masks = self.previous_masks[:, self.memory_objects]
            masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
            outside.append(masks.sigmoid().flatten(2) < 0.5)
        outside = torch.cat(outside, dim=1)
        outside[outside.all(dim=-1)] = False  # nothing to look at: look everywhere
        heads = self.config.num_attention_heads
        return outside[:, None].repeat(1, heads, 1, 1).flatten(0, 1)

    def _self_attention_mask(self, order):
        names = [name for name in order for _ in range(self.groups[name].content.shape[1])]
        objects, padding = self._joined("objects", order).tolist(), self._joined("padding", order).tolist()
        forbidden = torch.ones(self.batch_size, len(names), len(names), dtype=torch.bool)
        for image in range(self.batch_size):
            for i, reader in enumerate(names):
                for j, read in enumerate(names):
                    known = read in SEES[reader] and objects[image][i] == objects[image][j]
                    # Padding sees only itself, so that its row of attention is defined.
                    hidden = (padding[image][i] or padding[image][j]) and i != j
                    forbidden[image, i, j] = hidden or not known
        return forbidden.repeat_interleave(self.config.num_attention_heads, dim=0)
