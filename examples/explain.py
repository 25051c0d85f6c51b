"""Report what an adapter has learned, where it helps and where it fails.

python examples/explain.py out/train/adapter --data_dir DIR --eval_split val --output_dir out/explain

The arguments are those of `ssprompt-hf explain`; `--help` lists them.
"""

import sys

from ssprompt_hf.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["explain", *sys.argv[1:]]))
