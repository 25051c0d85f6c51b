"""What the configurations of methods that learn words share: tokens of class names and what surrounds them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ...errors import AdapterError
from ...models.interface import DEFAULT_TEMPLATE
from ...utils.names import clean_class_name
from ..base.config import PromptConfig

FROZEN = -1


class TextLayout(NamedTuple):
    """
    The prompts of all classes, which words of them are learned, and where they end.

    token_ids (`(K, T)`, int64): padded with 0, and 0 where a word is learned.
    sources (`(K, T)`, int64): rows of the learned words, -1 where the word is that of the vocabulary.
    ends (`(K,)`, int64): positions of the end-of-text tokens.
    """

    token_ids: torch.Tensor
    sources: torch.Tensor
    ends: torch.Tensor


@dataclass
class TextPromptConfig(PromptConfig):
    """
    Base of the configurations of methods that learn words in front of a frozen text encoder.

    A PEFT configuration cannot hold a tokenizer, so it holds tokens. They are filled in when the adapter is created,
    with the tokenizer of the base model or that of `tokenizer_name`; or before, by [`~TextPromptConfig.tokenize`].

    Args:
        tokenizer_name (`str`, *optional*):
            Folder, Hub id or base-model name to load the tokenizer from; by default the base model's.
        class_token_ids (`list[list[int]]`, *optional*):
            Tokens of each class name. Underscores become spaces.
        prefix_token_ids, suffix_token_ids (`list[int]`, *optional*):
            Tokens before and after the class name.
        start_token_id, end_token_id (`int`, *optional*):
            What the tokenizer puts around a sentence.
        text_encoder (`str`, *optional*):
            Folder or Hub id of the text encoder, for base models that have none of their own and borrow one (SAM,
            SAM 2); filled in with the one that made the adapter, by default `"openai/clip-vit-base-patch32"`.
    """

    tokenizer_name: str | None = None
    class_token_ids: list[list[int]] | None = None
    prefix_token_ids: list[int] | None = None
    suffix_token_ids: list[int] | None = None
    start_token_id: int | None = None
    end_token_id: int | None = None
    text_encoder: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.class_token_ids is None:
            return
        missing = [
            name
            for name in ("class_names", "prefix_token_ids", "suffix_token_ids", "start_token_id", "end_token_id")
            if getattr(self, name) is None
        ]
        if missing:
            raise AdapterError(f"class_token_ids were given without {missing[0]}: let tokenize() fill them in")
        if len(self.class_token_ids) != len(self.class_names):
            raise AdapterError(
                f"{len(self.class_token_ids)} class_token_ids were given for {len(self.class_names)} class_names"
            )
        if empty := [name for name, ids in zip(self.class_names, self.class_token_ids) if not ids]:
            raise AdapterError(f"class_token_ids holds no token for {empty[0]!r}")

    @property
    def needs(self) -> tuple[str, ...]:
        """See [`PromptConfig.needs`]."""
        return ("words",)

    def prompt_encoders(self, is_new: bool, is_trainable: bool) -> tuple[str, ...]:
        """See [`PromptConfig.prompt_encoders`]. For inference the final class embeddings are in the adapter."""
        return ("text",) if is_new or is_trainable else ()

    def tokenize(self, class_names: list[str], tokenizer: Any, template: str = DEFAULT_TEMPLATE) -> "TextPromptConfig":
        """
        Fill in `class_names` and all tokens.

        Args:
            class_names: without "background", which keeps its default embedding.
            tokenizer: of the text encoder, or a processor that has it.
            template: a sentence with one `{}`, for what the configuration does not say itself.

        Returns:
            the configuration.

        Raises:
            AdapterError: the tokens of a name change with what surrounds it.
        """
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        before, after = self._surroundings(template)

        def cut(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text.strip() else []

        self.class_names = list(class_names)
        self.prefix_token_ids, self.suffix_token_ids = cut(before), cut(after)
        self.class_token_ids = []
        for name in class_names:
            words = clean_class_name(name).replace("_", " ")
            ids = cut(words)
            sentence = list(tokenizer(f"{before}{words}{after}")["input_ids"])
            self.start_token_id, self.end_token_id = sentence[0], sentence[-1]
            if not ids or sentence[1:-1] != [*self.prefix_token_ids, *ids, *self.suffix_token_ids]:
                raise AdapterError(
                    f"the class name {name!r} has no tokens of its own in {f'{before}{words}{after}'!r}: change the "
                    "name, or the words around it"
                )
            self.class_token_ids.append(ids)
        self.__post_init__()
        return self

    def _surroundings(self, template: str) -> tuple[str, str]:
        """The text before and after the class name, with spaces; remembers what it takes from the template."""
        raise NotImplementedError

    def _prompt(self, index: int) -> tuple[list[int], list[int]]:
        """Tokens and sources (see [`TextLayout`]) of one class, without start and end."""
        raise NotImplementedError

    def words_shape(self, width: int | None) -> tuple[int | None, ...]:
        """Of the learned words, for a text encoder of such a width."""
        raise NotImplementedError

    def initial_words(self, vocabulary: torch.Tensor | None, width: int) -> torch.Tensor | None:
        """
        The learned words before training, float, of `words_shape`; None if they start from the vocabulary and that is
        not there.

        Args:
            vocabulary: `(V, width)`, the word embeddings; None if the text encoder is not there.
            width: of the text encoder.
        """
        raise NotImplementedError

    def layout(self) -> TextLayout:
        """The prompts, once they have been tokenized."""
        prompts = [self._prompt(index) for index in range(len(self.class_names))]
        length = max(len(ids) for ids, _ in prompts) + 2
        token_ids = torch.zeros(len(prompts), length, dtype=torch.long)
        sources = torch.full_like(token_ids, FROZEN)
        for row, (ids, words) in enumerate(prompts):
            token_ids[row, : len(ids) + 2] = torch.tensor([self.start_token_id, *ids, self.end_token_id])
            sources[row, 1 : len(ids) + 1] = torch.tensor(words)
        return TextLayout(token_ids, sources, torch.tensor([len(ids) + 1 for ids, _ in prompts]))
