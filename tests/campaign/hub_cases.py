"""A Hub that fails."""

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import pytest
from hub_server import LocalHub
from judging import Damage, Prepared, answer, compare, load

from ssprompt_hf.data import load_segmentation_dataset

WAYS = ["500", "502", "503", "429", "401", "403", "404", "stall", "reset", "short", "wrong"]


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
    parts = ["adapter_config.json", "adapter_model.safetensors", "/resolve/", "/"]
    with _failing_hub(rng, folder, parts) as (server, change):
        which = rng.randrange(2)
        server.add("me/fog", {path.name: path for path in prepared.adapters[which].iterdir()})

        def read(change: str) -> None:
            found = answer(load(prepared.base, "me/fog", token=False), prepared.image)
            compare(found, prepared.answers[which], change)

        return _read_twice(server, read, change)


def hub_dataset(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """The same with a data set: one Parquet file and a class list."""
    table = datasets.Dataset.from_dict(
        {"image": [prepared.image], "label": [np.full((32, 64), 2, np.uint8)]},
        datasets.Features(image=datasets.Image(), label=datasets.Image()),
    )
    table.to_parquet(folder / "train.parquet")
    files = {"data/train-00000-of-00001.parquet": folder / "train.parquet", "classes.json": b'["road", "car", "sky"]'}
    with _failing_hub(rng, folder, [".parquet", "classes.json", "/resolve/", "/"]) as (server, change):
        server.add("me/streets", files, "dataset")

        def read(change: str) -> None:
            example = load_segmentation_dataset("me/streets", split="train")[0]
            if (example["label"] != 2).any() or (example["image"] != prepared.image).any():
                raise Damage("silent damage", f"{change}: another image or label")

        return _read_twice(server, read, change)


@contextmanager
def _failing_hub(rng: random.Random, folder: Path, parts: list[str]) -> Iterator[tuple[FaultyHub, str]]:
    """A Hub that does something wrong with paths that contain one of `parts`, for this process, and what it does."""
    way, part, times = rng.choice(WAYS), rng.choice(parts), rng.choice([1, 1, 2, 1000])
    with FaultyHub(way, part, times) as server, pytest.MonkeyPatch.context() as patch:
        server.patch_client(patch, folder / "home")
        patch.setattr("datasets.config.HF_ENDPOINT", server.endpoint)
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "home" / "datasets")
        yield server, f"{way} for {part}, {times} times"


def _read_twice(server: FaultyHub, read: Callable[[str], None], change: str) -> str:
    """While the Hub fails, which may be refused, and when it has stopped to, which may not."""
    refusal = None
    try:
        read(change)
    except Damage:
        raise
    except Exception as error:
        refusal = error
    server.times = 0
    read(f"{change}, then none")
    if refusal is not None:
        raise refusal
    return change
