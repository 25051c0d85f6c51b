"""SEEM's text encoder: CLIP's causal transformer with a linear projection, run on no more tokens than needed.

Under the causal mask a position depends only on those before it. Two exact savings follow. Phrases are cut after the
end of the longest one, instead of being run to the 77 tokens that the tokenizer pads to. And sentences with a common
beginning share its computation: `encode_class_names` packs the prefix tree of its sentences into a few sequences whose
attention mask lets every token see its own ancestors and nothing else.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextModel
from transformers.utils import ModelOutput

from ...utils.cpu_ops import Linear
from ...utils.names import clean_class_name
from ..transformers_compat import create_causal_mask, replace_modules
from .configuration_seem import SeemTextConfig
from .prompt_templates import PROMPT_TEMPLATES

BACKGROUND_CLASS = "background"
"""Name of the last class of every SEEM class list; it stands for "no object"."""

_EPSILON = 1e-7  # the official normalisation is x / (|x| + 1e-7)
_MAX_PACKED_TOKENS = 256  # longer packs share more prefixes but spend more on masked-out attention


@dataclass
class SeemTextOutput(ModelOutput):
    """
    Output of [`SeemTextModel`]; L is the length of the longest phrase in the batch.

    token_embeddings (`torch.FloatTensor` of shape `(batch_size, L, projection_dim)`):
        Projected states of all tokens, not normalised.
    text_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`):
        The projected state at the end-of-text token of each phrase, not normalised.
    attention_mask (`torch.BoolTensor` of shape `(batch_size, L)`):
        Which tokens belong to their phrase (start and end tokens included).
    """

    token_embeddings: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    attention_mask: torch.BoolTensor | None = None


def fill_templates(class_names: list[str], templates: tuple[str, ...] | None = None) -> list[str]:
    """
    Put every class name into every template.

    Args:
        class_names (`list[str]`): K names; COCO's "-other", "-merged" and "-stuff" are removed from them.
        templates (`tuple[str]`, *optional*): T sentences with one `{}`; by default the 81 official ones.

    Returns:
        `list[str]`: K * T sentences, those of the first class first.

    Raises:
        ValueError: if there are no names or no templates, a name is not a non-empty string, or a template lacks `{}`.
    """
    templates = PROMPT_TEMPLATES if templates is None else tuple(templates)
    if not class_names or isinstance(class_names, str):
        raise ValueError(f"`class_names` must be a non-empty list of strings, got {class_names!r}.")
    for name in class_names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"Every class name must be a non-empty string, got {name!r} in {list(class_names)}.")
    if not templates:
        raise ValueError("`templates` is empty: pass at least one sentence with `{}`, or None for the official ones.")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"A template needs exactly one `{{}}` for the class name, got {template!r}.")
    return [template.replace("{}", clean_class_name(name)) for name in class_names for template in templates]


class SeemTextModel(nn.Module):
    """
    CLIP text transformer and projection into the space that queries and classes share.

    Args:
        config (`SeemTextConfig`): the transformer.
        projection_dim (`int`): P, the dimension of the shared space.
    """

    def __init__(self, config: SeemTextConfig, projection_dim: int):
        super().__init__()
        self.config = config
        self.text_encoder = CLIPTextModel(config)
        # a faster product on the CPU
        replace_modules(
            self.text_encoder,
            {nn.Linear: lambda old: Linear(old.in_features, old.out_features, bias=old.bias is not None)},
        )
        self.projection = Linear(config.hidden_size, projection_dim, bias=False)

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embeddings, (vocab_size, hidden_size)."""
        return self.text_encoder.embeddings.token_embedding

    def _encode(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs) -> torch.Tensor:
        # CLIPTextModel.forward would take neither `inputs_embeds` nor a prefix-tree mask.
        hidden_states = self.text_encoder.encoder(hidden_states, attention_mask, **kwargs).last_hidden_state
        return self.projection(self.text_encoder.final_layer_norm(hidden_states))

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        truncate: bool = True,
    ) -> SeemTextOutput:
        """
        Encode phrases.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, T)`): tokens; padding may be of any length and value
                below the end-of-text token, which is found as the first largest id of each row.
            attention_mask (`torch.Tensor` of shape `(batch_size, T)`, *optional*): which tokens are not padding. It
                has no effect on attention, which is causal; it is returned, cut, for those who use the tokens. By
                default everything up to the end-of-text token.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, T, hidden_size)`, *optional*): word embeddings
                in place of `input_ids` (learned context); needs `end_positions`. Gradients flow into it.
            end_positions (`torch.LongTensor` of shape `(batch_size,)`, *optional*): index of the end-of-text token.
            truncate (`bool`, *optional*, defaults to `True`): cut after the longest phrase; with `False`, L = T.

        Raises:
            ValueError: if not exactly one of `input_ids` and `inputs_embeds` is given, `end_positions` is missing for
                `inputs_embeds`, or phrases are longer than the position embeddings.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass either `input_ids` or `inputs_embeds`.")
        if end_positions is None:
            if input_ids is None:
                raise ValueError("`inputs_embeds` needs `end_positions`, the indices of the end-of-text tokens.")
            end_positions = input_ids.argmax(dim=-1)
        inputs = input_ids if inputs_embeds is None else inputs_embeds

        if attention_mask is None:
            positions = torch.arange(inputs.shape[1], device=inputs.device)
            attention_mask = positions <= end_positions[:, None]
        attention_mask = attention_mask.bool()
        if truncate:
            positions = torch.arange(1, inputs.shape[1] + 1, device=inputs.device)
            length = max(int(end_positions.max()) + 1, int((attention_mask * positions).max()))
            inputs, attention_mask = inputs[:, :length], attention_mask[:, :length]
        limit = self.config.max_position_embeddings
        if inputs.shape[1] > limit:
            raise ValueError(
                f"A phrase has {inputs.shape[1]} tokens, but the text encoder holds {limit} positions: shorten it, or "
                f"tokenize with truncation=True, max_length={limit}."
            )

        if inputs_embeds is None:
            hidden_states = self.text_encoder.embeddings(input_ids=inputs)
        else:
            hidden_states = self.text_encoder.embeddings(inputs_embeds=inputs)
        # By position: transformers renamed the last one, the cache, in 5.24.
        causal_mask = create_causal_mask(self.text_encoder.config, hidden_states, None, None)
        token_embeddings = self._encode(hidden_states, causal_mask, is_causal=True)
        rows = torch.arange(token_embeddings.shape[0], device=token_embeddings.device)
        return SeemTextOutput(
            token_embeddings=token_embeddings,
            text_embeds=token_embeddings[rows, end_positions],
            attention_mask=attention_mask,
        )

    @torch.no_grad()
    def encode_class_names(
        self,
        class_names: list[str],
        tokenizer: Any,
        templates: tuple[str, ...] | None = None,
        add_background: bool = False,
        batch_size: int = 4,
    ) -> torch.FloatTensor:
        """
        Class embeddings by the official ensemble: each name in each template, each embedding normalised with
        x / (|x| + 1e-7), averaged over the templates, normalised again.

        Args:
            class_names (`list[str]`): K names.
            tokenizer: a CLIP-like tokenizer whose end-of-text token has the largest id.
            templates (`tuple[str]`, *optional*): sentences with one `{}`; by default the 81 official ones. `("{}",)`
                is the bare name.
            add_background (`bool`, *optional*, defaults to `False`): append the row of "background".
            batch_size (`int`, *optional*, defaults to 4): packs of up to 256 tokens that run together.

        Returns:
            `torch.FloatTensor` of shape `(K, P)`, or `(K + 1, P)` with the background last: unit vectors.

        Raises:
            ValueError: as [`fill_templates`].
        """
        class_names = [*class_names, BACKGROUND_CLASS] if add_background else class_names
        sentences = fill_templates(class_names, templates)
        distinct = {sentence: index for index, sentence in enumerate(dict.fromkeys(sentences))}
        token_ids = tokenizer(list(distinct), truncation=True, max_length=self.config.max_position_embeddings)
        # Nothing after the end-of-text token, the largest id, can reach the embedding.
        token_ids = [tuple(ids[: ids.index(max(ids)) + 1]) for ids in token_ids["input_ids"]]

        embeddings = self._encode_packed(token_ids, batch_size)
        rows = torch.tensor([distinct[sentence] for sentence in sentences], device=embeddings.device)
        embeddings = embeddings[rows].view(len(class_names), -1, embeddings.shape[-1])
        return self.class_embeddings(embeddings).to(self._dtype)

    @staticmethod
    def class_embeddings(text_embeds: torch.Tensor) -> torch.Tensor:
        """
        Class embeddings from those of sentences, as the official ensemble makes them.

        Args:
            text_embeds: `(K, T, P)`, T sentences a class, not normalised.

        Returns:
            `(K, P)`, unit vectors, in float32 at least.
        """
        text_embeds = text_embeds.to(torch.promote_types(text_embeds.dtype, torch.float32))
        text_embeds = text_embeds / (text_embeds.norm(dim=-1, keepdim=True) + _EPSILON)
        mean = text_embeds.mean(dim=1)
        return mean / mean.norm(dim=-1, keepdim=True)

    @property
    def _dtype(self) -> torch.dtype:
        return self.projection.weight.dtype

    def _encode_packed(self, token_ids: list[tuple[int, ...]], batch_size: int) -> torch.Tensor:
        """Embeddings at the last token of each sequence, (len(token_ids), P), in the order given."""
        device = self.projection.weight.device
        if self.text_encoder.config._attn_implementation not in ("eager", "sdpa"):
            # Other attention functions take no arbitrary mask.
            return self._encode_padded(token_ids, batch_size)
        packs = pack_prefix_trees(token_ids, _MAX_PACKED_TOKENS)
        output = torch.empty(len(token_ids), self.projection.out_features, dtype=self._dtype, device=device)
        for start in range(0, len(packs), batch_size):
            batch = packs[start : start + batch_size]
            length = max(len(pack.token_ids) for pack in batch)
            input_ids = torch.zeros(len(batch), length, dtype=torch.long)
            position_ids = torch.zeros_like(input_ids)
            visible = torch.eye(length, dtype=torch.bool).repeat(len(batch), 1, 1)
            for row, pack in enumerate(batch):
                size = len(pack.token_ids)
                input_ids[row, :size] = torch.tensor(pack.token_ids)
                position_ids[row, :size] = torch.tensor(pack.depths)
                visible[row, :size, :size] = pack.visible()
            # Not `embeddings(input_ids, position_ids)`, which refuses inputs longer than a phrase may be.
            hidden_states = self.text_encoder.embeddings.token_embedding(input_ids.to(device))
            hidden_states = hidden_states + self.text_encoder.embeddings.position_embedding(position_ids.to(device))
            mask = torch.zeros(visible.shape, dtype=hidden_states.dtype, device=device)
            mask.masked_fill_(~visible.to(device), torch.finfo(mask.dtype).min)
            embeddings = self._encode(hidden_states, mask[:, None], is_causal=False)
            for row, pack in enumerate(batch):
                output[list(pack.ends)] = embeddings[row, list(pack.ends.values())]
        return output

    def _encode_padded(self, token_ids: list[tuple[int, ...]], batch_size: int) -> torch.Tensor:
        """As `_encode_packed`, without sharing: sequences of similar length run together."""
        device = self.projection.weight.device
        order = sorted(range(len(token_ids)), key=lambda index: len(token_ids[index]))
        output = torch.empty(len(token_ids), self.projection.out_features, dtype=self._dtype, device=device)
        for start in range(0, len(order), 8 * batch_size):
            rows = order[start : start + 8 * batch_size]
            sequences = [torch.tensor(token_ids[row]) for row in rows]
            input_ids = nn.utils.rnn.pad_sequence(sequences, batch_first=True).to(device)
            ends = torch.tensor([len(sequence) - 1 for sequence in sequences], device=device)
            output[rows] = self(input_ids, end_positions=ends).text_embeds
        return output


@dataclass
class PrefixTree:
    """Token sequences with their common beginnings stored once, parents before children."""

    token_ids: list[int]
    depths: list[int]  # position of each token in its sequences
    parents: list[int]  # -1 for the first token
    ends: dict[int, int]  # index of a sequence -> node of its last token

    def visible(self) -> torch.BoolTensor:
        """(n, n): whether the token of a row may attend to that of a column, itself or an ancestor."""
        mask = torch.eye(len(self.token_ids), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                mask[node] |= mask[parent]
        return mask


def pack_prefix_trees(sequences: list[tuple[int, ...]], max_tokens: int) -> list[PrefixTree]:
    """
    Distribute sequences over prefix trees of at most `max_tokens` tokens (more only if one sequence is longer).

    In lexicographic order sequences that share a beginning are neighbours, so that one pass over them, which keeps the
    path to the last token written, finds all sharing within a tree.
    """
    trees: list[PrefixTree] = []
    path: list[int] = []  # nodes of the previous sequence
    previous: tuple[int, ...] = ()
    for index in sorted(range(len(sequences)), key=sequences.__getitem__):
        sequence = sequences[index]
        shared = 0
        while shared < min(len(previous), len(sequence)) and previous[shared] == sequence[shared]:
            shared += 1
        if not trees or len(trees[-1].token_ids) + len(sequence) - shared > max_tokens:
            trees.append(PrefixTree([], [], [], {}))
            path, shared = [], 0
        tree = trees[-1]
        path = path[:shared]
        for depth in range(shared, len(sequence)):
            tree.parents.append(path[-1] if path else -1)
            tree.token_ids.append(sequence[depth])
            tree.depths.append(depth)
            path.append(len(tree.token_ids) - 1)
        tree.ends[index] = path[-1]
        previous = sequence
    return trees
