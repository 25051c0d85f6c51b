"""A small SEEM with all its parts, random but always the same, for tests of adapters."""

import torch
from peft import get_peft_model
from torch.nn.functional import normalize

from ssprompt_hf.models.seem.configuration_seem import SeemConfig
from ssprompt_hf.models.seem.modeling_seem import SeemForUniversalSegmentation
from ssprompt_hf.tuners import SSPromptConfig

WIDTH = 32
CLASSES = ["road", "car", "sky"]
OTHER_CLASSES = ["water", "boat", "bridge", "person", "quay"]


def small_seem(class_names=CLASSES, thing_class_ids=(1,), seed: int = 0, **config) -> SeemForUniversalSegmentation:
    """Random weights; with class names, random unit-length class embeddings that depend on the names."""
    torch.manual_seed(seed)
    model = SeemForUniversalSegmentation(
        SeemConfig(
            **{
                "backbone_config": {"model_type": "seem_focalnet", "embed_dim": 8, "depths": [1, 1, 1, 1]},
                "text_config": {
                    "hidden_size": 16,
                    "intermediate_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "vocab_size": 50,
                    "bos_token_id": 0,
                    "eos_token_id": 49,
                },
                "feature_size": WIDTH,
                "mask_feature_size": WIDTH,
                "hidden_dim": WIDTH,
                "projection_dim": WIDTH,
                "encoder_layers": 1,
                "encoder_feedforward_dim": WIDTH,
                "dim_feedforward": WIDTH,
                "num_attention_heads": 2,
                "decoder_layers": 3,
                "num_queries": 6,
                **config,
            }
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the usual initialisation gives masks without any contrast
            if parameter.ndim > 1:
                parameter.mul_(3)
    if class_names is not None:
        set_classes(model, class_names, thing_class_ids)
    return model


def class_embeddings(class_names) -> torch.Tensor:
    """`(classes + 1, WIDTH)`, unit length, the same for the same names."""
    generator = torch.Generator().manual_seed(sum(map(len, class_names)) + len(class_names))
    return normalize(torch.randn(len(class_names) + 1, WIDTH, generator=generator), dim=-1)


def set_classes(model, class_names, thing_class_ids=()):
    """Stands in for the text encoder and its tokenizer."""
    model.set_class_embeddings(class_embeddings(class_names), list(class_names), list(thing_class_ids))


def word_tokenizer(words=("[pad]", "the", "sky", "car")):
    """A CLIP-like tokenizer of a few words; the end-of-text token has the largest id of the small vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<start>": 0, **{word: index + 1 for index, word in enumerate(words)}, "<end>": 49}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[pad]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 49)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[pad]", bos_token="<start>", eos_token="<end>", model_max_length=77
    )


def pixels(seed: int = 0) -> torch.Tensor:
    """Two images `(2, 3, 64, 64)`."""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def logits(model, pixel_values=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Class and mask logits."""
    with torch.no_grad():
        output = model(pixel_values=pixels() if pixel_values is None else pixel_values)
    return output.class_queries_logits, output.masks_queries_logits


def same(first, second) -> bool:
    """Whether two pairs of logits agree bit for bit."""
    return all(torch.equal(one, other) for one, other in zip(first, second))


def loss(model) -> torch.Tensor:
    output = model(pixel_values=pixels(1))
    return output.class_queries_logits.square().mean() + output.masks_queries_logits.sigmoid().mean()


def train(model, steps: int = 2, lr: float = 0.5):
    """Moves every trainable parameter of an adapted model."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return model.eval()


def adapted(model=None, **config):
    return get_peft_model(small_seem() if model is None else model, SSPromptConfig(**config))


def trained(**config):
    return train(adapted(**config))
