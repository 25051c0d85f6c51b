"""Trainings that are killed, and checkpoints that are damaged."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

from judging import Prepared, compare, training
from mutations import damage_bytes, damage_json, damage_tensors
from tiny_training import prompts, tiny_trainer

from ssprompt_hf.training.checkpoints import last_complete_checkpoint


def killed_training(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """Killed at any time and resumed: bit for bit what an undisturbed training learns."""
    output = folder / "output"
    child = os.fork()
    if not child:
        tiny_trainer(output, **training()).train()
        os._exit(0)
    time.sleep(rng.random() * 4)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return _resume(output, prepared, "killed")


def damaged_checkpoint(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """A file of the last checkpoint is damaged; a resumed training learns the same, or refuses."""
    output = folder / "run"
    for step in (1, 2):
        shutil.copytree(prepared.run / f"checkpoint-{step}", output / f"checkpoint-{step}")
    path = rng.choice(sorted(path for path in (output / "checkpoint-2").iterdir() if path.is_file()))
    damages = [damage_bytes]
    if path.name == "trainer_state.json":
        damages.append(damage_json)
    elif path.suffix == ".safetensors":
        damages.append(damage_tensors)
    return _resume(output, prepared, rng.choice(damages)(path, rng))


def _resume(output: Path, prepared: Prepared, change: str) -> str:
    checkpoint = last_complete_checkpoint(output)
    trainer = tiny_trainer(output, **training())
    trainer.train(resume_from_checkpoint=checkpoint)
    return compare(prompts(trainer.model), prepared.learned, f"{change}, from {Path(checkpoint or 'the start').name}")
