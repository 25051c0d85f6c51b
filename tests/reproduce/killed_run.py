"""`ssprompt-hf reproduce`, ended as a power cut would in the middle of the training of the second adapter.

python killed_run.py ARGUMENT ...
"""

import sys
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from tiny_training import KillAt

from ssprompt_hf.cli.main import main
from ssprompt_hf.reproduce import cells


def run(arguments: list[str]) -> int:
    started, prepare = count(1), cells.prepare_training

    def prepare_and_kill(*args, **kwargs):
        trainer = prepare(*args, **kwargs)
        if next(started) == 2:
            trainer.add_callback(KillAt(1))
        return trainer

    cells.prepare_training = prepare_and_kill
    return main(["reproduce", *arguments])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
