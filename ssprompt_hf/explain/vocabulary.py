"""Words that tell where a class embedding lies: those whose embeddings are nearest to it."""

import os
from collections.abc import Iterable
from typing import Any

import torch

from ..data.datasets import ade20k, cityscapes, pascal_context
from ..data.street_scenes.classes import CUSTOM_CLASSES, STREET_SYNONYMS
from ..errors import SSPromptError, UnreadableFileError
from ..models.interface import PromptableModel
from ..utils.files import read_text
from ..utils.names import clean_class_name


def built_in_words() -> list[str]:
    """The class names of Cityscapes, ADE20K, PASCAL Context and the street scenes, and synonyms of the last."""
    names = [name for module in (cityscapes, ade20k, pascal_context) for name in module.CLASSES.names]
    return [*names, *(word for words in STREET_SYNONYMS.values() for word in words), *CUSTOM_CLASSES]


def read_words(path: str | os.PathLike) -> list[str]:
    """
    Words from a text file, one (or one phrase) a line; empty lines are skipped.

    Raises:
        SSPromptError: the file cannot be read, or holds no word.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnreadableFileError) as error:
        raise SSPromptError(f"--words {os.fspath(path)!r} cannot be read as UTF-8 text ({error})") from error
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise SSPromptError(f"--words {os.fspath(path)!r} holds no word: write one a line")
    return words


def distinct_words(*lists: Iterable[str]) -> list[str]:
    """All words of the lists in their order; of those that differ in case or underscores alone, the first."""
    found: dict[str, str] = {}
    for word in (word for words in lists for word in words):
        found.setdefault(" ".join(clean_class_name(word).replace("_", " ").lower().split()), word)
    return list(found.values())


@torch.no_grad()
def nearest_words(words: list[str], embeddings: torch.Tensor, prompts: torch.Tensor, count: int = 5) -> list[list]:
    """
    The words nearest to class embeddings.

    Args:
        words: V words.
        embeddings: `(V, P)`, of the words.
        prompts: `(K, P)`, of the classes.
        count: how many words for each class.

    Returns:
        for each class a list of `[word, cosine]`, nearest first.
    """
    embeddings, prompts = (torch.nn.functional.normalize(rows.float(), dim=-1) for rows in (embeddings, prompts))
    values, indices = (prompts @ embeddings.T).topk(min(count, len(words)), dim=-1)
    return [
        [[words[index], round(value, 4)] for index, value in zip(*row)]
        for row in zip(indices.tolist(), values.tolist())
    ]


def explain_words(
    model: PromptableModel,
    tokenizer: Any,
    words: list[str],
    before: torch.Tensor,
    after: torch.Tensor,
    count: int = 5,
) -> dict[str, Any]:
    """
    The words nearest to the semantic prompts before and after learning.

    Args:
        model: the base model with its text encoder; words are embedded as class names are.
        tokenizer: of the base model.
        words: the vocabulary.
        before, after: semantic prompts `(K, P)`, as `PromptableModel.prompt_vectors` gives them.
        count: how many words for each class.

    Returns:
        `vocabulary`, the number of words; `before` and `after`, as `nearest_words` gives them.
    """
    embeddings = model.encode_class_names(words, tokenizer).to(before.device)
    return {
        "vocabulary": len(words),
        "before": nearest_words(words, embeddings, before, count),
        "after": nearest_words(words, embeddings, after, count),
    }
