"""The kinds of cases of a campaign: each takes a source of chance and a folder, does damage and uses the library."""

import json
import os
import random
import shutil
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import LocalHub
from mutations import damage_bytes, damage_json, damage_tensors
from PIL import Image
from safetensors import SafetensorError, safe_open
from tiny_training import prompts, save_tiny_base, tiny_images, tiny_trainer

from ssprompt_hf import SSPromptModel
from ssprompt_hf.cli.main import main as command_line
from ssprompt_hf.data import load_segmentation_dataset
from ssprompt_hf.training.checkpoints import last_complete_checkpoint

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
    base, image = Path(save_tiny_base(home / "base")), tiny_images(1, "validation")[0]["image"]
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


# Adapters


def _adapter_copy(rng: random.Random, folder: Path, prepared: Prepared) -> tuple[Path, dict[str, torch.Tensor]]:
    which = rng.randrange(2)
    return Path(shutil.copytree(prepared.adapters[which], folder / "adapter")), prepared.answers[which]


def adapter_weights(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """The file of an adapter is damaged, and loaded by one of three doors."""
    adapter, expected = _adapter_copy(rng, folder, prepared)
    damage = rng.choice([damage_bytes, damage_tensors])
    change = damage(adapter / "adapter_model.safetensors", rng)
    return _load_by_a_door(rng, adapter, prepared, expected, change)


def adapter_config(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """The same for its configuration."""
    adapter, expected = _adapter_copy(rng, folder, prepared)
    damage = rng.choice([damage_json, damage_json, damage_json, damage_bytes])
    change = damage(adapter / "adapter_config.json", rng)
    if rng.random() < 0.2:
        code = run_command("info", adapter)
        if code:
            raise Refused(f"info: exit code {code} ({change})")
        return change
    return _load_by_a_door(rng, adapter, prepared, expected, change)


def _load_by_a_door(rng: random.Random, adapter: Path, prepared: Prepared, expected: dict, change: str) -> str:
    door = rng.choice(["ours", "ours", "transformers"])
    change = f"{change}, by {door}"
    if door == "ours":
        return compare(answer(load(prepared.base, adapter), prepared.image), expected, change)
    model = load(prepared.base, prepared.adapters[0], is_trainable=True)
    base = model.unload()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    try:
        base.load_adapter(str(adapter), "damaged")
    except Exception as error:
        after = {name.replace(".base_layer.", "."): tensor for name, tensor in base.state_dict().items()}
        changed = [name for name in before if not torch.equal(after[name], before[name])]
        if changed:
            raise Damage("silent damage", f"{change}: refused, but the base model has another {changed[0]}") from error
        # PEFT reads the configuration itself at this door, and names the folder
        if isinstance(error, (SafetensorError, json.JSONDecodeError)) or (
            type(error) in (ValueError, OSError, KeyError) and str(adapter) in str(error)
        ):
            raise Refused(f"{type(error).__name__}: {error}") from error
        raise
    with torch.no_grad():
        output = base(pixel_values=torch.linspace(-1, 1, 3 * 32 * 64).reshape(1, 3, 32, 64))
    logits = {"class logits": output.class_queries_logits, "mask logits": output.masks_queries_logits}
    return compare(logits, {name: expected[name] for name in logits}, change)


def base_folder(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """A file of a base model is damaged; an adapter of that model is loaded with it."""
    base = Path(shutil.copytree(prepared.base, folder / "base"))
    files = sorted(path for path in base.iterdir() if path.is_file() and path.suffix in (".json", ".safetensors"))
    path = rng.choice(files)
    damages = {".json": [damage_json, damage_bytes], ".safetensors": [damage_bytes, damage_tensors]}
    change = rng.choice(damages[path.suffix])(path, rng)
    model = load(base, prepared.adapters[0])
    return compare(answer(model, prepared.image), prepared.answers[0], change)


def overwritten_adapter(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """Killed while one adapter is saved over another: the folder holds one of the two, whole, or refuses."""
    target = folder / "output" / "adapter"
    shutil.copytree(prepared.adapters[0], target)
    models = [load(prepared.base, adapter, is_trainable=True) for adapter in prepared.adapters]
    child = os.fork()
    if not child:
        for number in range(10_000):
            models[(number + 1) % 2].save_pretrained(target)
        os._exit(0)
    time.sleep(rng.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    models[0].save_pretrained(folder / "output" / "other")
    found = answer(load(prepared.base, target), prepared.image)
    for expected in prepared.answers:
        if all(torch.equal(found[name], expected[name]) for name in expected):
            # what a killed process leaves behind is cleared by the next save
            models[0].save_pretrained(target)
            return "one of the two"
    raise Damage("silent damage", "a mixture of two adapters")


# Training


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


# Images and labels


def images(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """A folder of two good images and a bad one: the good ones are done whatever the bad one is."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for index in range(2):
        Image.fromarray(prepared.image).save(pictures / f"good-{index}.png")
    change = _bad_image(rng, pictures, prepared.image)
    code = run_command(
        *("predict", pictures, "--base_model", prepared.base, "--adapter", prepared.adapters[0]),
        *("--output_dir", folder / "output"),
    )
    if code not in (0, 2):
        raise Damage("raw traceback", f"exit code {code}: {change}")
    missing = [name for name in ("good-0.png", "good-1.png") if not (folder / "output" / name).is_file()]
    if missing:
        raise Damage("work lost", f"{missing[0]} was not done because of another image: {change}")
    for name in ("good-0.png", "good-1.png"):
        found = torch.from_numpy(np.asarray(Image.open(folder / "output" / name)).astype(np.int64))
        compare({"label map": found}, {"label map": prepared.answers[0]["label map"]}, change)
    if code:
        raise Refused(change)
    return change


def _bad_image(rng: random.Random, folder: Path, image: np.ndarray) -> str:
    way = rng.choice(
        [
            "bytes",
            "bytes",
            "jpeg",
            "mode",
            "thin",
            "long name",
            "odd name",
            "pipe",
            "loop",
            "dangling",
            "huge",
            "socket",
        ]
    )
    path = folder / "bad.png"
    if way in ("bytes", "jpeg"):
        path = path.with_suffix(".png" if way == "bytes" else ".jpg")
        Image.fromarray(image).save(path)
        return damage_bytes(path, rng)
    if way == "mode":
        mode = rng.choice(["1", "L", "LA", "P", "RGBA", "I", "I;16", "F"])
        kind = "TIFF" if mode == "F" else "PNG"
        grey = Image.fromarray(image).convert("L")
        made = grey.convert("I").convert("I;16") if mode == "I;16" else grey.convert(mode)
        made.save(path.with_suffix(f".{kind.lower()}"), kind)
        return f"mode {mode}"
    if way == "thin":
        size = rng.choice([(1, 1), (1, 5000), (5000, 1), (2, 3)])
        Image.new("RGB", size).save(path)
        return f"{size[0]}x{size[1]} pixels"
    if way in ("long name", "odd name"):
        name = b"x" * 240 if way == "long name" else rng.choice([b"caf\xe9", b"a\nb", b"\x1b[31mred", b"%s", b"-rf"])
        path = os.path.join(os.fsencode(folder), name + b".png")
        Image.fromarray(image).save(folder / "bad.png")
        os.rename(folder / "bad.png", path)
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "loop":
        for name in ("a", "b"):
            (folder / name).symlink_to(".")
    elif way == "dangling":
        path.symlink_to("nowhere.png")
    elif way == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            here = os.open(folder, os.O_RDONLY)
            os.chdir(here)
            one.bind("bad.png")
    else:
        Image.new("1", (12_000, 9_000)).save(path)
    return way


def labels(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """A labelled folder with a damaged file in it is read from end to end."""
    root = folder / "data"
    for index in range(3):
        for kind, array in (("images", prepared.image), ("annotations", np.full((32, 64), index, np.uint8))):
            path = root / kind / "train" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (root / "classes.txt").write_text("road\ncar\nsky\n")
    path = rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    change = damage_bytes(path, rng)
    if path.suffix == ".png" and rng.random() < 0.3 and not path.exists():
        change = _bad_image(rng, path.parent, prepared.image)
    dataset = load_segmentation_dataset(data_dir=root, split="train")
    for index in range(len(dataset)):
        label = dataset[index]["label"]
        if label.shape != (32, 64) or not set(np.unique(label)) <= {0, 1, 2, 255}:
            raise Damage("silent damage", f"{change}: labels {np.unique(label)}")
    return change


# The Hub


class FaultyHub(LocalHub):
    """Does one of several wrong things with the requests whose path contains `part`, `times` times."""

    def __init__(self, way: str, part: str, times: int):
        self.way, self.part, self.times = way, part, times
        super().__init__(large_file=2_000)

    def _handler(self, base):
        hub = self

        class Handler(base):
            def handle_any(self):
                if hub.part not in self.path or hub.times <= 0:
                    return super().handle_any()
                hub.times -= 1
                if hub.way.isdigit():
                    self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    return self.reply(int(hub.way), {"error": "asked for by the campaign"})
                if hub.way == "stall":
                    time.sleep(3600)
                if hub.way == "reset":
                    self.close_connection = True
                    return self.connection.shutdown(socket.SHUT_RDWR)
                self.spoil = True
                return super().handle_any()

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

            def send_content(self, content, **headers):
                if getattr(self, "spoil", False) and self.command == "GET":
                    if hub.way == "short":
                        self.close_connection = True
                        headers["Content_Length"] = str(len(content))
                        content = content[: len(content) // 2]
                        return self.reply(200, content, **headers)
                    middle = len(content) // 2
                    content = content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]
                return super().send_content(content, **headers)

        return super()._handler(Handler)


def hub(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """An adapter comes from a Hub that fails; then it works, and nothing wrong has stayed in the cache."""
    way = rng.choice(["500", "502", "503", "429", "401", "403", "404", "stall", "reset", "short", "wrong"])
    part = rng.choice(["adapter_config.json", "adapter_model.safetensors", "/resolve/", "/"])
    times = rng.choice([1, 1, 2, 1000])
    change = f"{way} for {part}, {times} times"
    which = rng.randrange(2)
    files = {path.name: path for path in prepared.adapters[which].iterdir()}
    with FaultyHub(way, part, times) as server, pytest.MonkeyPatch.context() as patch:
        server.add("me/fog", files)
        server.patch_client(patch, folder / "home")
        refusal = None
        try:
            found = answer(load(prepared.base, "me/fog", token=False), prepared.image)
            compare(found, prepared.answers[which], change)
        except Exception as error:
            refusal = error
        if isinstance(refusal, Damage):
            raise refusal
        server.times = 0
        found = answer(load(prepared.base, "me/fog", token=False), prepared.image)
        compare(found, prepared.answers[which], f"{change}, then none")
        if refusal is not None:
            raise refusal
    return change


CASES = {
    "adapter_weights": adapter_weights,
    "adapter_config": adapter_config,
    "overwritten_adapter": overwritten_adapter,
    "base_folder": base_folder,
    "killed_training": killed_training,
    "damaged_checkpoint": damaged_checkpoint,
    "images": images,
    "labels": labels,
    "hub": hub,
}

__all__ = ["CASES", "Damage", "Prepared", "Refused", "half_written", "prepare"]
