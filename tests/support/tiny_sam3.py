"""Small SAM 3 models, the models of transformers with the same weights, and what these say of one class."""

import contextlib
import copy
import importlib
import sys
import types

import torch
from torch.nn import functional as F
from transformers import Sam3Config, Sam3LiteTextConfig, Sam3LiteTextModel, Sam3Model

from ssprompt_hf.models.sam3 import Sam3ForPromptedSegmentation, Sam3LiteTextForPromptedSegmentation
from ssprompt_hf.models.seem.byte_tokenizer import byte_tokenizer

CLASS_NAMES = ["car", "sky", "traffic_light", "a big old tree"]
PHRASES = [name.replace("_", " ") for name in CLASS_NAMES]
SIDE = 56
HEADS = {
    "semantic_logits": lambda output: output.semantic_seg[:, 0],
    "queries_logits": lambda output: output.pred_logits,
    "masks_logits": lambda output: output.pred_masks,
    "presence_logits": lambda output: output.presence_logits[:, 0],
}
"""Of our output, by what transformers' model says."""
OURS = {"sam3": Sam3ForPromptedSegmentation, "sam3_lite_text": Sam3LiteTextForPromptedSegmentation}
THEIRS = {"sam3": Sam3Model, "sam3_lite_text": Sam3LiteTextModel}


def tiny_config(kind: str = "sam3", width: int = 16, side: int = SIDE):
    """Of a few ten thousand parameters; squares of 56 pixels, patches of 14, windows of 2 x 2 patches."""
    attention = {"hidden_size": width, "num_attention_heads": 2}
    layers = {**attention, "num_layers": 2, "intermediate_size": 2 * width}
    backbone = {
        "model_type": "sam3_vit_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": side, "patch_size": 14, "window_size": 2, "global_attn_indexes": [1],
        "pretrain_image_size": 28, "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0},
    }  # fmt: skip
    text = {
        "vocab_size": 514, "hidden_size": 16, "intermediate_size": 32, "projection_dim": 16, "num_hidden_layers": 3,
        "num_attention_heads": 2, "max_position_embeddings": 32, "hidden_act": "gelu",
    }  # fmt: skip
    if kind == "sam3":
        text |= {"model_type": "clip_text_model", "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    else:
        text |= {"max_position_embeddings": 16, "layer_scale_init_value": 0.5}
    return (Sam3Config if kind == "sam3" else Sam3LiteTextConfig)(
        vision_config={"model_type": "sam3_vision_model", "backbone_config": backbone, "fpn_hidden_size": width},
        text_config=text,
        geometry_encoder_config={**layers, "num_layers": 1},
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 6},
        mask_decoder_config=attention,
    )


def tiny_sam3(kind: str = "sam3", class_names: list[str] | None = CLASS_NAMES, seed: int = 0, **config):
    """In evaluation mode, with weights large enough that classes, queries and pixels differ."""
    torch.manual_seed(seed)
    model = OURS[kind](tiny_config(kind, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    if class_names is not None:
        model.set_class_names(class_names, tokenizer(), [0])
    return model


def tokenizer():
    return byte_tokenizer(32)


def theirs(model: torch.nn.Module) -> torch.nn.Module:
    """Transformers' own model with the same weights."""
    kind = model.config.model_type
    side = model.config.image_size
    plain = THEIRS[kind](tiny_config(kind, model.config.detr_encoder_config.hidden_size, side)).eval()
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("class_tokens")}
    plain.load_state_dict(weights)
    return plain.to(next(model.parameters()).dtype)


def aligned(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose weights lie as if they had been made in memory. `from_pretrained` leaves them where they are in the
    file, at odd addresses, from which products are computed in other steps and rounded differently."""
    return copy.deepcopy(model)


def images(count: int = 2, side: int = SIDE, seed: int = 1) -> torch.Tensor:
    """`(count, 3, side, side)`, with structure at two scales."""
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = (torch.randn(count, 3, side // step, side // step, generator=generator) for step in (14, 2))
    return F.interpolate(2 * coarse, size=(side, side), mode="bilinear") + F.interpolate(fine, size=(side, side)) / 2


def phrase(name: str) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` as `Sam3Processor` makes them."""
    return dict(tokenizer()(name, return_tensors="pt", padding="max_length", max_length=32))


@torch.no_grad()
def reference(
    model: torch.nn.Module, pixel_values: torch.Tensor, phrases: list[str] = PHRASES
) -> dict[str, torch.Tensor]:
    """Heads of transformers' model, asked image by image and phrase by phrase."""
    plain = theirs(model)
    outputs = [plain(pixel_values=image[None], **phrase(text)) for image in pixel_values for text in phrases]
    return {name: torch.cat([head(output) for output in outputs]) for name, head in HEADS.items()}


@contextlib.contextmanager
def their_image_processor():
    """Transformers' `Sam3ImageProcessor`, for its post-processing, which works without the torchvision that its module
    imports."""
    name = "transformers.models.sam3.image_processing_sam3"
    package, ops, boxes = (types.ModuleType(f"torchvision{part}") for part in ("", ".ops", ".ops.boxes"))
    boxes.batched_nms = None
    stubs = {module.__name__: module for module in (package, ops, boxes)}
    known = {key: sys.modules.get(key) for key in (*stubs, name)}
    if known["torchvision"] is None:
        sys.modules.update(stubs)
    try:
        yield importlib.import_module(name).Sam3ImageProcessor
    finally:
        if known["torchvision"] is None:
            for key in known:
                sys.modules.pop(key, None)
