"""Damaged adapters and base models."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import torch
from judging import Damage, Prepared, Refused, answer, compare, load, run_command
from mutations import damage_bytes, damage_json, damage_tensors
from safetensors import SafetensorError

from ssprompt_hf.errors import SSPromptError


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
    found, refusal = {}, None
    try:
        found = answer(load(prepared.base, target), prepared.image)
    except SSPromptError as error:
        refusal = error
    # what a killed process leaves behind is cleared by the next save
    models[0].save_pretrained(target)
    if refusal is not None:
        raise refusal
    if any(all(torch.equal(found[name], expected[name]) for name in expected) for expected in prepared.answers):
        return "one of the two"
    raise Damage("silent damage", "a mixture of two adapters")
