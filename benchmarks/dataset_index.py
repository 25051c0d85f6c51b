"""Time to list, and to list again, a data set of 25,000 images, and to count its classes once and again.

Writes empty image files and small labels in Mapillary Vistas' layout to a temporary folder:

    python benchmarks/dataset_index.py --num_images 25000
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ssprompt_hf.data import label_statistics, load_segmentation_dataset


def timed(name: str, function, *args, **options):
    """Call `function`, print the seconds it took, and return its result."""
    start = time.perf_counter()
    result = function(*args, **options)
    print(f"{name:<50} {time.perf_counter() - start:8.2f} s", flush=True)
    return result


def write_files(root: Path, num_images: int) -> None:
    """One image and one label, under `num_images` names each."""
    folders = [root / "training" / "images", root / "training" / "v2.0" / "labels"]
    for folder in folders:
        folder.mkdir(parents=True)
    label = np.random.default_rng(0).integers(0, 123, (48, 64), np.uint8)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(root / "image.jpg")
    Image.fromarray(label).save(root / "label.png")
    for number in range(num_images):
        (folders[0] / f"{number:022d}.jpg").hardlink_to(root / "image.jpg")
        (folders[1] / f"{number:022d}.png").hardlink_to(root / "label.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_images", type=int, default=25000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "vistas", Path(folder) / "cache"
        write_files(root, options.num_images)

        def load():
            return load_segmentation_dataset("mapillary_vistas", root, cache_dir=cache)

        dataset = timed(f"list {options.num_images:,} images", load)
        timed("list them again", load)
        timed("count the classes of all labels (48x64)", label_statistics, dataset, cache)
        timed("count them again", label_statistics, load(), cache)


if __name__ == "__main__":
    main()
