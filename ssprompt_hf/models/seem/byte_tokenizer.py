"""A tokenizer that needs no vocabulary to be downloaded."""

from transformers import CLIPTokenizer

from ..transformers_compat import bytes_to_unicode


def byte_tokenizer(model_max_length: int = 64) -> CLIPTokenizer:
    """
    CLIP's tokenizer without merges: one token a byte, so that any name can be written in 514 tokens.

    That of `seem-lite` and `seem-nano`, and of random models, whose text encoder has to read something. Sentences are
    about four times as long as in CLIP's own vocabulary.

    Args:
        model_max_length: tokens of the longest sentence that is not cut.
    """
    symbols = list(bytes_to_unicode().values())
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=model_max_length)
