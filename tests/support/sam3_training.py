"""Run as a script, trains a tiny SAM 3 in one of several processes."""

import json
import os
import sys

import torch
from few_classes import NAMES, few_classes_trainer, learned
from tiny_sam3 import tiny_sam3


def sam3_trainer(output_dir, config=None, evaluation=None, **arguments):
    return few_classes_trainer(output_dir, tiny_sam3(class_names=NAMES), config, evaluation, **arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer = sam3_trainer(**json.loads(sys.argv[1]))
    trainer.train()
    if trainer.is_world_process_zero():
        torch.save(learned(trainer), os.path.join(trainer.args.output_dir, "learned.pt"))
