"""What a training would take, told before; against what it takes."""

import re

import pytest
from tiny_training import save_tiny_base

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.data_choice import select_training_images
from ssprompt_hf.training.feature_cache import features_bytes
from ssprompt_hf.training.plan import plan_training
from ssprompt_hf.training.runs import prepare_training
from ssprompt_hf.training.settings import DataArguments, PromptArguments


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("base"))


def settings(base, output, method="ssprompt", image_size=None, prompt_options=None, **arguments):
    data = DataArguments(
        base_model=base,
        dataset="street-scenes/fog",
        dataset_options='{"num_images": 6, "size": [32, 64]}',
        image_size=image_size,
    )
    prompts = PromptArguments(method=method, shots=2, allow_fewer=True, prompt_options=prompt_options)
    return data, prompts, SSPromptTrainingArguments(output_dir=str(output), use_cpu=True, **arguments)


def lines(text: str) -> dict[str, str]:
    return dict(re.match(r"(\S+(?: \S+)*) {2,}(.*)", line).groups() for line in text.splitlines())


def test_the_plan_of_a_small_data_set(base, tmp_path):
    plan = lines(plan_training(*settings(base, tmp_path / "out", num_train_epochs=1.5)))
    assert list(plan) == ["data", "steps", "base model", "cache", "peak", "output"]
    assert re.fullmatch(
        r"\d of 6 images of street-scenes/fog to learn from, 11 classes, 6 images to evaluate on; the first is 32x64 "
        "pixels",
        plan["data"],
    )
    assert plan["base model"].startswith(f"{base}: 0.2 M parameters held, 0.00 GiB")
    assert "they fit into memory (limit 4.0 GiB)" in plan["cache"]
    assert plan["output"] == f"{tmp_path / 'out'}; nothing was written" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"image_size": 512},
        {"image_size": 512, "feature_cache_dtype": "float16"},
        {"image_size": 512, "feature_cache_gb": 0.03},
        {"image_size": 512, "keep_projections": False},
        {"image_size": 512, "method": "semprompt"},
        {"image_size": 512, "method": "semprompt", "prompt_options": '{"class_masks": true}'},
        {"image_size": 512, "method": "coop"},
        {
            "image_size": 512,
            "random_flip": False,
            "feature_cache": "memory",
            "feature_cache_gb": 0.001,
            "method": "vspl",
        },
    ],
    ids=["", "size", "float16", "limit", "features", "semprompt", "class masks", "coop", "too small"],
)
def test_cached_bytes_are_those_of_the_training(base, tmp_path, arguments):
    data, prompts, args = settings(base, tmp_path, **arguments)
    plan = lines(plan_training(data, prompts, args))
    images = data.load(data.train_split, "semantic")
    trainer = prepare_training(data, prompts, args, images, select_training_images(images, prompts, args.seed))
    kept = trainer.features.get(trainer.train_examples, 0)
    size = features_bytes(kept)  # in float32, as it is used
    mib = size / 2**20 / (2 if args.feature_cache_dtype == "float16" else 1)
    views = len(trainer.train_examples) * (2 if args.random_flip else 1)
    flipped = " and mirror images" if args.random_flip else ""
    assert plan["cache"].startswith(
        f"{mib:.1f} MiB an image in {args.feature_cache_dtype}, {views} images{flipped}: {views * mib / 1024:.2f} GiB"
    )
    assert ("Raise --feature_cache_gb" in plan["cache"]) == (args.feature_cache_gb == 0.001)


@pytest.mark.parametrize(
    ("given", "steps"),
    [({}, 200), ({"max_steps": 3}, 3), ({"num_train_epochs": 3}, 3), ({"num_train_epochs": 2.5}, 3)],
)
def test_steps_are_those_of_the_training(base, tmp_path, given, steps):
    data, prompts, args = settings(base, tmp_path, per_device_train_batch_size=8, save_strategy="no", **given)
    assert lines(plan_training(data, prompts, args))["steps"] == f"{steps} of 8 images"


def test_what_there_is_no_plan_for(base, tmp_path):
    with pytest.raises(SSPromptError, match="zero_shot trains nothing"):
        plan_training(*settings(base, tmp_path, "zero_shot"))
    none = lines(plan_training(*settings(base, tmp_path, feature_cache="none")))
    assert "the frozen part runs at every step" in none["cache"]


def test_sam3_is_planned_without_its_weights(tmp_path):
    data, prompts, args = settings("sam3", tmp_path, feature_cache_dtype="float16")
    plan = lines(plan_training(data, prompts, args))
    assert re.match("sam3: 4[0-9]{2}[.]. M parameters held", plan["base model"])
    assert "an image is asked about its own classes and 4 others" in plan["a step"]
    assert plan["a step"].startswith("about 1.49 GiB a pair of image and class")
    peak = float(re.match(r"about (.*) GiB", plan["peak"])[1])
    assert plan["cache"].startswith("53.2 MiB an image in float16, 4 images and mirror images: 0.21 GiB")
    assert peak == pytest.approx(4 * 486.7e6 / 2**30 + 0.21 + 1.5, abs=0.1)
