"""Words for SAM and SAM 2, which know none: a text encoder of CLIP that is lent to them, and what makes tokens of it.

The SSPrompt paper compares CoOp and LOCN on SAM (Table 9), and its text does not say how words got into a model that
reads none. This is our reading: the embedding that CLIP has for a sentence is mapped to prompt tokens by a projection
that is fixed, as everything but the words is frozen. Where the words lead, learning finds out; the projection only has
to keep apart what CLIP keeps apart, and to give tokens of the size that the mask decoder is used to.

[`project_text`] says which projection that is. It has no weights: no file can be lost, and it is the same everywhere.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from ...errors import AdapterError, SSPromptError
from ..clip_text import spoken_name, text_embeddings

DEFAULT_TEXT_ENCODER = "openai/clip-vit-base-patch32"


@cache
def hadamard_signs(rows: int, columns: int) -> Tensor:
    """
    The upper left `(rows, columns)` corner of a Hadamard matrix: numbers of 1 and -1, any two rows of the whole matrix
    at right angles, float32.

    It is Sylvester's, `(-1)^popcount(i & j)`, with the sign of every column j changed by the Rudin-Shapiro sequence,
    `(-1)^popcount(j & (j >> 1))`. Without that its first row would add up all numbers of an embedding, so that what
    all embeddings have in common would end up in one number of a token.
    """
    # kept for all callers, whatever the first of them was doing
    with torch.inference_mode(False), torch.device("cpu"):
        i, j = torch.arange(rows)[:, None], torch.arange(columns)
        bits = (i & j) ^ (j & (j >> 1))  # the parity of a sum of two counts is that of the exclusive or
        for shift in (16, 8, 4, 2, 1):
            bits = bits ^ (bits >> shift)
        return 1.0 - 2.0 * (bits & 1)


def project_text(embeddings: Tensor, num_tokens: int, width: int, size: float) -> Tensor:
    """
    Prompt tokens of text embeddings, differentiable in them: `y = H x`, with the first `T * D` rows of a Hadamard
    matrix ([`hadamard_signs`]), and then `size * y / rms(y)`.

    Only the direction of an embedding counts, as for CLIP itself, and every number of a token depends on all of it.
    Angles between embeddings stay about as they are; with `T * D >= P` (two tokens for CLIP's 512 numbers) nothing is
    lost at all, and further tokens repeat the first.

    Args:
        embeddings: `(K, P)`.
        num_tokens, width: T and D.
        size: root mean square of the numbers of each class's tokens.

    Returns:
        `(K, T, D)`, float32 at least.
    """
    embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    tokens = embeddings @ hadamard_signs(num_tokens * width, embeddings.shape[-1]).to(embeddings).T
    mean_square = tokens.square().mean(dim=-1, keepdim=True)
    tokens = size * tokens * mean_square.clamp(min=torch.finfo(tokens.dtype).tiny).rsqrt()
    return tokens.unflatten(-1, (num_tokens, width))


class SamWords:
    """
    What lets SAM and SAM 2 read words: a mix-in beside [`SamPrompting`]. The text encoder is no part of the model: it
    is lent for as long as words are learned, and never saved with it.
    """

    text_encoder: CLIPTextModelWithProjection | None

    def lend_text_encoder(self, text_encoder: CLIPTextModelWithProjection) -> None:
        """
        Hold a text encoder, in its own dtype; `config.text_encoder` then names it.

        Args:
            text_encoder: of CLIP, on the device of the model.
        """
        self.text_encoder = text_encoder.eval().requires_grad_(False)
        self.config.text_encoder = text_encoder.name_or_path or self.config.text_encoder
        self._keys_to_ignore_on_save |= {f"text_encoder.{name}" for name in text_encoder.state_dict()}

    def drop_text_encoder(self) -> None:
        """See [`PromptableModel.drop_text_encoder`]."""
        self.text_encoder = None

    @property
    def borrowed_text_encoder(self) -> str:
        """See [`PromptableModel.borrowed_text_encoder`]."""
        return self.config.text_encoder

    def word_embeddings(self) -> nn.Embedding | None:
        """See [`PromptableModel.word_embeddings`]."""
        return None if self.text_encoder is None else self.text_encoder.get_input_embeddings()

    @property
    def max_text_tokens(self) -> int | None:
        """See [`PromptableModel.max_text_tokens`]."""
        return None if self.text_encoder is None else self.text_encoder.config.max_position_embeddings

    @property
    def text_width(self) -> int | None:
        """See [`PromptableModel.text_width`]."""
        return None if self.text_encoder is None else self.text_encoder.config.hidden_size

    def encode_words(self, inputs_embeds: Tensor, ends: Tensor) -> Tensor:
        """
        Class tokens `(K, T, D)` of `(K, words, width)`; see [`PromptableModel.encode_words`]. T is
        `config.num_class_tokens`.

        Raises:
            AdapterError: no text encoder.
            SSPromptError: more words than it reads.
        """
        self._check_text_encoder()
        if inputs_embeds.shape[1] > self.max_text_tokens:
            raise SSPromptError(
                f"{inputs_embeds.shape[1]} tokens were given; the text encoder reads {self.max_text_tokens}"
            )
        encoder = self.text_encoder
        return self._class_tokens(text_embeddings(encoder.text_model, encoder.text_projection, inputs_embeds, ends))

    @torch.no_grad()
    def encode_sentences(self, class_names: list[str], tokenizer: Any) -> Tensor:
        """
        Class tokens `(K, T, D)` of the names in `class_template`: the projection of what
        `CLIPTextModelWithProjection` says of each sentence alone.

        Raises:
            AdapterError: no text encoder.
            SSPromptError: a sentence with more words than it reads.
        """
        self._check_text_encoder()
        embeddings = []
        for name in class_names:
            sentence = self.class_template.format(spoken_name(name))
            tokens = tokenizer(sentence, return_tensors="pt").to(self.text_encoder.device)
            if tokens.input_ids.shape[1] > self.max_text_tokens:
                raise SSPromptError(
                    f"{sentence!r} has {tokens.input_ids.shape[1]} tokens, but the text encoder reads at most "
                    f"{self.max_text_tokens}: shorten it"
                )
            embeddings.append(self.text_encoder(tokens.input_ids, tokens.attention_mask).text_embeds)
        return self._class_tokens(torch.cat(embeddings))

    def encode_class_names(self, class_names: list[str], tokenizer: Any) -> Tensor:
        """See [`PromptableModel.encode_class_names`]: the mean token of each, `(K, D)`."""
        return self.prompt_vectors(self.encode_sentences(class_names, tokenizer))

    def _class_tokens(self, embeddings: Tensor) -> Tensor:
        return project_text(embeddings, self.config.num_class_tokens, self.width, self.token_size())

    def _check_text_encoder(self) -> None:
        if self.text_encoder is None:
            raise AdapterError(
                f"{self.model_title} knows no words, and no text encoder was lent to it: load it with "
                "prompt_encoders=('text',), which takes that of config.text_encoder "
                f"({self.config.text_encoder})"
            )
