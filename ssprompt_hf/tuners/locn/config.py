from dataclasses import dataclass

import torch

from ...errors import AdapterError
from ..base.config import check_choice
from ..peft_compat import PromptPeftType
from ..text.config import FROZEN, TextPromptConfig

WORDS_PER_CLASS = ("name", "one")


@dataclass
class LOCNConfig(TextPromptConfig):
    """
    Configuration of LOCN, from "Learning to Name Classes for Vision and Language Models" (Parisot et al., 2023): the
    word embeddings of the class names are learned, in a fixed template; the rest of the vocabulary is frozen.

    Args:
        template (`str`, *optional*):
            A sentence with one `{}` for the class. By default that of the base model, if it has only one, otherwise
            `"a photo of a {}."`.
        words_per_class (`str`, *optional*, defaults to `"name"`):
            `"name"`: as many word embeddings as the class name has tokens, so that the untrained adapter gives the
            class embeddings of the template exactly. `"one"`: a single one, which starts as the mean of them; the two
            are the same for names of one token.

    Raises:
        AdapterError: a value is out of range.
    """

    template: str | None = None
    words_per_class: str = "name"

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PromptPeftType.LOCN
        check_choice("words_per_class", self.words_per_class, WORDS_PER_CLASS)
        if self.template is not None and self.template.count("{}") != 1:
            raise AdapterError(f"template is {self.template!r}; it needs exactly one {{}} for the class name")

    @property
    def learned(self) -> str:
        """See [`PromptConfig.learned`]."""
        return "words for the classes"

    @property
    def paper(self) -> str:
        """See [`PromptConfig.paper`]."""
        return "Learning to Name Classes for Vision and Language Models"

    @property
    def default_learning_rate(self) -> float:
        """See [`PromptConfig.default_learning_rate`]."""
        return 0.1

    def _surroundings(self, template: str) -> tuple[str, str]:
        self.template = self.template or template
        return tuple(self.template.split("{}"))

    def _counts(self) -> list[int]:
        """Number of learned words of each class."""
        return [len(ids) if self.words_per_class == "name" else 1 for ids in self.class_token_ids]

    def _prompt(self, index: int) -> tuple[list[int], list[int]]:
        counts = self._counts()
        start = sum(counts[:index])
        before, after = self.prefix_token_ids, self.suffix_token_ids
        ids = before + [0] * counts[index] + after
        words = list(range(start, start + counts[index]))
        return ids, [FROZEN] * len(before) + words + [FROZEN] * len(after)

    def words_shape(self, width: int | None) -> tuple[int | None, ...]:
        """`(words, width)`, those of the first class first; see the base class."""
        return sum(self._counts()), width

    def initial_words(self, vocabulary: torch.Tensor | None, width: int) -> torch.Tensor | None:
        """See the base class."""
        if vocabulary is None:
            return None
        names = [vocabulary[ids] for ids in self.class_token_ids]
        if self.words_per_class == "one":
            names = [words.mean(dim=0, keepdim=True) for words in names]
        return torch.cat(names)
