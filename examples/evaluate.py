"""Score an adapter, or a base model without one, with one process or many.

python examples/evaluate.py --adapter out/train/adapter --data_dir DIR --eval_split val
accelerate launch --num_processes 2 examples/evaluate.py --adapter out/train/adapter --data_dir DIR

The arguments are those of `ssprompt-hf evaluate`; `--help` lists them.
"""

import sys

from ssprompt_hf.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
