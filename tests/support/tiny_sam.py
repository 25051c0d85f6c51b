"""A tiny SAM and SAM-HQ: squares of 64 pixels, patches of 16, embeddings of 4 x 4, masks of 16 x 16."""

import torch
from transformers import Sam2Model, Sam3TrackerModel, SamConfig, SamHQConfig, SamHQModel, SamModel

from ssprompt_hf.models.sam import SamForPromptedSegmentation, SamHQForPromptedSegmentation

NAMES = ["road", "sky", "car"]
SIDE = 64
DECODER = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
PROMPTS = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 8}


VISION = {
    "hidden_size": 16, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 32,
    "image_size": SIDE, "patch_size": 16, "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 16,
}  # fmt: skip


def tiny_config(config_class: type = SamConfig, decoder: dict = DECODER, **settings):
    config = config_class(vision_config=VISION, prompt_encoder_config=PROMPTS, mask_decoder_config=decoder)
    for name, value in settings.items():
        setattr(config, name, value)
    return config


@torch.no_grad()
def vivid(model: torch.nn.Module) -> torch.nn.Module:
    """In evaluation mode, with weights large enough that tokens and pixels differ."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(0.3 / parameter.std().clamp(min=1e-15))
    return model.eval()


def tiny_sam(class_names: list[str] | None = NAMES, seed: int = 0, **settings) -> SamForPromptedSegmentation:
    return visible(SamForPromptedSegmentation, tiny_config(**settings), class_names, seed)


def tiny_sam_hq(class_names: list[str] | None = NAMES, seed: int = 0, **settings) -> SamHQForPromptedSegmentation:
    config = tiny_config(SamHQConfig, DECODER | {"vit_dim": VISION["hidden_size"]}, **settings)
    return visible(SamHQForPromptedSegmentation, config, class_names, seed)


def visible(model_class: type, config, class_names: list[str] | None, seed: int) -> torch.nn.Module:
    """A model with its vision weights of 1e-10 made visible, and its confidence between 0 and 1."""
    torch.manual_seed(seed)
    model = vivid(model_class(config))
    with torch.no_grad():
        model.mask_decoder.iou_prediction_head.proj_out.weight.mul_(0.05)
        model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(0.6)
    if class_names is not None:
        model.set_class_names(class_names, None, [2])
    return model


THEIRS = {"sam": SamModel, "sam_hq": SamHQModel, "sam2": Sam2Model, "sam3_tracker": Sam3TrackerModel}


def theirs(model: torch.nn.Module) -> torch.nn.Module:
    """Transformers' own model with the same weights."""
    slots = tuple(f"{slot.path}." for slot in model.prompt_slots.values())
    plain = THEIRS[model.config.model_type](model.config).eval()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith(slots)})
    return plain.to(model.dtype)


@torch.no_grad()
def tell_classes_apart(model: torch.nn.Module, seed: int = 3) -> None:
    """Give each class a token of its own, as if it had been learned."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(model.class_tokens.weight.shape, generator=generator)
    model.class_tokens.weight = model.class_tokens.weight + noise.to(model.dtype)


def images(count: int = 2, seed: int = 1) -> torch.Tensor:
    """`(count, 3, 64, 64)`, with structure at two scales."""
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = (torch.randn(count, 3, SIDE // step, SIDE // step, generator=generator) for step in (16, 4))
    resize = torch.nn.functional.interpolate
    return 2 * resize(coarse, size=(SIDE, SIDE), mode="bilinear") + resize(fine, size=(SIDE, SIDE)) / 2


def grid_inputs(grid_size: int, num_classes: int, count: int, num_class_tokens: int = 1) -> dict[str, torch.Tensor]:
    """`input_points` and `input_labels` of transformers' model: the grid once a class; more tokens as label -1."""
    step = SIDE / grid_size
    centres = [(i + 0.5) * step for i in range(grid_size)]
    points = torch.tensor([[x, y] for y in centres for x in centres])
    extra = num_class_tokens - 1
    points = torch.cat([points, torch.zeros(extra, 2)])
    labels = torch.cat([torch.ones(grid_size**2), -torch.ones(extra)]).int()
    return {
        "input_points": points.expand(count, num_classes, -1, -1),
        "input_labels": labels.expand(count, num_classes, -1),
    }


@torch.no_grad()
def reference(model, pixel_values, grid_size=4, num_classes=3, num_class_tokens=1) -> dict[str, torch.Tensor]:
    """Of transformers' model, asked image by image, with the grid once a class."""
    other = theirs(model)
    inputs = grid_inputs(grid_size, num_classes, 1, num_class_tokens)
    outputs = [other(image[None], **inputs, multimask_output=False) for image in pixel_values]
    found = {
        "masks_logits": torch.cat([output.pred_masks[0, :, 0] for output in outputs]),
        "iou_scores": torch.cat([output.iou_scores[0, :, 0] for output in outputs]),
    }
    if "object_score_logits" in outputs[0]:
        found["object_score_logits"] = torch.cat([output.object_score_logits[0, :, 0] for output in outputs])
    return found
