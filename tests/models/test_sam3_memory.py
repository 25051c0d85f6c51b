"""What SAM 3 takes is told without building it, and decides how many classes are decoded together."""

import pytest
import torch
from tiny_sam3 import images, tiny_config, tiny_sam3
from transformers import Sam3Config

from ssprompt_hf.models.sam3 import Sam3ForPromptedSegmentation, memory

GIB = 2**30


def test_of_the_published_model():
    told = memory.memory(Sam3ForPromptedSegmentation, Sam3Config())
    assert told.parameters["total"] == 840_376_374 and told.parameters["text_encoder"] == 353_462_272
    assert told.cached_bytes == 4 * 256 * (288**2 + 144**2 + 72**2) + 16
    assert 0.45e9 < told.decode_bytes < 0.55e9 and 1.3e9 < told.training_bytes < 1.8e9
    small = memory.memory(Sam3ForPromptedSegmentation, Sam3Config(), 504)
    assert small.cached_bytes == 4 * 256 * (144**2 + 72**2 + 36**2) + 16
    assert small.decode_bytes < told.decode_bytes / 3


def test_of_a_model_with_classes():
    model = tiny_sam3()
    told = memory.memory(Sam3ForPromptedSegmentation, model.config)
    assert told.parameters["total"] == sum(p.numel() for p in model.parameters())


def test_estimate_of_training_against_what_autograd_saves():
    model = tiny_sam3(width=64, side=280).requires_grad_(False)
    model.class_tokens.weight = model.class_tokens.weight[:1].clone().requires_grad_()
    model.detr_decoder.query_embed.weight.requires_grad_()
    frozen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved, kept = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            saved[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # or another would get its place
        return tensor

    inputs = model.decoder_inputs([model.image_features(images(1, 280), "features")])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**inputs)
    estimate = memory.decode_bytes(model.config, (280, 280), with_gradient=True)
    assert sum(saved.values()) < estimate < 2 * sum(saved.values())
    half = memory.decode_bytes(model.config, (280, 280), with_gradient=True, element_size=2)
    assert 2 * half == estimate


@pytest.mark.parametrize(
    "total, free, pairs",
    [(80, 70, 8), (8, 7, 8), (6, 6, 6), (80, 3, 3), (1, 1, 1), (80, 0.2, 1)],
)
def test_pairs_at_once_on_a_gpu(total, free, pairs, monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda device: total * GIB)
    monkeypatch.setattr(memory, "free_memory", lambda device: int(free * GIB))
    assert memory.pairs_at_once(GIB // 2 if total in (8, 6) else GIB, torch.device("cuda")) == pairs
    assert memory.pairs_at_once(1, torch.device("cpu")) == 1
    assert memory.fits(int(free * GIB), torch.device("cuda")) == (free <= total / 2)


def test_memory_of_this_machine():
    cpu = torch.device("cpu")
    assert 0 < memory.free_memory(cpu) <= memory.total_memory(cpu)
    assert memory.fits(1, cpu) and not memory.fits(memory.total_memory(cpu), cpu)


def test_sizes_of_levels():
    config = tiny_config()
    assert memory.level_sizes(config, (56, 56)) == [(16, 16), (8, 8), (4, 4)]
