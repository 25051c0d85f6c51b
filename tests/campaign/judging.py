"""What the cases of a campaign share: good files, what comes of them, and how a result is judged."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from tiny_training import prompts, save_tiny_base, tiny_images, tiny_trainer

from ssprompt_hf import SSPromptModel
from ssprompt_hf.cli.main import main as command_line

CLASSES = [f"class {index}" for index in range(11)]
STEPS = 4


class Refused(Exception):
    """A clear refusal by PEFT or transformers, whose doors raise errors of their own."""


class Damage(Exception):
    """The case came to something bad."""

    def __init__(self, result: str, detail: str):
        super().__init__(detail)
        self.result = result


@dataclass
class Prepared:
    """Made once: good files, and what comes of them."""

    base: Path
    adapters: list[Path]
    answers: list[dict[str, torch.Tensor]]
    run: Path
    learned: dict[str, torch.Tensor]
    image: np.ndarray


def prepare(home: Path) -> Prepared:
    # two channels a group, as the norm of one value, of images of one pixel, is an error
    base = Path(save_tiny_base(home / "base", feature_size=64))
    image = tiny_images(1, "validation")[0]["image"]
    adapters, answers = [], []
    for seed in range(2):
        model = adapted(base, seed)
        adapters.append(home / f"adapter-{seed}")
        model.save_pretrained(adapters[-1])
        answers.append(answer(load(base, adapters[-1]), image))
    trainer = tiny_trainer(home / "run", **training())
    trainer.train()
    learned = prompts(trainer.model)
    return Prepared(base, adapters, answers, home / "run", learned, image)


def training() -> dict[str, Any]:
    return {
        "max_steps": STEPS,
        "save_steps": 1,
        "save_total_limit": None,
        "learning_rate": 0.1,
        "train": tiny_images(),
    }


def adapted(base: Path, seed: int) -> SSPromptModel:
    """A trained adapter, as good as any."""
    model = SSPromptModel.from_pretrained(base, class_names=CLASSES, is_trainable=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.rand(parameter.shape, generator=generator) / 2)
    return model


def load(base: Path | str, adapter: Path | str, **settings: Any) -> SSPromptModel:
    return SSPromptModel.from_pretrained(base, adapter, **settings)


@torch.no_grad()
def answer(model: SSPromptModel, image: np.ndarray) -> dict[str, torch.Tensor]:
    """What a model answers, from pixels to logits and from an image to a label map."""
    pixels = torch.linspace(-1, 1, 3 * 32 * 64).reshape(1, 3, 32, 64)
    output = model(pixel_values=pixels)
    label_map = model.predict(image, task="semantic").class_map
    return {
        "class logits": output.class_queries_logits,
        "mask logits": output.masks_queries_logits,
        "label map": torch.as_tensor(np.asarray(label_map, dtype=np.int64)),
    }


def compare(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], change: str) -> str:
    """Damage that changed nothing has done no harm."""
    other = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    if other:
        raise Damage("silent damage", f"{change}: other {', '.join(other)}")
    return change


def run_command(*arguments: Any) -> int:
    """The command line in this process; a traceback goes on to the caller."""
    try:
        return command_line([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse
        return int(error.code or 0)


def half_written(folder: Path) -> str | None:
    """The first file below `folder/output` that is not whole, or that nobody has cleared away."""
    for path in sorted((folder / "output").rglob("*")) if (folder / "output").is_dir() else []:
        if not path.is_file():
            continue
        if path.name.startswith(".") or "tmp" in path.name or path.suffix == ".incomplete":
            return f"{path.name} was left behind"
        if reason := _not_whole(path):
            return f"{path.name}: {reason}"
    return None


def _not_whole(path: Path) -> str | None:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_tensor(name)
        elif path.suffix in (".png", ".jpg"):
            Image.open(path).load()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
