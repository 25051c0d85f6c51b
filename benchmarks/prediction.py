"""How long does one photograph take, by the size at which the model sees it?

    python benchmarks/prediction.py                   # seem-lite, 360x480 pixels, the shorter side 288, 360 and 432

A drawn scene, brought to the size of the photograph, goes through `predict` with the classes that the model knows;
the sizes take turns.
"""

import time
from statistics import median

import torch
from measuring import argument_parser, write_numbers
from PIL import Image

from ssprompt_hf import SSPromptModel
from ssprompt_hf.data.loading import load_segmentation_dataset


def main():
    """Print the median and the least time of each size, in seconds."""
    parser = argument_parser(__doc__.split("\n")[0])
    parser.add_argument("--base_model", default="seem-lite")
    parser.add_argument("--photograph", type=int, nargs=2, default=(360, 480), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--sizes", type=int, nargs="+", default=(288, 360, 432), help="shorter sides in pixels")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = SSPromptModel.from_pretrained(options.base_model)
    scene = load_segmentation_dataset(dataset="street-scenes/clear", split="test")[0]["image"]
    photograph = Image.fromarray(scene).resize(options.photograph[::-1], Image.Resampling.BICUBIC)
    seconds: dict[int, list[float]] = {size: [] for size in options.sizes}
    for round_index in range(options.repeats + 1):
        for size, times in seconds.items():
            start = time.perf_counter()
            model.predict(photograph, image_size=size)
            if round_index:
                times.append(time.perf_counter() - start)
    print(f"{options.base_model}, {torch.get_num_threads()} threads, {options.repeats} rounds")
    for size, times in seconds.items():
        print(f"{size}: median {median(times):.3f} s, least {min(times):.3f} s")
    write_numbers({"seconds": {str(size): times for size, times in seconds.items()}}, options.output)


if __name__ == "__main__":
    main()
