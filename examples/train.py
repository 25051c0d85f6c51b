"""Learn prompts for a frozen model from a few labelled images, with one process or many.

python examples/train.py --base_model seem-lite --data_dir DIR --shots 16 --output_dir out/train
accelerate launch --num_processes 2 examples/train.py --base_model seem-t --data_dir DIR --shots 16

On the CPU, `accelerate launch` starts several processes only by ACCELERATE_USE_CPU=1 and --multi_gpu. The arguments
are those of `ssprompt-hf train`; `--help` lists them.
"""

import sys

from ssprompt_hf.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
