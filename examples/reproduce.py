"""Compute a table or figure of the paper anew, on its data or on what a laptop has.

python examples/reproduce.py --table 5 --preset embedded
python examples/reproduce.py --table 2 3 --preset full --data_dir cityscapes=DIR acdc=DIR

The arguments are those of `ssprompt-hf reproduce`; `--help` lists them.
"""

import sys

from ssprompt_hf.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
