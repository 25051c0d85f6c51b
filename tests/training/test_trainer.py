"""The trainer: the same result whatever the batches, processes and interruptions; evaluation; what it refuses."""

import json
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import (
    SCRIPT,
    prompts,
    run_python,
    tiny_adapted,
    tiny_images,
    tiny_processor,
    tiny_seem,
    tiny_trainer,
)

from ssprompt_hf.data.classes import SegmentationClasses
from ssprompt_hf.data.dataset import SegmentationDataset
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.metrics import confusion_matrix, scores_from_confusion
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.examples import SegmentationExamples, TrainingBatchSampler
from ssprompt_hf.training.runs import unusual_arguments
from ssprompt_hf.training.shrinkage import START
from ssprompt_hf.training.trainer import SSPromptTrainer
from ssprompt_hf.tuners.ssprompt import SSPromptConfig


def trained(tmp_path, **arguments) -> dict[str, torch.Tensor]:
    trainer = tiny_trainer(tmp_path, **arguments)
    trainer.train()
    return prompts(trainer.model)


def assert_close(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


class MixedSizes:
    """A source of images of several sizes, one without any label."""

    file_names = ("wide", "tall", "void", "wide too")

    def read(self, row):
        size = [(32, 64), (64, 32), (32, 64), (40, 70)][row]
        generator = np.random.default_rng(row)
        label = generator.integers(0, 11, size).astype(np.uint8)
        return {"image": generator.integers(0, 256, (*size, 3)).astype(np.uint8), "label": label | 255 * (row == 2)}

    def read_label(self, row):
        return self.read(row)["label"]

    def fingerprint(self):
        return "mixed"


def mixed_images():
    return SegmentationDataset(SegmentationClasses.from_names(map(str, range(11))), MixedSizes(), "mixed")


# Order


def test_rounds_without_gaps():
    sampler = TrainingBatchSampler(5, batch_size=2, steps=2, seed=3)
    order = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == 4
        order += [image for batch in batches for image in batch]
    assert len(order) == 40 and order == [sampler.at(position) for position in range(40)]
    for round_ in range(8):
        assert {image[0] for image in order[5 * round_ : 5 * round_ + 5]} == {round_}
        assert sorted(image[1] for image in order[5 * round_ : 5 * round_ + 5]) == list(range(5))
    assert len({tuple(image[1] for image in order[5 * r : 5 * r + 5]) for r in range(8)}) > 1
    other = TrainingBatchSampler(5, batch_size=2, steps=2, seed=4)
    assert list(other) != list(TrainingBatchSampler(5, batch_size=2, steps=2, seed=3))


def test_processes_and_accumulation_divide_the_same_steps():
    whole = TrainingBatchSampler(7, batch_size=8, seed=0)
    steps = [sorted(batch) for batch in whole]
    parts = [list(TrainingBatchSampler(7, 2, 2, num_processes=2, process_index=rank)) for rank in (0, 1)]
    for step, expected in enumerate(steps):
        group = [image for part in parts for batch in part[2 * step : 2 * step + 2] for image in batch]
        assert sorted(group) == expected


def test_examples_mirror_images_and_labels_alike():
    examples = SegmentationExamples(tiny_images(2), tiny_processor(), "panoptic", random_flip=True, load_pixels=True)
    seen = {}
    for epoch in range(8):
        example = examples[epoch, 0]
        seen.setdefault(example["flipped"], example)
    plain, mirrored = seen[False], seen[True]
    assert torch.equal(plain["label"], mirrored["label"].flip(1))
    assert torch.equal(plain["pixel_values"], mirrored["pixel_values"].flip(3))
    assert torch.equal(plain["mask_labels"].sum(0), mirrored["mask_labels"].sum(0).flip(1))
    assert plain["mask_labels"].shape[1:] == plain["label"].shape == (32, 64)


def test_padding_is_ignored():
    examples = SegmentationExamples(mixed_images(), tiny_processor(), load_pixels=True)
    example = examples[0, 3]  # 40x70 is resized to 32x56 and padded to 32x64
    assert example["pixel_values"].shape[2:] == example["label"].shape == (32, 64)
    assert (example["label"][:, 56:] == 255).all() and (example["label"][:, :56] != 255).all()


# Training


def test_only_prompts_change(tmp_path):
    trainer = tiny_trainer(tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    learned = set(prompts(trainer.model))
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in learned), name
    assert not trainer.base_model.training


def test_learning_rate_and_shrinkage_are_those_of_the_method_unless_they_are_given(tmp_path):
    args = SSPromptTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    trainer = SSPromptTrainer(tiny_adapted(), args, tiny_processor(), tiny_images())
    assert trainer.args.learning_rate == SSPromptConfig().default_learning_rate
    assert trainer.args.shrinkage == SSPromptConfig().default_shrinkage > 0
    assert args.learning_rate is None and args.shrinkage is None  # the same arguments may serve another method
    given = tiny_trainer(tmp_path, learning_rate=0.25, shrinkage=0.0).args
    assert (given.learning_rate, given.shrinkage) == (0.25, 0)
    # what does not start as zero-shot segmentation has no reason to go back there
    away = tiny_trainer(tmp_path, tiny_adapted(init_embeddings="normal"))
    assert away.args.shrinkage == 0
    away.train()
    assert away.kept_share == 1


def test_learning_rates_are_relative_to_the_size_of_the_prompts(tmp_path):
    trainer = tiny_trainer(tmp_path, learning_rate=0.5)
    rates = {id(group["params"][0]): group["lr"] for group in trainer.create_optimizer().param_groups}
    named = {name: parameter for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert len(rates) == len(named) == 4
    for name, parameter in named.items():
        size = 10.0 if "ssprompt_weight" in name else float(parameter.square().mean().sqrt())  # untrained: e = z
        # the class embeddings' own size is that with "background", which is not learned
        assert rates[id(parameter)] == pytest.approx(0.5 * size, rel=0.05)


@pytest.mark.parametrize(
    ("given", "steps", "recorded"),
    [
        ({}, 200, {"max_steps": 200}),
        ({"num_train_epochs": 2}, 6, {"num_train_epochs": 2}),
        ({"num_train_epochs": 3}, 9, {}),  # transformers' own default, given
        ({"num_train_epochs": 1.5}, 5, {"num_train_epochs": 1.5}),
        ({"num_train_epochs": 2, "max_steps": 4}, 4, {"num_train_epochs": 2, "max_steps": 4}),
        ({"max_steps": -1}, 9, {}),
    ],
)
def test_epochs_count_unless_steps_are_given(tmp_path, given, steps, recorded):
    trainer = tiny_trainer(tmp_path, save_strategy="no", **({"max_steps": None} | given))
    if steps == 200:
        assert trainer.args.max_steps == steps
    else:
        trainer.train()
        assert trainer.state.global_step == steps
    settings = unusual_arguments(trainer.args)
    assert {name: settings[name] for name in ("max_steps", "num_train_epochs") if name in settings} == recorded


@pytest.mark.parametrize("schedule", ["polynomial", "cosine", "linear", "constant"])
def test_schedules_of_the_learning_rate(tmp_path, schedule):
    trainer = tiny_trainer(tmp_path, lr_scheduler_type=schedule, logging_steps=1)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    shares = {"polynomial": (3 / 4) ** 0.9, "cosine": (1 + np.cos(np.pi / 4)) / 2, "linear": 3 / 4, "constant": 1}
    assert rates[1] / rates[0] == pytest.approx(shares[schedule])
    kwargs = {"power": 0.9, "lr_end": 0.0} if schedule == "polynomial" else None
    assert trainer.args.lr_scheduler_kwargs == unusual_arguments(trainer.args).get("lr_scheduler_kwargs") == kwargs
    args = SSPromptTrainingArguments(use_cpu=True, lr_scheduler_kwargs='{"power": 2}')
    assert args.lr_scheduler_kwargs == {"power": 2}


@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_accumulation_and_sizes_of_batches_change_only_rounding(tmp_path, task):
    whole = trained(tmp_path, per_device_train_batch_size=4, task=task)
    parts = trained(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, task=task)
    assert_close(whole, parts, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.5}])
@pytest.mark.parametrize("semantic_loss", ["mixed", "dice", "balanced", "nll", "cross_entropy"])
def test_the_loss_falls(tmp_path, semantic_loss, arguments):
    trainer = tiny_trainer(
        tmp_path,
        max_steps=12,
        per_device_train_batch_size=5,
        semantic_loss=semantic_loss,
        logging_steps=1,
        **arguments,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_half_precision(tmp_path):
    exact = trained(tmp_path)
    half = trained(tmp_path, bf16=True)
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in half.values())
    start = prompts(tiny_adapted())
    name = next(name for name in exact if "object_queries" in name and "embedding" in name)
    assert not torch.equal(half[name], start[name])
    assert (
        torch.nn.functional.cosine_similarity(
            (half[name] - start[name]).flatten(), (exact[name] - start[name]).flatten(), 0
        )
        > 0.5
    )


def test_activation_checkpointing_computes_the_decoder_again(tmp_path):
    found, calls = [], []
    for checkpointing in (False, True):
        model, arguments = tiny_adapted(deep_prompts="all"), {"gradient_checkpointing": checkpointing}
        trainer = tiny_trainer(tmp_path / str(checkpointing), model, max_steps=2, **arguments)
        blocks = [layer.fc1 for layer in trainer.base_model.model.mask_decoder.layers]
        calls.append([])
        for block in blocks:
            block.register_forward_hook(lambda *_, own=calls[-1]: own.append(torch.is_grad_enabled()))
        trainer.train()
        found.append(prompts(trainer.model))
    assert sum(calls[0]) == 2 * len(blocks) and sum(calls[1]) == 2 * sum(calls[0])
    assert all(torch.equal(found[1][name], tensor) for name, tensor in found[0].items())


def test_images_of_several_sizes_in_one_batch(tmp_path):
    arguments = {"train": mixed_images(), "per_device_train_batch_size": 4}
    cached = trained(tmp_path, **arguments)
    assert_close(cached, trained(tmp_path, feature_cache="none", **arguments), rtol=0, atol=0)


# Resuming


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "task": "panoptic"}

    def run(name, *options, **kwargs):
        return run_python(SCRIPT, json.dumps({"output_dir": str(tmp_path / name), **settings}), *options, **kwargs)

    run("whole")
    assert run("killed", "--kill-at", "3", check=False).returncode == -signal.SIGKILL
    # what a kill in the middle of writing the next checkpoint leaves behind
    half = tmp_path / "killed" / "checkpoint-4"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_step": 4, "epo')
    run("killed", "--resume")
    whole, resumed = (tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == resumed.read_bytes()
    # checkpoints hold the adapter, not the base model
    weights = [path for path in (tmp_path / "whole" / "checkpoint-6").glob("*.safetensors") if path.name != START]
    assert sum(path.stat().st_size for path in weights) == whole.stat().st_size < 20_000


# Processes


def test_two_processes_equal_one_up_to_rounding(tmp_path):
    def run(name, batch_size, *launcher):
        settings = {"output_dir": str(tmp_path / name), "max_steps": 6, "per_device_train_batch_size": batch_size}
        run_python(*launcher, SCRIPT, json.dumps(settings), "--evaluate")
        results = json.loads((tmp_path / name / "results-0.json").read_text())
        return load_file(tmp_path / name / "adapter" / "adapter_model.safetensors"), results

    one, results = run("one", 2)
    two, results_of_two = run("two", 1, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    assert_close(one, two, rtol=1e-4, atol=1e-6)
    # three images on two processes: the one that fills up the last batch is not counted twice
    for kind in ("zero_shot", "adapted"):
        first, second = results["results"][kind], results_of_two["results"][kind]
        assert first["pixel_accuracy"] == pytest.approx(second["pixel_accuracy"], abs=2e-3)
    # nobody computes in training what the other has
    other = json.loads((tmp_path / "two" / "results-1.json").read_text())
    trained_on = results["misses"] - 3
    evaluated_twice = 4
    assert results_of_two["misses"] + other["misses"] == trained_on + evaluated_twice


# Evaluation


def test_evaluation_equals_a_plain_loop(tmp_path):
    images = mixed_images()
    settings = {"per_device_eval_batch_size": 3, "learning_rate": 0.1, "shrinkage": 0}
    trainer = tiny_trainer(tmp_path, train=images, evaluation=images, **settings)
    trainer.train()
    metrics = trainer.evaluate()
    both = trainer.evaluate_by_class(with_zero_shot=True)
    for name, model in (("adapted", trainer.model), ("zero_shot", tiny_seem())):
        total = 0
        for index in range(len(images)):
            example = images[index]
            inputs = tiny_processor()(images=example["image"], return_tensors="pt")
            with torch.no_grad():
                outputs = model(**inputs)
            result = tiny_processor().post_process_semantic_segmentation(outputs, [example["label"].shape])[0]
            total = total + confusion_matrix(result.numpy(), example["label"], 11)
        expected = scores_from_confusion(total, images.classes.names)
        assert both[name]["mean_iou"] == pytest.approx(expected["mean_iou"], abs=1e-3)
        assert both[name]["per_class_iou"] == pytest.approx(expected["per_class_iou"], abs=2e-3, nan_ok=True)
    assert metrics["eval_mean_iou"] == both["adapted"]["mean_iou"]
    assert metrics["eval_iou_3"] == both["adapted"]["per_class_iou"]["3"]
    assert both["zero_shot"] != both["adapted"]


def test_evaluation_in_training_runs_the_frozen_part_once(tmp_path):
    images = tiny_images(2, "validation")
    trainer = tiny_trainer(tmp_path, evaluation=images, eval_strategy="steps", eval_steps=1, random_flip=False)
    trainer.train()
    assert trainer.feature_cache.misses == len(trainer.train_examples) + len(images)
    assert len([entry for entry in trainer.state.log_history if "eval_mean_iou" in entry]) == 4


def test_several_data_sets_are_evaluated_by_name(tmp_path):
    images = {"easy": tiny_images(1, "validation"), "hard": tiny_images(2, "test")}
    trainer = tiny_trainer(tmp_path, evaluation=images, eval_strategy="steps", eval_steps=4)
    trainer.train()
    metrics = trainer.evaluate()
    for name, one in images.items():
        assert metrics[f"eval_{name}_mean_iou"] == trainer.evaluate(one)["eval_mean_iou"]
        assert any(f"eval_{name}_mean_iou" in entry for entry in trainer.state.log_history)


# Refusals

EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"semantic_loss": "focal"}, "semantic_loss is 'focal'"),
        ({"task": "depth"}, "task is 'depth'"),
        ({"feature_cache": "tape"}, "feature_cache is 'tape'"),
        ({"loss_resolution": "image"}, "loss_resolution is 'image'"),
        ({"feature_cache_gb": 0}, "feature_cache_gb is 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"num_train_epochs": 0}, "num_train_epochs is 0"),
        ({"remove_unused_columns": True}, "remove_unused_columns=False"),
        ({"bf16_full_eval": True}, "use bf16"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        (
            {**EVERY_STEP, "lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "loss"},
            "may be mean_iou",
        ),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(SSPromptError, match=message):
        SSPromptTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **arguments)


def test_bad_models_and_data(tmp_path):
    with pytest.raises(SSPromptError, match="nothing in the model can be trained"):
        tiny_trainer(tmp_path, model=tiny_seem().requires_grad_(False))
    with pytest.raises(SSPromptError, match="has 11 classes, the model 3"):
        tiny_trainer(tmp_path, model=tiny_seem(3))
    with pytest.raises(SSPromptError, match="need instance maps"):
        tiny_trainer(tmp_path, train=mixed_images(), task="instance").train()
    with pytest.raises(SSPromptError, match="needs an eval_dataset"):
        tiny_trainer(tmp_path).evaluate()
    with pytest.raises(SSPromptError, match=r"use SSPromptModel\.predict"):
        tiny_trainer(tmp_path).predict(tiny_images(1))


def test_gloo_is_left_before_the_interpreter_ends(tmp_path):
    """Its threads must not wait for a Python that is going; see `leave_gloo`."""
    script = f"""
import atexit, torch
from tiny_training import tiny_trainer
atexit.register(lambda: print("initialized at the end:", torch.distributed.is_initialized()))
torch.distributed.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=0, world_size=1)
trainer = tiny_trainer("{tmp_path}/out", max_steps=1)
print("initialized before:", torch.distributed.is_initialized())
"""
    output = run_python("-c", f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}){script}").stdout
    assert "initialized before: True" in output and "initialized at the end: False" in output
