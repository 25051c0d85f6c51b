"""What is particular to training SAM 3's prompts, which asks about every class by itself."""

import json
from pathlib import Path

import sam3_training
import torch
from few_classes import NAMES, first_step, learned
from sam3_training import sam3_trainer
from tiny_sam3 import tiny_sam3
from tiny_training import run_python

from ssprompt_hf import SSPromptConfig, SSPromptModel


def test_half_precision_features_take_half_the_memory(tmp_path):
    trainers = [sam3_trainer(tmp_path, feature_cache_dtype=dtype) for dtype in ("float32", "float16")]
    (loss, gradients), (half_loss, half_gradients) = map(first_step, trainers)
    full, half = (trainer.feature_cache.memory_bytes for trainer in trainers)
    assert half < 0.51 * full
    assert not all(torch.equal(gradients[name], half_gradients[name]) for name in gradients)
    torch.testing.assert_close(half_loss, loss, rtol=1e-2, atol=1e-3)


def test_an_image_is_asked_about_its_own_classes_and_some_others(tmp_path):
    trainer = sam3_trainer(tmp_path, negative_classes=0)
    example = trainer.train_examples[0, 0]
    present = [value for value in example["label"].unique().tolist() if value < len(NAMES)]
    assert example["class_indices"].tolist() == present
    trainer = sam3_trainer(tmp_path, negative_classes=9)
    assert trainer.train_examples[0, 0]["class_indices"].tolist() == list(range(len(NAMES)))


def test_two_processes_give_the_result_of_one(tmp_path):
    arguments = {"per_device_train_batch_size": 2, "shrinkage": 0}
    one = sam3_trainer(tmp_path / "one", **arguments)
    one.train()
    arguments |= {"output_dir": str(tmp_path / "two"), "per_device_train_batch_size": 1}
    script = Path(sam3_training.__file__)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    run_python(*launch, json.dumps(arguments), PYTHONPATH=str(script.parent))
    two = torch.load(tmp_path / "two" / "learned.pt", weights_only=True)
    for name, value in learned(one).items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)


def test_an_adapter_for_19_classes_is_small(tmp_path):
    """200 queries and 19 classes of six tokens, 256 numbers each, as in the published model."""
    torch.manual_seed(0)
    base = tiny_sam3(class_names=None, width=256)
    base.detr_decoder.query_embed = torch.nn.Embedding(200, 256)
    base.class_tokens.weight = torch.randn(19, 5, 256)
    base.name_classes([f"class {index}" for index in range(19)])
    model = SSPromptModel(base, SSPromptConfig())
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 500_000
