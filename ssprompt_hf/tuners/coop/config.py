from dataclasses import dataclass

import torch

from ...errors import AdapterError
from ..base.config import check_choice, check_range
from ..peft_compat import PromptPeftType
from ..text.config import FROZEN, TextPromptConfig

POSITIONS = ("end", "middle", "front")
MAX_CONTEXT_TOKENS = 1024
"""More than any text encoder reads."""


@dataclass
class CoOpConfig(TextPromptConfig):
    """
    Configuration of CoOp, from "Learning to Prompt for Vision-Language Models" (Zhou et al., 2022): the words around
    the class names are learned.

    Args:
        num_context_tokens (`int`, *optional*, defaults to 16):
            Number M of learned words.
        class_token_position (`str`, *optional*, defaults to `"end"`):
            Where the class name stands: after the context (`"end"`), after its first half (`"middle"`) or before it
            (`"front"`).
        class_specific_context (`bool`, *optional*, defaults to `False`):
            Learn a context for each class, instead of one for all.
        context (`str`, *optional*):
            Words to start from, such as `"a photo of a"`; their number of tokens then replaces `num_context_tokens`.
            By default the context is random.
        init_std (`float`, *optional*, defaults to 0.02):
            Standard deviation of the random context.
        suffix (`str`, *optional*):
            What ends the sentence. By default what follows the class name in the base model's template, if it has only
            one, otherwise ".", as in CoOp's code.

    Raises:
        AdapterError: a value is out of range.
    """

    num_context_tokens: int = 16
    class_token_position: str = "end"
    class_specific_context: bool = False
    context: str | None = None
    init_std: float = 0.02
    suffix: str | None = None

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PromptPeftType.COOP
        check_choice("class_token_position", self.class_token_position, POSITIONS)
        check_range("num_context_tokens", self.num_context_tokens, 1, MAX_CONTEXT_TOKENS)
        if self.init_std < 0:
            raise AdapterError(f"init_std is {self.init_std}; it must not be negative")
        if self.context is not None and not self.context.strip():
            raise AdapterError("context is empty: name at least one word, or leave it None for a random context")
        if self.prefix_token_ids:
            self.num_context_tokens = len(self.prefix_token_ids)

    @property
    def learned(self) -> str:
        """See [`PromptConfig.learned`]."""
        return "context words of the class names"

    @property
    def paper(self) -> str:
        """See [`PromptConfig.paper`]."""
        return "Learning to Prompt for Vision-Language Models"

    @property
    def default_learning_rate(self) -> float:
        """See [`PromptConfig.default_learning_rate`]."""
        return 0.3

    def _surroundings(self, template: str) -> tuple[str, str]:
        if self.suffix is None:
            self.suffix = template.split("{}")[1]
        context = "" if self.context is None else self.context.replace("_", " ").strip() + " "
        return context, self.suffix

    def _prompt(self, index: int) -> tuple[list[int], list[int]]:
        length = self.num_context_tokens
        start = index * length if self.class_specific_context else 0
        before = {"end": length, "middle": length // 2, "front": 0}[self.class_token_position]
        context, name = [0] * length, self.class_token_ids[index]
        ids = context[:before] + name + context[before:] + self.suffix_token_ids
        words = list(range(start, start + length))
        sources = words[:before] + [FROZEN] * len(name) + words[before:] + [FROZEN] * len(self.suffix_token_ids)
        return ids, sources

    def words_shape(self, width: int | None) -> tuple[int | None, ...]:
        """`(M, width)`, or `(K, M, width)` for a context of each class; see the base class."""
        return (len(self.class_names),) * self.class_specific_context + (self.num_context_tokens, width)

    def initial_words(self, vocabulary: torch.Tensor | None, width: int) -> torch.Tensor | None:
        """See the base class."""
        shape = self.words_shape(width)
        if not self.prefix_token_ids:
            return torch.randn(shape) * self.init_std
        return None if vocabulary is None else vocabulary[self.prefix_token_ids].expand(shape).clone()
