"""A tiny base model with text encoder, tokenizer and classes, and one adapter of every method on it."""

import torch
from peft import get_peft_model
from prompted_seem import small_seem, word_tokenizer

from ssprompt_hf.models.seem.modeling_seem import SeemForUniversalSegmentation
from ssprompt_hf.tuners import CoOpConfig, LOCNConfig, SSPromptConfig, VSPLConfig, point_grid_tokens

NAMES = ["sky", "traffic_light", "the car"]
TEMPLATE = "a photo of a {} ."
WORDS = ["[pad]", "the", "sky", "car", "a", "photo", "of", "traffic", "light", "."]


def tokenizer():
    """Words of the templates and names; some names have two."""
    return word_tokenizer(WORDS)


def base_model(dtype: torch.dtype = torch.float32, **config) -> SeemForUniversalSegmentation:
    """The same at every call; the text encoder has enough contrast to tell words apart."""
    model = small_seem(class_names=None, prompt_templates=[TEMPLATE], **config).to(dtype)
    if model.get_text_model() is not None:
        with torch.no_grad():
            model.get_text_model().get_input_embeddings().weight.mul_(10)
        model.set_class_names(NAMES, tokenizer(), [1, 2])
    return model


CONFIGS = {
    "SSPrompt": lambda: SSPromptConfig(init_embeddings="noise"),
    "SSPrompt on a point grid": lambda: SSPromptConfig(
        spatial_source="point_grid", point_grid_size=3, init_embeddings="noise", init_std=0.3
    ),
    "CoOp": lambda: CoOpConfig(num_context_tokens=4, init_std=0.3),
    "CoOp, class by class": lambda: CoOpConfig(
        num_context_tokens=3, init_std=0.3, class_specific_context=True, class_token_position="middle"
    ),
    "LOCN": LOCNConfig,
    "LOCN, one word": lambda: LOCNConfig(words_per_class="one"),
    "VSPL": lambda: VSPLConfig(point_grid_size=3),
}


def config_of(method: str):
    """Its configuration, with tokens where it needs them."""
    config = CONFIGS[method]()
    return config.tokenize(NAMES, tokenizer(), TEMPLATE) if hasattr(config, "tokenize") else config


def prepare(model, method: str):
    """The point grid's default tokens, which come from images."""
    if method == "SSPrompt on a point grid":
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
        base = model.get_base_model()
        model.set_point_tokens(point_grid_tokens(base, [{"pixel_values": images.to(base.dtype)}], 3))
    return model


def adapted(method: str, base=None, seed: int = 0):
    """The base model with an untrained adapter."""
    base = base_model() if base is None else base
    torch.manual_seed(seed)
    return prepare(get_peft_model(base, config_of(method)), method)
