"""The cache of the frozen part: exact, within its limit, and safe against damage."""

import hashlib
import os
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from tiny_training import prompts, save_tiny_base, tiny_adapted, tiny_images, tiny_processor, tiny_seem, tiny_trainer

from ssprompt_hf import SSPromptModel
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.training import feature_cache
from ssprompt_hf.training.examples import SegmentationExamples
from ssprompt_hf.training.feature_cache import FeatureCache, features_bytes
from ssprompt_hf.training.features import ImageFeatures
from ssprompt_hf.training.settings import PromptArguments
from ssprompt_hf.training.shrinkage import INTERVALS
from ssprompt_hf.tuners import SSPromptConfig
from ssprompt_hf.tuners.base.model import adapted_kinds

SEMANTIC_ONLY = {"spatial_embedding": False, "spatial_weight": False}
FEATURES, PROJECTIONS = {"mask_features", "multi_scale_features", "attention_features"}, {"keys", "values"}
PREDICTIONS = {"class_queries_embeds", "masks_queries_logits"}


def features(value: float = 0.0, size: int = 100):
    return {"mask_features": torch.full((1, size), value), "padded_size": torch.tensor([32, 64])}


def digest(name: str) -> str:
    """A key as `ImageFeatures` makes them."""
    return hashlib.sha256(name.encode()).hexdigest()


class Named:
    """Black images that differ in their names only, in place of `SegmentationExamples`."""

    def __init__(self, *names: str):
        self.names = names

    def image_digest(self, index: int) -> str:
        return self.names[index]

    def pixel_values(self, index: int, flipped: bool) -> torch.Tensor:
        return torch.zeros(1, 3, 32, 64)


def fingerprint(model, preprocessing: str = "", stage: str = "features", dtype: str = "float32") -> str:
    return ImageFeatures(model, FeatureCache(), preprocessing, stage, dtype).fingerprint


def tiny_method(folder, method: str):
    """The tiny model with its text encoder and classes, and an untrained adapter of another method."""
    torch.manual_seed(0)
    return SSPromptModel.from_pretrained(
        save_tiny_base(folder / "base"),
        config=PromptArguments(method=method).config(),
        class_names=tiny_images(1).classes.names,
        is_trainable=True,
    )


def loss_and_gradients(tmp_path, config, **arguments):
    """Of the second pass over a batch, so that a cache has been filled; and how often the backbone ran."""
    model = tiny_method(tmp_path, config) if isinstance(config, str) else tiny_adapted(**config)
    trainer = tiny_trainer(tmp_path, model, **arguments)
    runs = []
    trainer.base_model.model.backbone.register_forward_hook(lambda *_: runs.append(1))
    for _ in range(2):
        trainer.model.zero_grad()
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
        loss.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    assert gradients and all(p.requires_grad or p.grad is None for p in trainer.model.parameters())
    return loss.detach(), gradients, len(runs)


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        ({}, {}),
        ({"deep_prompts": "all"}, {"keep_projections": True}),
        (SEMANTIC_ONLY | {"class_masks": True}, {}),
        ({}, {"semantic_loss": "nll", "auxiliary_loss": True}),
        ({}, {"task": "panoptic"}),
        (SEMANTIC_ONLY, {}),
        (SEMANTIC_ONLY, {"task": "instance"}),
        ("coop", {}),
        ("locn", {"task": "panoptic"}),
        ("vspl", {}),
    ],
    ids=[
        "both",
        "projections",
        "class masks",
        "auxiliary",
        "panoptic",
        "semantic prompts",
        "semantic prompts, instances",
    ]
    + ["coop", "locn", "vspl"],
)
@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_cached_features_give_the_same_loss_and_gradients(tmp_path, config, arguments, storage):
    arguments = {"per_device_train_batch_size": 3, **arguments}
    loss, gradients, runs = loss_and_gradients(tmp_path, config, feature_cache="none", **arguments)
    cached_loss, cached_gradients, cached_runs = loss_and_gradients(
        tmp_path, config, feature_cache=storage, **arguments
    )
    assert torch.equal(loss, cached_loss)
    assert gradients.keys() == cached_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, cached_gradients[name]), name
        # w weighs nothing as long as e = z, and a mask that has no share yet is not seen
        if not name.endswith(("ssprompt_weight.default", "ssprompt_mask.default")):
            assert gradient.abs().max() > 0, name
    assert (runs, cached_runs) == (6, 3)


@pytest.mark.parametrize("config", [{}, SEMANTIC_ONLY], ids=["features", "predictions"])
def test_the_frozen_part_runs_once_an_image_and_once_a_mirror_image(tmp_path, config):
    trainer = tiny_trainer(tmp_path, tiny_adapted(**config), max_steps=20)
    runs = {"backbone": 0, "mask_decoder": 0}

    def count(name):
        module = getattr(trainer.base_model.model, name)
        module.register_forward_hook(lambda *_: runs.__setitem__(name, runs[name] + 1))

    count("backbone")
    count("mask_decoder")
    trainer.train()
    assert runs["backbone"] == 2 * len(trainer.train_examples)
    # once a step, and for three batches at the points of the way back
    assert runs["mask_decoder"] == (2 * len(trainer.train_examples) if config else 20 + 3 * (INTERVALS + 1))
    assert trainer.feature_cache.misses == runs["backbone"]


@pytest.mark.parametrize(
    ("config", "arguments", "names"),
    [
        ({}, {"keep_projections": False}, FEATURES),
        ({}, {"feature_cache_gb": 1e-6}, FEATURES),
        ({}, {"keep_projections": True}, FEATURES | PROJECTIONS),
        ({}, {}, FEATURES | PROJECTIONS),  # as there is room
        (SEMANTIC_ONLY, {"feature_cache_gb": 1e-6}, PREDICTIONS),
    ],
)
def test_only_what_is_needed_and_fits_is_kept(tmp_path, config, arguments, names):
    trainer = tiny_trainer(tmp_path, tiny_adapted(**config), **arguments)
    kept = trainer.features.get(trainer.train_examples, 0)
    assert {name.split(".")[0] for name in kept} == names | {"padded_size"}
    assert trainer.base_model.feature_bytes((32, 64), trainer.features.stage) == features_bytes(kept)


def test_half_precision_halves_what_fits(tmp_path):
    stages = ("features", "projections")
    model = tiny_adapted().get_base_model()
    views = 2 * 5  # five images and their mirror images
    limit = views * model.feature_bytes((32, 64), "projections")
    chosen = [
        tiny_trainer(tmp_path, feature_cache_gb=share * limit / 2**30, feature_cache_dtype=dtype).features.stage
        for share, dtype in ((1, "float32"), (0.99, "float32"), (0.5, "float16"), (0.49, "float16"))
    ]
    assert chosen == [stages[1], stages[0]] * 2


@pytest.mark.parametrize("config", [{}, SEMANTIC_ONLY, "locn"], ids=["both", "semantic prompts", "locn"])
def test_half_precision_rounds_cached_or_not(tmp_path, config):
    exact_loss, exact, _ = loss_and_gradients(tmp_path / "exact", config)
    found = {}
    for storage in ("none", "memory", "disk"):
        arguments = {"feature_cache": storage, "feature_cache_dtype": "float16"}
        found[storage] = loss_and_gradients(tmp_path / storage, config, **arguments)
    loss, gradients, _ = found["none"]
    for storage in ("memory", "disk"):
        assert torch.equal(loss, found[storage][0])
        assert all(torch.equal(gradient, found[storage][1][name]) for name, gradient in gradients.items())
    assert not all(torch.equal(gradient, exact[name]) for name, gradient in gradients.items())
    torch.testing.assert_close(loss, exact_loss, rtol=1e-2, atol=0)


def test_half_precision_takes_half_the_memory(tmp_path):
    kept, bytes_kept = {}, {}
    for dtype in ("float32", "float16"):
        trainer = tiny_trainer(tmp_path / dtype, feature_cache_dtype=dtype, random_flip=False)
        for _ in range(2):  # computed, and from the cache
            kept[dtype] = trainer.features.get(trainer.train_examples, 0)
        assert (trainer.feature_cache.misses, trainer.feature_cache.hits) == (1, 1)
        (in_memory,) = trainer.feature_cache._memory.values()
        assert {tensor.dtype for tensor in in_memory.values()} == {getattr(torch, dtype), torch.int64}
        bytes_kept[dtype] = trainer.feature_cache.memory_bytes - features_bytes({"": in_memory["padded_size"]})
    assert bytes_kept["float32"] == 2 * bytes_kept["float16"]
    for name, tensor in kept["float32"].items():
        rounded = kept["float16"][name]
        assert rounded.dtype == tensor.dtype
        if tensor.is_floating_point():
            assert torch.equal(rounded, tensor.half().float()) and not torch.equal(rounded, tensor)


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_limit(tmp_path, storage):
    size = features_bytes(features())
    cache = FeatureCache(storage, tmp_path, max_bytes=3 * size + (600 if storage == "disk" else 0))
    calls = []
    for _ in range(2):
        for key in "abcde":
            value = cache.get_or_compute(digest(key), lambda key=key: calls.append(key) or features(float(ord(key))))
            assert value["mask_features"][0, 0] == ord(key)
    # the first stay: whatever replaced them would be gone itself before its turn came again
    assert calls[:5] == list("abcde")
    assert set(calls[5:]) <= set("de") and "e" in calls[5:]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= cache.max_bytes


def test_files_of_earlier_runs_make_room(tmp_path):
    old = FeatureCache("disk", tmp_path)
    for key in "ab":
        old.get_or_compute(digest(key), features)
        os.utime(tmp_path / f"{digest(key)}.safetensors", ns=(ord(key), ord(key)))
    size = sum(path.stat().st_size for path in tmp_path.iterdir()) // 2
    cache = FeatureCache("disk", tmp_path, max_bytes=2 * size)
    cache.get_or_compute(digest("b"), lambda: pytest.fail("b is there"))
    cache.get_or_compute(digest("c"), features)
    assert {path.stem for path in tmp_path.iterdir()} == {digest("b"), digest("c")}


STRANGERS = ("model.safetensors", ".model-1.safetensors", f"{'0' * 63}.safetensors", f"{'0' * 64}.txt", "notes.txt")


def strangers(folder) -> list:
    """Files of the user, larger and older than anything of the cache."""
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in STRANGERS]
    for path in paths:
        path.write_bytes(bytes(10_000))
        os.utime(path, ns=(1, 1))
    return paths


def test_files_of_others_are_neither_counted_nor_deleted(tmp_path):
    others = strangers(tmp_path)
    half = tmp_path / f".{digest('half')}-k_2x.safetensors"  # what a kill in the middle of writing leaves
    half.write_bytes(bytes(1000))
    os.utime(half, ns=(1, 1))
    cache = FeatureCache("disk", tmp_path, max_bytes=1500)
    for key in "abc":
        cache.get_or_compute(digest(key), features)
    assert len(cache._used) == 2 and not half.exists()
    cache.remove(whole_directory=True)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_removing_what_was_written(tmp_path):
    named = tmp_path / "named"
    FeatureCache("disk", named).get_or_compute(digest("earlier"), features)
    cache, other_process = FeatureCache("disk", named), FeatureCache("disk", named)
    cache.get_or_compute(digest("earlier"), lambda: pytest.fail("it is there"))
    for key, one in (("a", cache), ("b", other_process)):
        one.get_or_compute(digest(key), features)
        one.remove()
    assert [path.stem for path in named.iterdir()] == [digest("earlier")]
    FeatureCache("disk", named).remove(whole_directory=True)
    assert not named.exists()

    made = FeatureCache("disk", named)
    made.get_or_compute(digest("a"), features)
    made.remove()
    assert not named.exists()
    named.mkdir()
    FeatureCache("disk", named).remove()
    assert named.is_dir()
    FeatureCache("memory", named).remove(whole_directory=True)
    assert named.is_dir()


@pytest.mark.parametrize("is_named", [True, False], ids=["named", "default"])
def test_training_removes_its_own_files_only(tmp_path, is_named):
    folder = tmp_path / "feature_cache"
    others = strangers(folder)
    trainer = tiny_trainer(tmp_path, max_steps=2, feature_cache_dir=str(folder) if is_named else None)
    trainer.feature_cache = FeatureCache("disk", folder)  # as several processes have it in place of memory
    trainer.train()
    assert trainer.feature_cache.misses and sorted(folder.iterdir()) == sorted(others)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text"])
def test_damaged_files_are_computed_again(tmp_path, damage):
    FeatureCache("disk", tmp_path).get_or_compute("key", lambda: features(1.0))
    path = tmp_path / "key.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        data = data[:-10]
    elif damage == "flip":
        data[-5] ^= 1
    else:
        data = b"" if damage == "empty" else b"no tensors at all, but some text"
    path.write_bytes(data)
    cache = FeatureCache("disk", tmp_path)
    assert cache.get_or_compute("key", lambda: features(2.0))["mask_features"][0, 0] == 2
    assert (cache.misses, cache.hits) == (1, 0)
    assert cache.get_or_compute("key", lambda: pytest.fail("written anew"))["mask_features"][0, 0] == 2


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_cache, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache("disk", tmp_path).get_or_compute("key", features)
    assert list(tmp_path.iterdir()) == []


def test_half_precision_survives_the_disk(tmp_path):
    kept = {"mask_features": torch.randn(1, 5).bfloat16(), "padded_size": torch.tensor([1, 2])}
    FeatureCache("disk", tmp_path).get_or_compute("key", lambda: kept)
    read = FeatureCache("disk", tmp_path).get_or_compute("key", lambda: pytest.fail("it is there"))
    assert torch.equal(read["mask_features"], kept["mask_features"]) and read["mask_features"].dtype == torch.bfloat16


def test_another_model_image_or_preprocessing_has_other_features(tmp_path):
    model = tiny_adapted().get_base_model()
    source = ImageFeatures(model, FeatureCache("disk", tmp_path), "settings", "features")
    assert source.fingerprint == fingerprint(tiny_adapted().get_base_model(), "settings")
    assert source.fingerprint != fingerprint(model, "others")
    assert source.fingerprint != fingerprint(model, "settings", "projections")
    assert source.fingerprint != fingerprint(model, "settings", "predictions")
    assert source.fingerprint != fingerprint(model, "settings", dtype="float16")
    weight = next(model.model.backbone.parameters())
    with torch.no_grad():
        weight.view(-1)[-1] += 1e-3
    assert source.fingerprint != fingerprint(model, "settings")

    images = Named("one", "two")
    for _ in range(2):
        for index, flipped in ((0, False), (0, True), (1, False)):
            source.get(images, index, flipped)
    assert (source.cache.misses, source.cache.hits) == (3, 3) and len(list(tmp_path.iterdir())) == 3

    images = SegmentationExamples(tiny_images(2), tiny_processor())
    assert images.image_digest(0) != images.image_digest(1)
    assert images.image_digest(0) == SegmentationExamples(tiny_images(2), tiny_processor()).image_digest(0)


def test_pixels_at_hand_that_are_not_to_be_kept_need_no_digest():
    source = ImageFeatures(tiny_adapted().get_base_model(), FeatureCache(), "", "features")
    pixels = torch.ones(1, 3, 32, 64)
    with pytest.raises(AttributeError):
        source.get(None, 0, pixel_values=pixels)
    found = source.get(None, 0, pixel_values=pixels, store=False)
    assert source.cache.memory_bytes == 0
    assert not torch.equal(found["mask_features"], source.get(Named("black"), 0)["mask_features"])
    assert torch.equal(found["mask_features"], source.get(Named("white"), 0, pixel_values=pixels)["mask_features"])
    assert source.cache.memory_bytes > 0


def test_what_computes_otherwise_has_other_features():
    model = tiny_adapted().get_base_model()
    source = ImageFeatures(model, FeatureCache(), "", "features")
    prints = [source.fingerprint]
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            prints.append(source.fingerprint)
    model.to(torch.bfloat16)  # as a trainer may do between two evaluations
    prints.append(source.fingerprint)
    pixels = torch.zeros(1, 3, 32, 64, dtype=torch.bfloat16)
    assert source.get(Named("image"), 0, pixel_values=pixels)["mask_features"].dtype == torch.bfloat16
    model = tiny_adapted().get_base_model()
    model.config.num_attention_heads = 4
    prints.append(fingerprint(model))
    assert len(set(prints)) == len(prints)
    model.config.num_attention_heads, model.config.class_names = 2, None
    assert fingerprint(model) == fingerprint(tiny_adapted().get_base_model())


def test_predictions_depend_on_all_spatial_prompts():
    prints = set()
    for value in (None, 0.0, 1.0):
        model = get_peft_model(tiny_seem(), SSPromptConfig(**SEMANTIC_ONLY)).get_base_model()
        if value is not None:
            model.model.point_tokens.weight = torch.nn.Parameter(torch.full((4, 32), value))
        assert model.feature_stages(adapted_kinds(model)) == ("predictions",)
        prints.add(fingerprint(model, stage="predictions"))
    assert len(prints) == 3


def test_images_are_read_once_for_several_evaluations(tmp_path):
    evaluation = tiny_images(2, "validation")
    trainer = tiny_trainer(tmp_path, evaluation=evaluation, eval_strategy="steps", eval_steps=1, save_strategy="no")
    reads, read = [], evaluation.source.read
    evaluation.source.read = lambda row: reads.append(row) or read(row)
    trainer.train()
    trainer.evaluate()
    assert sorted(reads) == [0, 1]


def test_images_are_read_once_for_their_digest_and_their_pixels(tmp_path):
    training = tiny_images(2)
    reads, read = [], training.source.read
    training.source.read = lambda row: reads.append(row) or read(row)
    tiny_trainer(tmp_path, train=training, max_steps=3, random_flip=False, save_strategy="no").train()
    assert sorted(reads) == [0, 1]


def test_files_in_place_of_memory_do_not_come_back(tmp_path):
    trainer = tiny_trainer(
        tmp_path, evaluation=tiny_images(2, "validation"), eval_strategy="steps", eval_steps=2, max_steps=2
    )
    trainer.feature_cache = FeatureCache("disk", tmp_path / "feature_cache")  # as several processes have it
    trainer.train()
    trainer.evaluate_by_class(with_zero_shot=True)
    assert not (tmp_path / "feature_cache").exists()


def test_bad_settings_are_refused():
    with pytest.raises(SSPromptError, match="'tape'"):
        FeatureCache("tape")
    with pytest.raises(SSPromptError, match="feature_cache_dir"):
        FeatureCache("disk")
    with pytest.raises(SSPromptError, match="must be positive"):
        FeatureCache(max_bytes=0)


def kept(number: int) -> tuple[str, dict]:
    """A key, and features of 1,000 bytes."""
    return f"{number:064x}", {"x": torch.full((250,), float(number))}


def test_what_does_not_fit_into_memory_goes_to_files(tmp_path):
    folder = tmp_path / "features"
    cache = FeatureCache("auto", folder, max_bytes=2000)
    for number in range(4):
        key, features = kept(number)
        assert cache.get_or_compute(key, lambda features=features: features) is features
    assert len(list(folder.iterdir())) == 2 and cache.memory_bytes == 2000
    for number in range(4):
        key, features = kept(number)
        assert torch.equal(cache.get_or_compute(key, dict)["x"], features["x"])
    assert (cache.hits, cache.misses) == (4, 4)
    cache.get_or_compute(*[kept(5)[0], lambda: kept(5)[1]], spill=False)
    assert len(list(folder.iterdir())) == 2
    cache.remove()
    assert not folder.exists() and torch.equal(cache.get_or_compute(kept(0)[0], dict)["x"], kept(0)[1]["x"])
    cache.get_or_compute(kept(6)[0], lambda: kept(6)[1])
    assert not folder.exists()


def test_a_disk_is_not_filled_up(tmp_path, monkeypatch, caplog):
    free = SimpleNamespace(free=feature_cache.FREE_BYTES + 1500)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: free)
    cache = FeatureCache("auto", tmp_path, max_bytes=500)
    cache.get_or_compute(kept(0)[0], lambda: kept(0)[1])
    free.free -= 1000
    cache.get_or_compute(kept(1)[0], lambda: kept(1)[1])
    assert [path.name[:64] for path in tmp_path.iterdir()] == [kept(0)[0]]
    assert "is full (0.0 GiB and the disk)" in caplog.text


def test_training_by_files_is_training_by_memory(tmp_path):
    arguments = {"max_steps": 3, "save_strategy": "no", "keep_projections": False}
    trainers = [
        tiny_trainer(tmp_path / name, **arguments, **more)
        for name, more in (("memory", {"feature_cache": "memory"}), ("auto", {"feature_cache_gb": 1e-4}))
    ]
    for trainer in trainers:
        trainer.train()
    memory, auto = trainers
    assert 0 < auto.feature_cache.memory_bytes < memory.feature_cache.memory_bytes
    assert auto.feature_cache.misses == memory.feature_cache.misses
    assert all(torch.equal(tensor, prompts(memory.model)[name]) for name, tensor in prompts(auto.model).items())
    assert not (tmp_path / "auto" / "feature_cache").exists()
