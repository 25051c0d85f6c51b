"""Segment images with an adapter: from two names to pictures in a few lines."""

import argparse
from pathlib import Path

from ssprompt_hf import SSPromptModel


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="an image, or a folder of images")
    parser.add_argument("--adapter", required=True, help="folder, Hub id or name of an adapter")
    parser.add_argument("--base_model", help="by default the one the adapter names")
    parser.add_argument("--output_dir", type=Path, default=Path("out/predictions"))
    options = parser.parse_args()

    model = SSPromptModel.from_pretrained(options.base_model, adapter=options.adapter)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for result in model.predict([options.images]):
        path = options.output_dir / f"{Path(result.path).stem}.png"
        result.overlay().save(path)
        print(f"{path}: {', '.join(segment.name for segment in result.segments)}")


if __name__ == "__main__":
    main()
