"""Fixtures shared by all tests: where the reference values and the real images lie, one thread a worker, and the
families of base models."""

import importlib
import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("SSPROMPT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
TINY_FAMILIES = Path(__file__).parent / "support" / "tiny_families"
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


@pytest.fixture(params=sorted(path.stem for path in TINY_FAMILIES.glob("[a-z]*.py")))
def tiny(request, monkeypatch):
    """Every family of base models, one after the other; see `tiny_families.TinyFamily`."""
    from ssprompt_hf.models import registry

    described = importlib.import_module(f"tiny_families.{request.param}").TINY
    reason = described.skips.get(request.node.originalname)
    if reason is not None:
        pytest.skip(reason)
    if described.family.name not in registry.FAMILIES:
        monkeypatch.setattr(registry, "FAMILIES", dict(registry.FAMILIES))
        monkeypatch.setattr(registry, "MODEL_TYPES", dict(registry.MODEL_TYPES))
        module = type(described.family).__module__
        registry.register_family(described.family.name, module, described.family.model_types)
    return described
