"""Every stored output of every model under `SEEM_REFERENCE`, through the processor, the model and post-processing."""

import copy
import functools

import pytest
import torch
from conftest import reference_models
from seem_reference import Reference, error_of_largest

EXACT = ("uint8", "int32", "int64")


def folders(full_size: bool = False):
    marks = [pytest.mark.slow] if full_size else []
    found = reference_models(full_size) or [None]
    return [pytest.param(folder, id=folder and folder.name, marks=marks) for folder in found]


every_model = pytest.mark.parametrize("folder", [*folders(), *folders(full_size=True)])


@functools.lru_cache(maxsize=1)
def loaded(folder) -> tuple[Reference, torch.nn.Module]:
    reference = Reference(folder)
    return reference, reference.model()


@pytest.fixture
def reference(reference_dir, folder) -> Reference:
    return loaded(folder)[0]


@pytest.fixture
def model(reference, folder) -> torch.nn.Module:
    return copy.deepcopy(loaded(folder)[1])


def differences(reference: Reference, values: dict) -> dict[str, float]:
    """For every stored tensor the largest difference as a share of its largest value; for integers, the share of wrong
    ones. Raises KeyError if a stored tensor has no counterpart."""
    found = {}
    for name, expected in reference.expected.items():
        actual = values[name]
        if actual.dtype == torch.bool or str(expected.dtype).removeprefix("torch.") in EXACT:
            assert actual.shape == expected.shape, name
            found[name] = (actual != expected).double().mean().item()
        else:
            found[name] = error_of_largest(actual, expected)
    return found


@every_model
def test_float64(reference, model):
    found = differences(reference, reference.compute(model.double()))
    # Margins are stored in float16.
    limits = {name: 1e-3 if name.endswith("sem_seg_margin") else 1e-5 for name in found}
    assert set(found) == set(reference.expected)
    assert not {name: error for name, error in found.items() if error > limits[name]}
    assert not any(error for name, error in found.items() if not reference.expected[name].is_floating_point())
    if "a.panoptic_segments" in reference.info:
        assert reference.segments == reference.info["a.panoptic_segments"]
    print(f"\n{reference.folder.name}:", max(error for name, error in found.items() if limits[name] == 1e-5))
