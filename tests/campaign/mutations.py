"""Damage, as disks, networks and editors do it."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WRONG_VALUES = [None, True, -1, 10**9, 1e400, -1e400, float("nan"), "", "word", [], [1], [[]], {}, {"a": 1}]


def damage_bytes(path: Path, rng: random.Random) -> str:
    """Damage a file in one of the ways that need no knowledge of what is in it; tells which."""
    content = bytearray(path.read_bytes())
    place = rng.randrange(max(1, len(content)))
    way = rng.choice(["bit", "bits", "truncated", "longer", "zeros", "empty", "gone", "folder", "text", "repeated"])
    if way in ("bit", "bits"):
        for _ in range(1 if way == "bit" else 20):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif way == "truncated":
        content = content[:place]
    elif way == "longer":
        content += rng.randbytes(rng.randrange(1, 4096))
    elif way == "zeros":
        content[place : place + 512] = bytes(len(content[place : place + 512]))
    elif way == "empty":
        content = bytearray()
    elif way == "text":
        content = bytearray(b"<html><body>502 Bad Gateway</body></html>")
    elif way == "repeated":
        content = content[:place] + content
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way != "gone":
        path.write_bytes(content)
    return f"{path.name}: {way} at {place}"


def damage_json(path: Path, rng: random.Random, spared: tuple[str, ...] = ()) -> str:
    """Put a value of another kind, or one that no field can have, somewhere in a JSON file, or take a key out."""
    data = json.loads(path.read_text())
    here, names = data, []
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = rng.choice([key for key in keys if key not in spared])
        names.append(str(key))
        if isinstance(here[key], (dict, list)) and here[key] and rng.random() < 0.6:
            here = here[key]
            continue
        break
    if rng.random() < 0.2:
        del here[key]
        change = "gone"
    else:
        here[key] = rng.choice([value for value in WRONG_VALUES if _is_other_kind(value, here[key])])
        change = repr(here[key])
    path.write_text(json.dumps(data))
    return f"{path.name}: {'.'.join(names)} {change}"


def _is_other_kind(value: Any, old: Any) -> bool:
    """A number in place of a number must be one that means nothing."""
    if isinstance(old, bool) or isinstance(value, bool) or old is None:
        return type(value) is not type(old)
    if isinstance(old, (int, float)) and isinstance(value, (int, float)):
        return True  # all of the list are out of any range
    return type(value) is not type(old)


def damage_tensors(path: Path, rng: random.Random) -> str:
    """Write a safetensors file anew with one tensor wrong; the file itself is whole."""
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    old = tensors[name]
    way = rng.choice(["value", "nan", "inf", "gone", "added", "shape", "int", "bool", "complex", "half", "swapped"])
    if way == "value":
        old.view(-1)[rng.randrange(old.numel())] += 1.0
    elif way in ("nan", "inf"):
        old.view(-1)[rng.randrange(old.numel())] = float(way)
    elif way == "gone":
        del tensors[name]
    elif way == "added":
        tensors[rng.choice(["extra", "base_model.model.model.logit_scale", f"{name}.more"])] = torch.ones(1)
    elif way == "shape":
        tensors[name] = old.reshape(-1)[: max(1, old.numel() // 2)].clone()
    elif way == "swapped":
        alike = [other for other in sorted(tensors) if other != name and tensors[other].shape == old.shape]
        if alike:
            tensors[name], tensors[alike[0]] = tensors[alike[0]], old
    else:
        kinds = {"int": torch.int64, "bool": torch.bool, "complex": torch.complex64, "half": torch.float8_e4m3fn}
        tensors[name] = old.to(kinds[way])
    save_file(tensors, path, {"format": "pt"})
    return f"{path.name}: {name} {way}"
