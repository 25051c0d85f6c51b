"""
Speed of SEEM (Focal-T, full size, random weights) at 512x1024, batch 1.

On the CPU times are given in units of one 3x3 convolution 512 -> 512 on 128x256, measured in the same run: a ratio
that carries over between machines. On a GPU in milliseconds, with peak memory and the share of the arithmetic limit,
for float32, bfloat16 and compiled bfloat16.

    python benchmarks/seem_forward.py
    python benchmarks/seem_forward.py --device cuda --output numbers.json
"""

import resource

import torch
from measuring import (
    CLASS_NAMES,
    argument_parser,
    minimum_seconds,
    random_image,
    random_model,
    unit_convolution,
    write_numbers,
)
from torch.utils.flop_counter import FlopCounterMode

from ssprompt_hf.models.seem.byte_tokenizer import byte_tokenizer

# Ratios to the unit: this project's aim, and what the official code takes (measured on the same kind of CPU).
CPU_TARGETS = {
    "backbone": (None, "1.3 to 1.45"),
    "pixel decoder": (None, "2.5 to 3.1"),
    "mask decoder": (0.5, "1.1 to 1.6"),
    "total": (4.3, "4.9 to 6.1"),
    "81 templates x 20 names": (20.0, "about 110"),
}
MATMUL_SIZE = 8192


@torch.inference_mode()
def measure_cpu(repeats: int) -> dict[str, float]:
    """Seconds of the unit and of every part; "peak memory" is that of the process in MiB."""
    model = random_model()
    pixel_values = random_image()
    class_embeddings = torch.randn(len(CLASS_NAMES), model.config.projection_dim)
    feature_maps = model.model.backbone(pixel_values).feature_maps
    image_features = model.get_image_features(pixel_values, prepare=False)
    parts = {
        "unit": unit_convolution(),
        "backbone": lambda: model.model.backbone(pixel_values),
        "pixel decoder": lambda: model.model.pixel_decoder(feature_maps),
        # All that follows: keys and values, nine layers, class scores and masks.
        "mask decoder": lambda: model(image_features=image_features, class_embeddings=class_embeddings),
        "total": lambda: model(pixel_values=pixel_values, class_embeddings=class_embeddings),
    }
    return minimum_seconds(parts, repeats)


@torch.inference_mode()
def measure_text(repeats: int) -> dict[str, float]:
    """Seconds of the unit and of the class-name ensemble."""
    text_model = random_model(use_text_model=True).model.text_model
    tokenizer = byte_tokenizer(77)
    parts = {
        "unit": unit_convolution(),
        "81 templates x 20 names": lambda: text_model.encode_class_names(list(CLASS_NAMES), tokenizer),
    }
    return minimum_seconds(parts, repeats)


def print_ratios(seconds: dict[str, float]) -> dict[str, float]:
    ratios = {name: value / seconds["unit"] for name, value in seconds.items() if name != "unit"}
    print(f"unit: 3x3 convolution 512 -> 512 on 128x256: {seconds['unit']:.3f} s")
    for name, ratio in ratios.items():
        target, official = CPU_TARGETS[name]
        aim = "" if target is None else f"target < {target:g}, "
        print(f"  {name:<24} {ratio:7.2f} units   ({aim}official {official})")
    return ratios


def measure_gpu(device: str, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds, peak MiB and the share of the arithmetic limit, per precision."""
    numbers = {}
    for name, dtype, compiled in (
        ("float32", torch.float32, False),
        ("bfloat16", torch.bfloat16, False),
        ("bfloat16 compiled", torch.bfloat16, True),
    ):
        model = random_model().to(device, dtype)
        pixel_values = random_image(device, dtype)
        class_embeddings = torch.randn(len(CLASS_NAMES), model.config.projection_dim).to(device, dtype)
        with torch.inference_mode():
            with FlopCounterMode(display=False) as counter:
                model(pixel_values=pixel_values, class_embeddings=class_embeddings)
            forward = torch.compile(model) if compiled else model
            functions = {
                "forward": lambda run=forward, x=pixel_values, e=class_embeddings: run(
                    pixel_values=x, class_embeddings=e
                ),
                "limit": _large_matmul(device, dtype),
            }
            functions["forward"]()  # compiles
            torch.cuda.reset_peak_memory_stats(device)
            functions["forward"]()
            peak = torch.cuda.max_memory_allocated(device)
            seconds = minimum_seconds(functions, repeats, device)
        limit = 2 * MATMUL_SIZE**3 / seconds["limit"]
        numbers[name] = {
            "milliseconds": 1e3 * seconds["forward"],
            "peak_MiB": peak / 2**20,
            "GFLOP": counter.get_total_flops() / 1e9,
            "limit_TFLOPs": limit / 1e12,
            "share_of_limit": counter.get_total_flops() / seconds["forward"] / limit,
        }
        print(
            f"{name:<18} {numbers[name]['milliseconds']:8.2f} ms   peak {numbers[name]['peak_MiB']:7.0f} MiB   "
            f"{numbers[name]['share_of_limit']:6.1%} of {limit / 1e12:.0f} TFLOP/s"
        )
    return numbers


def _large_matmul(device: str, dtype: torch.dtype):
    """The arithmetic limit as PyTorch reaches it: one large product, in the precision that matmuls are set to."""
    left, right = (torch.randn(MATMUL_SIZE, MATMUL_SIZE, device=device, dtype=dtype) for _ in range(2))
    return lambda: left @ right


def main():
    parser = argument_parser(__doc__.strip().splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--no_text", action="store_true", help="leave out the text encoder (CPU)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if torch.device(args.device).type == "cuda":
        numbers = {"device": torch.cuda.get_device_name(args.device), "gpu": measure_gpu(args.device, args.repeats)}
    else:
        seconds = measure_cpu(args.repeats)
        ratios = print_ratios(seconds)
        # ru_maxrss is in KiB on Linux; weights and the unit's tensors are included.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(f"  peak memory of the process {peak:.0f} MiB")
        if not args.no_text:
            seconds_text = measure_text(max(1, args.repeats // 2))
            print("text encoder, with a tokenizer that makes every letter a token")
            ratios |= print_ratios(seconds_text)
        numbers = {"unit_seconds": seconds["unit"], "ratios": ratios, "peak_MiB": peak}
    write_numbers(numbers, args.output)


if __name__ == "__main__":
    main()
