"""Fixtures shared by all tests: where the reference values and the real images lie, and one thread a worker."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("SSPROMPT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
REFERENCE = Path(os.environ.get("SEEM_REFERENCE", SHARED / "reference"))


def reference_models(full_size: bool = False) -> list[Path]:
    """The model folders under `SEEM_REFERENCE` that hold a `spec.json`; full-size ones are named `full-*`."""
    if not REFERENCE.is_dir():
        return []
    return sorted(p.parent for p in REFERENCE.glob("*/spec.json") if p.parent.name.startswith("full-") == full_size)


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    if not REFERENCE.is_dir():
        pytest.skip(f"no reference values of the official implementation at {REFERENCE} (set SEEM_REFERENCE)")
    return REFERENCE


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"no real images at {SHARED} (set SSPROMPT_SHARED)")
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Workers of pytest-xdist share the cores; more threads than cores make small models many times slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Lists of files and label statistics of the tests stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssprompt_hf.data.datasets.layouts.constants.HF_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def hub():
    """A Hugging Face Hub on the loopback; see `hub_server.LocalHub`."""
    from hub_server import LocalHub

    with LocalHub() as server:
        yield server
