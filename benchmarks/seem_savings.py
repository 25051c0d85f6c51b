"""
What each exact saving brings on the CPU: SEEM's way against the naive way, in the same run.

Shapes are those of Focal-T at 512x1024. "difference" is the largest one between the two results, relative to the
largest value: rounding, in float32. The tokenizer makes every letter a token, as CLIP's vocabulary has to be
downloaded; with CLIP's own, sentences are shorter and padding to 77 tokens costs more.

    python benchmarks/seem_savings.py
    python benchmarks/seem_savings.py --threads 1 --repeats 3
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from measuring import (
    CLASS_NAMES,
    argument_parser,
    minimum_seconds,
    random_image,
    random_model,
    write_numbers,
)
from torch.nn import functional as F

from ssprompt_hf.models.seem.byte_tokenizer import byte_tokenizer
from ssprompt_hf.models.seem.text_encoder import fill_templates
from ssprompt_hf.utils.cpu_ops import conv3x3, linear, matmul, scaled_dot_product_attention

NUM_QUERIES, CHANNELS, NUM_HEADS, NUM_PROMPTS = 101, 512, 8, 5
Pair = tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]


def operations() -> dict[str, Pair]:
    """Single operations: ours and PyTorch's."""
    features = torch.randn(1, CHANNELS, 128, 256).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(CHANNELS, CHANNELS, 3, 3)
    tokens, weight = torch.randn(8192, CHANNELS), torch.randn(CHANNELS, CHANNELS)
    queries, mask_embeds = torch.randn(1, NUM_QUERIES, CHANNELS), torch.randn(1, NUM_QUERIES, CHANNELS)
    query, keys, values = (
        states.unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2)
        for states in (queries, torch.randn(1, 8192, CHANNELS), torch.randn(1, 8192, CHANNELS))
    )
    mask = torch.rand(1, 1, NUM_QUERIES, 8192) > 0.5
    return {
        "3x3 convolution on 128x256: Winograd": (
            lambda: conv3x3(features, kernel),
            lambda: F.conv2d(features, kernel, padding=1),
        ),
        "linear layer, 8192 tokens: oneDNN": (lambda: linear(tokens, weight), lambda: F.linear(tokens, weight)),
        "linear layer, 101 tokens: oneDNN": (lambda: linear(queries, weight), lambda: F.linear(queries, weight)),
        "attention, 101 queries to 8192 pixels": (
            lambda: scaled_dot_product_attention(query, keys, values, mask),
            lambda: F.scaled_dot_product_attention(query, keys, values, attn_mask=mask),
        ),
        "101 masks of 128x256": (
            lambda: matmul(mask_embeds, features.flatten(2)),
            lambda: mask_embeds @ features.flatten(2),
        ),
    }


def decoder() -> dict[str, Pair]:
    """The mask decoder: what is shared between layers and prompts."""
    model = random_model()
    features = model.get_image_features(random_image())
    unprepared = replace(features, key_states=None, value_states=None, attention_features=None)
    class_embeddings = torch.randn(len(CLASS_NAMES), model.config.projection_dim)
    mask_embeds = torch.randn(1, NUM_QUERIES, CHANNELS)
    sizes = [level.shape[-2:] for level in features.multi_scale_features]

    def small_masks():
        levels = [
            F.interpolate(features.mask_features, size=size, mode="bilinear", align_corners=False).flatten(2)
            for size in sizes
        ]
        return torch.cat([matmul(mask_embeds, levels[index % 3]) for index in range(9)], dim=2)

    def large_masks():
        height, width = features.mask_features.shape[-2:]
        masks = [
            F.interpolate(
                matmul(mask_embeds, features.mask_features.flatten(2)).unflatten(2, (height, width)),
                size=sizes[index % 3],
                mode="bilinear",
                align_corners=False,
            )
            for index in range(9)
        ]
        return torch.cat([mask.flatten(2) for mask in masks], dim=2)

    def prompts(once: bool):
        known = model.model.mask_decoder.prepare(unprepared) if once else unprepared
        outputs = [
            model(image_features=known, class_embeddings=class_embeddings).class_queries_logits
            for _ in range(NUM_PROMPTS)
        ]
        return torch.cat(outputs)

    return {
        "attention masks from down-sampled features": (small_masks, large_masks),
        f"keys and values once for {NUM_PROMPTS} prompts": (lambda: prompts(once=True), lambda: prompts(once=False)),
    }


def text(num_names: int) -> dict[str, Pair]:
    """Class names in 81 templates: packed prefix trees against sentences padded to 77 tokens."""
    text_model = random_model(use_text_model=True).model.text_model
    tokenizer, names = byte_tokenizer(77), list(CLASS_NAMES[:num_names])

    def padded():
        sentences = fill_templates(names)
        ids = tokenizer(sentences, truncation=True, padding="max_length", max_length=77, return_tensors="pt").input_ids
        embeddings = torch.cat([text_model(part, truncate=False).text_embeds for part in ids.split(81)])
        embeddings = F.normalize(embeddings, dim=-1).unflatten(0, (num_names, -1)).mean(1)
        return F.normalize(embeddings, dim=-1)

    return {
        f"{num_names} names x 81 templates: shared prefixes, no padding": (
            lambda: text_model.encode_class_names(names, tokenizer),
            padded,
        )
    }


@torch.inference_mode()
def main():
    parser = argument_parser(__doc__.strip().splitlines()[0])
    parser.add_argument("--names", type=int, default=4, help="class names for the text encoder")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    numbers = {}
    print(f"{'saving':<58} {'naive':>9} {'ours':>9} {'ratio':>6}  difference")
    for group in (operations, decoder, lambda: text(args.names)):
        torch.manual_seed(0)
        for name, (ours, naive) in group().items():
            result, expected = ours(), naive()
            difference = float((result - expected).abs().max() / expected.abs().max())
            seconds = minimum_seconds({"ours": ours, "naive": naive}, args.repeats)
            numbers[name] = {**seconds, "ratio": seconds["naive"] / seconds["ours"], "difference": difference}
            print(
                f"{name:<58} {1e3 * seconds['naive']:6.1f} ms {1e3 * seconds['ours']:6.1f} ms "
                f"{numbers[name]['ratio']:6.2f}  {difference:.0e}",
                flush=True,
            )
    write_numbers(numbers, args.output)


if __name__ == "__main__":
    main()
