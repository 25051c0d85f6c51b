"""Segment images or folders of them with an adapter, or by class names alone.

python examples/predict.py photos/ --adapter out/train/adapter --output_dir out/predictions
python examples/predict.py street.jpg --class_names road car sky

The arguments are those of `ssprompt-hf predict`; `--help` lists them. In Python:

    model = SSPromptModel.from_pretrained("seem-lite", adapter="out/train/adapter")
    result = model.predict("street.jpg")
"""

import sys

from ssprompt_hf.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
