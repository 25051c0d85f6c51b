"""`transformers.Trainer` as it is, with an adapter of prompts: training, evaluation, saving."""

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from prompted_seem import adapted, logits, same, small_seem
from transformers import Trainer, TrainingArguments

from ssprompt_hf.models.seem import SeemImageProcessor

PROCESSOR = SeemImageProcessor(size={"shortest_edge": 64})


def collate(examples: list[dict]) -> dict:
    """As in the instance segmentation example of transformers."""
    batch = {name: [example[name] for example in examples] for name in examples[0]}
    return batch | {"pixel_values": torch.stack(batch["pixel_values"])}


def examples(count: int, instances: bool = True) -> list[dict]:
    """Images of two halves, one of class 0 and one of class 2, ready for the model."""
    made = []
    for seed in range(count):
        image = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        ids = np.ones((64, 64), dtype=np.uint8)
        ids[:, 20 + 4 * seed :] = 2
        names = {1: 0, 2: 2} if instances else None
        inputs = PROCESSOR(image, ids, instance_id_to_semantic_id=names, return_tensors="pt")
        made.append(
            {
                name: inputs[name][0]
                for name in ("pixel_values", "labels", "mask_labels", "class_labels")[: 4 if instances else 2]
            }
        )
    return made


def trainer(folder, model=None, **arguments):
    settings = {"learning_rate": 0.05, "max_steps": 3, "per_device_train_batch_size": 2, "report_to": "none"}
    return Trainer(
        adapted() if model is None else model,
        TrainingArguments(str(folder), use_cpu=True, **settings | arguments),
        train_dataset=examples(4),
        eval_dataset=examples(3),
        data_collator=collate,
    )


def test_training_and_evaluation(tmp_path):
    stock = trainer(
        tmp_path, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=2, gradient_accumulation_steps=2
    )
    stock.train()
    losses = [entry["eval_loss"] for entry in stock.state.log_history if "eval_loss" in entry]
    assert len(losses) == 3 and losses[-1] < losses[0]
    loaded = PeftModel.from_pretrained(small_seem(), tmp_path / "checkpoint-3")
    assert same(logits(loaded), logits(stock.model)) and not same(logits(loaded), logits(small_seem()))


def test_activation_checkpointing(tmp_path):
    weights, calls = [], []
    for index, checkpointing in enumerate((False, True)):
        stock = trainer(tmp_path / str(index), max_steps=1, gradient_checkpointing=checkpointing)
        layers = stock.model.get_base_model().model.mask_decoder.layers
        calls.append(0)
        for layer in layers:
            layer.fc1.register_forward_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
        stock.train()
        weights.append(get_peft_model_state_dict(stock.model))
    assert calls == [len(layers), 2 * len(layers)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())


def test_predictions_are_logits(tmp_path):
    stock = trainer(tmp_path, eval_do_concat_batches=False, per_device_eval_batch_size=1)
    found = stock.predict(examples(2))
    assert len(found.predictions) == len(found.label_ids) == 2
    class_logits, mask_logits = found.predictions[0]
    assert class_logits.shape == (1, 6, 4) and mask_logits.shape == (1, 6, 16, 16)
    assert found.metrics["test_loss"] > 0


def test_class_maps_are_labels_too(tmp_path):
    stock = trainer(tmp_path, label_names=["labels"], per_device_eval_batch_size=2)
    metrics = stock.evaluate([{name: one[name] for name in ("pixel_values", "labels")} for one in examples(2, False)])
    assert metrics["eval_loss"] > 0


def test_mistyped_labels_are_told(tmp_path):
    stock = trainer(tmp_path, remove_unused_columns=False)
    stock.train_dataset = [one | {"class_label": one["class_labels"]} for one in examples(2)]
    with pytest.raises(TypeError, match="'class_label'"):
        stock.train()
