"""A small CLIPSeg, the model of transformers with the same weights, and what this says of one class."""

import copy

import torch
from torch.nn import functional as F
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor

from ssprompt_hf.models.clipseg import CLIPSegForPromptedSegmentation, CLIPSegImageProcessorPil
from ssprompt_hf.models.seem.byte_tokenizer import byte_tokenizer

CLASS_NAMES = ["car", "sky", "traffic_light", "a big old tree"]
PHRASES = [name.replace("_", " ") for name in CLASS_NAMES]
SIDE = 64
SIZES = {"embedding": 2, "reduces": 0.1, "transposed": 1.5}
"""Of the weights whose names contain a word, in units of the root of the numbers they sum; others have 2."""


def tiny_config() -> CLIPSegConfig:
    """Images of 64 pixels, patches of 16, built for 32: 17 tokens of width 8, and a class embedding of 12 numbers."""
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    tokens = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    return CLIPSegConfig(
        text_config={**layers, **tokens, "num_hidden_layers": 2, "max_position_embeddings": 40},
        vision_config={**layers, "num_hidden_layers": 5, "patch_size": 16, "image_size": 32},
        projection_dim=12,
        extract_layers=[1, 2, 3],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        use_complex_transposed_convolution=True,
        prompt_image_size=SIDE,
    )


def tiny_clipseg(class_names: list[str] | None = CLASS_NAMES, seed: int = 0) -> CLIPSegForPromptedSegmentation:
    """In evaluation mode, with weights of such a size that classes and pixels differ and no map is saturated."""
    torch.manual_seed(seed)
    model = CLIPSegForPromptedSegmentation(tiny_config()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                fan_in = len(parameter) if "transposed" in name else parameter[0].numel()
                size = next((size for part, size in SIZES.items() if part in name), 2)
                parameter.normal_(std=size * fan_in**-0.5)
    if class_names is not None:
        model.set_class_names(class_names, tokenizer(), [0])
    return model


def tokenizer():
    return byte_tokenizer(40)


def theirs(model: torch.nn.Module) -> CLIPSegForImageSegmentation:
    """Transformers' own model with the same weights."""
    plain = CLIPSegForImageSegmentation(tiny_config()).eval()
    own = ("token_offsets.", "class_embeddings.")
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith(own)})
    return plain.to(model.dtype)


def aligned(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose weights lie as if they had been made in memory. `from_pretrained` leaves them where they are in the
    file, at odd addresses, from which products are computed in other steps and rounded differently."""
    return copy.deepcopy(model)


def images(count: int = 2, side: int = SIDE, seed: int = 1) -> torch.Tensor:
    """`(count, 3, side, side)`, with structure at two scales."""
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = (torch.randn(count, 3, side // step, side // step, generator=generator) for step in (16, 2))
    return F.interpolate(2 * coarse, size=(side, side), mode="bilinear") + F.interpolate(fine, size=(side, side)) / 2


def phrase(name: str) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, as `CLIPSegProcessor` makes them."""
    processor = CLIPSegProcessor(image_processor=CLIPSegImageProcessorPil(), tokenizer=tokenizer())
    return dict(processor(text=name, return_tensors="pt", padding=True))


@torch.no_grad()
def reference(model: torch.nn.Module, pixel_values: torch.Tensor, phrases: list[str] = PHRASES) -> torch.Tensor:
    """`(P, H, W)`: logits of transformers' model, asked image by image and phrase by phrase."""
    plain = theirs(model)
    return torch.cat(
        [plain(pixel_values=image[None], **phrase(text)).logits for image in pixel_values for text in phrases]
    )
