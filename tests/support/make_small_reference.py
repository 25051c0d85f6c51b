"""Writes `tests/fixtures/tiny_seem.safetensors`: an image, and what tiny models of every architecture make of it.

A record of this project's own results, so that a change of any value is noticed without the official ones; whether the
values are right is for `test_seem_naive_decoder.py` and `test_seem_parity.py` to say. Run this script, and say why,
when they are meant to change:

    python tests/support/make_small_reference.py
"""

import sys
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from tiny_seem import ARCHITECTURES, phrases, strokes, tiny_seem  # noqa: E402

FIXTURE = Path(__file__).parents[1] / "fixtures" / "tiny_seem.safetensors"
SIZE = (32, 64)


def seeded_model(architecture: str):
    """Weights that depend on their names alone, not on the order in which they are made."""
    model = tiny_seem(architecture)
    state = {}
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if value.ndim > 1:
            state[name] = noise * (2 / value[0].numel()) ** 0.5
        else:
            state[name] = noise / 10 + (1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0.0)
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 1
    model.load_state_dict(state)
    return model


@torch.no_grad()
def results(architecture: str, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Answers to class names, phrases, strokes, and strokes with a mask as memory; `image` is `(3, *SIZE)`, uint8."""
    model = seeded_model(architecture)
    marks = strokes(1, size=SIZE)
    features = model.get_image_features(image[None].double() / 64 - 2)
    first = model(image_features=features, **marks, **phrases([[5, 6, 7], [8]]), output_objects=True)
    second = model(image_features=features, **marks, previous_masks=first.spatial_masks_logits)
    values = {
        "class_queries_logits": first.class_queries_logits,
        "masks_queries_logits": first.masks_queries_logits[..., ::2, ::4],
        "grounding_scores": first.grounding_scores,
        "grounding_masks_logits": first.grounding_masks_logits[..., ::2, ::4],
        "spatial_masks_logits": first.spatial_masks_logits[..., ::2, ::4],
        "spatial_masks_logits.memory": second.spatial_masks_logits[..., ::2, ::4],
    }
    return {f"{architecture}.{name}": value.contiguous() for name, value in values.items()}


def make() -> dict[str, torch.Tensor]:
    rows, columns = torch.arange(SIZE[0])[:, None], torch.arange(SIZE[1])
    waves = [rows / 7 + columns / 11, (rows - columns) / 9, (rows * columns) / 97]
    image = torch.stack([wave.sin() for wave in waves]) * 127 + 128
    tensors = {"image": image.to(torch.uint8)}
    for architecture in ARCHITECTURES:
        tensors |= results(architecture, tensors["image"])
    return tensors


def load() -> dict[str, torch.Tensor]:
    return load_file(FIXTURE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    FIXTURE.parent.mkdir(exist_ok=True)
    save_file(make(), FIXTURE)
    print(f"{FIXTURE}: {FIXTURE.stat().st_size} bytes")
