"""`SSPromptModel`: names in, pictures out, and adapter files that are whole or not there."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from prompted_seem import CLASSES, OTHER_CLASSES, logits, pixels, same, set_classes, small_seem, train, word_tokenizer
from safetensors.torch import load_file, save_file

from ssprompt_hf import SSPromptModel
from ssprompt_hf.adapters.files import read_adapter, replacing_folder
from ssprompt_hf.data.street_scenes.source import StreetScenes
from ssprompt_hf.errors import (
    AdapterError,
    DownloadError,
    NoImagesError,
    SSPromptError,
    UnknownNameError,
    UnreadableFileError,
)
from ssprompt_hf.models.seem import SeemForUniversalSegmentation
from ssprompt_hf.tuners import SSPromptConfig, SSPromptLayer

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base model with all its parts, and a trained adapter, in folders that tests get copies of."""
    folder = tmp_path_factory.mktemp("files")
    small_seem().save_pretrained(folder / "base")
    model = SSPromptModel.from_pretrained(folder / "base", is_trainable=True)
    model.peft_config["default"].colors = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    train(model).save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def base(files, tmp_path):
    """The folder of a base model with all its parts."""
    return shutil.copytree(files / "base", tmp_path / "base")


@pytest.fixture
def adapter(files, tmp_path):
    """The folder of a trained adapter."""
    return shutil.copytree(files / "adapter", tmp_path / "adapter")


def image(height: int = 48, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def merged(model) -> bool:
    states = {layer.merged for layer in model.modules() if isinstance(layer, SSPromptLayer)}
    assert len(states) == 1
    return states.pop()


def test_without_an_adapter_it_is_the_base_model(base):
    model = SSPromptModel.from_pretrained(base)
    assert same(logits(model), logits(small_seem()))
    inner = model.get_base_model().model
    assert inner.text_model is None and inner.spatial_prompt_encoder is not None
    kept = SSPromptModel.from_pretrained(base, keep_prompt_encoders=True).get_base_model().model
    assert kept.text_model is not None and kept.spatial_prompt_encoder is not None


def test_other_classes_need_the_text_encoder_only_once(base):
    word_tokenizer().save_pretrained(base)
    model = SSPromptModel.from_pretrained(base, class_names=["the sky", "car"], thing_class_ids=[1])
    assert model.get_base_model().model.text_model is None
    assert (model.config.class_names, model.config.thing_class_ids) == (["the sky", "car"], [1])
    expected = small_seem()
    expected.set_class_names(["the sky", "car"], word_tokenizer())
    assert same(logits(model), logits(expected))


def test_loaded_for_inference_it_is_merged_and_right(base, adapter):
    trained = SSPromptModel.from_pretrained(base, adapter, is_trainable=True)
    assert not merged(trained) and any(p.requires_grad for p in trained.parameters())
    model = SSPromptModel.from_pretrained(base, adapter)
    assert merged(model) and not any(p.requires_grad for p in model.parameters())
    expected = logits(trained)
    assert same(logits(model), expected)
    for context in (model.disable_adapter, model.zero_shot):
        with context():
            assert same(logits(model), logits(small_seem()))
        assert merged(model) and same(logits(model), expected)
    model.train()
    assert not merged(model) and same(logits(model), expected)
    model.eval()
    assert merged(model) and same(logits(model), expected)
    plain = model.merge()
    assert same(logits(plain), expected) and plain.config.class_names == CLASSES
    # The base model is found by the name in the adapter, and may be given as a model.
    assert same(logits(SSPromptModel.from_pretrained(adapter=adapter)), expected)
    assert same(logits(SSPromptModel.from_pretrained(small_seem(), adapter)), expected)


def test_switching_adapters_switches_classes(base, adapter, tmp_path):
    other = small_seem()
    set_classes(other, OTHER_CLASSES, [1, 3])
    train(SSPromptModel(other, SSPromptConfig(task="panoptic"))).save_pretrained(tmp_path / "harbour")
    model = SSPromptModel.from_pretrained(base, adapter)
    first = logits(model)
    model.load_adapter(tmp_path / "harbour")
    assert merged(model) and same(logits(model), first)
    model.set_adapter("harbour")
    assert merged(model) and model.config.class_names == OTHER_CLASSES and model.config.thing_class_ids == [1, 3]
    assert same(logits(model), logits(SSPromptModel.from_pretrained(base, tmp_path / "harbour")))
    assert model.predict(image()).task == "panoptic"
    with model.disable_adapter():
        assert model.config.class_names == CLASSES
    with pytest.warns(UserWarning, match="active adapter"):
        model.delete_adapter("harbour")
    assert same(logits(model), first) and model.config.class_names == CLASSES
    with pytest.raises(AdapterError, match="has other classes"):
        model.load_adapter(tmp_path / "harbour", "default")


def test_adapters_in_folders_of_one_name_stay_apart(base, tmp_path):
    expected = {}
    for place, rate in (("fog", 0.5), ("night", 0.2)):
        trained = train(SSPromptModel(small_seem(), SSPromptConfig(metrics={"place": place})), lr=rate)
        trained.save_pretrained(tmp_path / place / "adapter")
        expected[place] = logits(SSPromptModel.from_pretrained(base, tmp_path / place / "adapter"))
    assert not same(expected["fog"], expected["night"])
    model = SSPromptModel.from_pretrained(base)
    model.load_adapter(tmp_path / "fog" / "adapter")
    model.load_adapter(tmp_path / "night" / "adapter")
    for name, place in (("adapter", "fog"), ("adapter_2", "night")):
        model.set_adapter(name)
        assert same(logits(model), expected[place]) and model.peft_config[name].metrics == {"place": place}
    # by its name an adapter is replaced, and what is told of it with it
    model.load_adapter(tmp_path / "fog" / "adapter", "adapter_2")
    assert model.peft_config["adapter_2"].metrics == {"place": "fog"}
    assert same(logits(model), expected["fog"])
    edit(base_model_fingerprint="0-0")(tmp_path / "fog" / "adapter")
    with pytest.raises(AdapterError, match="another base model"):
        model.load_adapter(tmp_path / "fog" / "adapter", "adapter_2")


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_predict(task, base, adapter, tmp_path):
    model = SSPromptModel.from_pretrained(base, adapter)
    result = model.predict(image(), task=task, threshold=0.0, image_size=64)
    assert result.class_map.shape == result.segments_map.shape == (48, 80) and result.class_map.dtype == np.uint8
    assert result.task == task and result.segments
    for segment in result.segments:
        mask = result.segments_map == segment.id
        assert segment.area == mask.sum() > 0
        assert set(result.class_map[mask]) == {segment.class_id} and segment.name == CLASSES[segment.class_id]
        assert (segment.score is None) == (task == "semantic")
    assert (result.class_map[result.segments_map == 0] == 255).all()
    assert result.colors == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert result.overlay().size == (80, 48)
    result.save(tmp_path / "labels.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "labels.png")), result.class_map)


def test_predict_takes_images_files_folders_and_lists(base, tmp_path):
    model = SSPromptModel.from_pretrained(base)
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "a.png", "more/c.png"):
        Image.fromarray(image()).save(folder / name)
    one = model.predict(folder / "a.png", image_size=64)
    assert one.path == str(folder / "a.png")
    many = model.predict(folder, image_size=64, batch_size=2)
    assert [result.path for result in many] == [str(folder / name) for name in ("a.png", "b.png", "more/c.png")]
    for result in [*many, model.predict(image(), image_size=64), *model.predict([image()], image_size=64)]:
        assert np.array_equal(result.class_map, one.class_map)
    (tmp_path / "empty").mkdir()
    (folder / "broken.png").write_bytes(b"no image")
    for path, error in [("empty", NoImagesError), ("nowhere.png", NoImagesError), ("images", UnreadableFileError)]:
        with pytest.raises(error):
            model.predict(tmp_path / path)
    with pytest.raises(AdapterError, match="'semantic', 'instance', 'panoptic'"):
        model.predict(image(), task="depth")


# Files


def test_files_and_what_they_record(adapter):
    assert sorted(path.name for path in adapter.iterdir()) == ["README.md", "adapter_config.json", WEIGHTS]
    config, tensors = read_adapter(adapter)
    assert config.class_names == CLASSES and config.thing_class_ids == [1]
    assert config.base_model_fingerprint and set(config.versions) == {"ssprompt-hf", "peft", "transformers", "torch"}
    assert {name.rsplit(".", 1)[1] for name in tensors} == {
        "ssprompt_embedding",
        "ssprompt_weight",
        "ssprompt_default",
    }


def test_saving_is_all_or_nothing(base, adapter, monkeypatch):
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    model = train(SSPromptModel.from_pretrained(base, adapter, is_trainable=True))

    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("peft.peft_model.safe_save_file", fail)
    with pytest.raises(OSError, match="no space"):
        model.save_pretrained(adapter)
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before
    assert sorted(path.name for path in adapter.parent.iterdir()) == ["adapter", "base"]
    with pytest.raises(AdapterError, match="safetensors only"):
        model.save_pretrained(adapter, safe_serialization=False)


def test_the_configuration_arrives_first(tmp_path, monkeypatch):
    order = []
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append(Path(new).name), rename(old, new)))
    with replacing_folder(tmp_path / "out") as folder:
        for name in ("adapter_config.json", WEIGHTS, "README.md"):
            (tmp_path / folder / name).write_text("x")
    assert order[0] == "adapter_config.json" and len(order) == 3


def truncate(folder):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def only_a_pickle(folder):
    torch.save({}, folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def not_finite(folder):
    tensors = load_file(folder / WEIGHTS)
    next(iter(tensors.values())).fill_(torch.nan)
    save_file(tensors, folder / WEIGHTS)


def edit(**values):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "is damaged .* copy or download it again"),
        (only_a_pickle, "adapter_model.bin is a pickle"),
        (lambda folder: (folder / WEIGHTS).unlink(), f"lacks {WEIGHTS}"),
        (not_finite, "not finite"),
        (lambda folder: (folder / "adapter_config.json").write_text('{"peft_ty'), "not JSON"),
        (edit(peft_type="LORA"), "'LORA'; this package reads COOP, LOCN, SSPROMPT, VSPL"),
        (edit(peft_type=["SSPROMPT"]), r"\['SSPROMPT'\]; this package reads COOP"),
        (edit(class_names=["one"], thing_class_ids=None, colors=None), r"has shape \(4,.* need \(2,"),
        (edit(weight_range="odd"), "'unit', 'free'"),
        (edit(base_model_fingerprint="0-0"), "made for another base model"),
    ],
)
def test_damaged_files(damage, message, base, adapter):
    damage(adapter)
    with pytest.raises(AdapterError, match=message):
        SSPromptModel.from_pretrained(base, adapter)
    model = SSPromptModel.from_pretrained(base)
    with pytest.raises(AdapterError, match=message):
        model.load_adapter(adapter, "other")
    assert list(model.peft_config) == ["default"]
    assert same(logits(model), logits(small_seem()))


@pytest.mark.parametrize(("bits", "tile"), [(12, None), (12, 24), (None, None)])
def test_deep_images_are_scaled_as_those_of_training(bits, tile, base, adapter, tmp_path):
    Image.fromarray(np.full((32, 48), 900, np.uint16)).save(tmp_path / "dark.png")
    edit(image_bits=bits)(adapter)
    result = SSPromptModel.from_pretrained(base, adapter).predict(tmp_path / "dark.png", "semantic", tile=tile)
    assert np.asarray(result.image).max() == 900 >> (2 if bits is None else bits - 8)


def test_another_base_model_can_be_insisted_on(adapter, tmp_path):
    small_seem(seed=1).save_pretrained(tmp_path / "another")
    with pytest.raises(AdapterError, match="another set of weights"):
        SSPromptModel.from_pretrained(tmp_path / "another", adapter)
    SSPromptModel.from_pretrained(tmp_path / "another", adapter, check_base_model=False)


@pytest.mark.parametrize("wrong", [{"image_size": 0}, {"image_size": -5}, {"batch_size": 0}])
def test_sizes_that_are_none(base, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(SSPromptError, match=f"{name} is {value}; it must be at least 1"):
        SSPromptModel.from_pretrained(base).predict(image(), **wrong)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_thresholds_that_are_no_score(base, threshold):
    with pytest.raises(SSPromptError, match=f"threshold is {threshold}; scores go from 0 to 1"):
        SSPromptModel.from_pretrained(base).predict(image(), "panoptic", threshold=threshold)


def test_an_adapter_is_no_base_model(base, adapter, hub, tmp_path, monkeypatch):
    with pytest.raises(UnknownNameError, match="is an adapter and no base model: pass it as adapter"):
        SSPromptModel.from_pretrained(adapter)
    hub.patch_client(monkeypatch, tmp_path / "home", token=True)
    SSPromptModel.from_pretrained(base, adapter).push_to_hub("tester/fog")
    with pytest.raises(AdapterError, match="pass it as adapter='tester/fog'"):
        SSPromptModel.from_pretrained("tester/fog")
    with pytest.raises(UnknownNameError, match="did you mean 'seem-nano'"):
        SSPromptModel.from_pretrained("seem-nanoo")
    for name in ("./nowhere", "../nowhere"):
        with pytest.raises(UnknownNameError, match="no folder and no Hub id"):
            SSPromptModel.from_pretrained(name)
    with pytest.raises(DownloadError, match="the base model 'tester/nothing' cannot be loaded"):
        SSPromptModel.from_pretrained("tester/nothing")


def test_transformers_load_an_adapter_with_its_base_model(base, adapter):
    model = SeemForUniversalSegmentation.from_pretrained(adapter)
    assert same(logits(model), logits(SSPromptModel.from_pretrained(base, adapter)))


def test_a_merged_model_is_saved_with_its_processor(base, adapter, tmp_path, caplog):
    model = SSPromptModel.from_pretrained(base, adapter)
    expected, processor = logits(model), type(model.image_processor)(size={"shortest_edge": 40, "longest_edge": 90})
    model.merge().save_pretrained(tmp_path / "merged")
    again = SSPromptModel.from_pretrained(tmp_path / "merged")
    assert same(logits(again), expected) and again.image_processor.size["shortest_edge"] == 512
    assert "no file for its image processor" in caplog.text
    processor.save_pretrained(tmp_path / "merged")
    caplog.clear()
    again = SSPromptModel.from_pretrained(tmp_path / "merged")
    assert again.image_processor.size["shortest_edge"] == 40 and "image processor" not in caplog.text
    with pytest.raises(AdapterError, match="saved without its text encoder"):
        SSPromptModel.from_pretrained(tmp_path / "merged", class_names=["sky"])


def test_batches_of_several_sizes_change_nothing():
    model = SSPromptModel.from_pretrained("seem-nano")
    sizes = [(96, 192), (128, 96), (96, 192), (90, 300), (100, 201)]
    scenes = StreetScenes(num_images=len(sizes), size=(96, 192))
    pictures = [Image.fromarray(scenes[i]["image"]).resize(size[::-1]) for i, size in enumerate(sizes)]
    for one, other in zip(model.predict(pictures, batch_size=5), model.predict(pictures)):
        assert len(np.unique(other.class_map)) > 3 and one.image.size == other.image.size
        assert (one.class_map != other.class_map).mean() < 1e-3  # rounding


@pytest.mark.parametrize("names", ["road", [], ["a", "a"], [" "], [3]])
def test_class_names_that_are_none(base, names):
    with pytest.raises(AdapterError, match="class_names"):
        SSPromptModel.from_pretrained(base, class_names=names)
    with pytest.raises(AdapterError, match="class_names"):
        SSPromptConfig(class_names=names)


def test_after_the_last_adapter_there_is_the_base_model(base, adapter):
    expected = logits(SSPromptModel.from_pretrained(base))
    model = SSPromptModel.from_pretrained(base, adapter)
    assert not same(logits(model), expected)
    model.delete_adapter("default")
    assert same(logits(model.base_model), expected) and model.predict(image()).class_names == CLASSES
    with pytest.raises(AdapterError, match="no adapter to save"):
        model.save_pretrained("anywhere")


def test_switching_adapters_while_looking_at_zero_shot(base, adapter, tmp_path):
    model = SSPromptModel.from_pretrained(base, adapter)
    other = SSPromptModel(small_seem(seed=0), SSPromptConfig())
    train(other, lr=0.1).save_pretrained(tmp_path / "other")
    model.load_adapter(tmp_path / "other", "other")
    zero_shot = logits(SSPromptModel.from_pretrained(base))
    model.set_adapter("other")
    expected = logits(model)
    model.set_adapter("default")
    with model.zero_shot():
        assert same(logits(model), zero_shot)
        model.set_adapter("other")
        assert same(logits(model), zero_shot)
    assert merged(model) and same(logits(model), expected)


def test_a_configuration_serves_several_models(base):
    config = SSPromptConfig()
    for classes in (CLASSES, OTHER_CLASSES):
        seem = small_seem()
        set_classes(seem, classes)
        for model in (get_peft_model(seem, config), SSPromptModel(small_seem(classes), config)):
            assert model.peft_config["default"].class_names == list(classes)
            logits(model)
    assert config.class_names is None and config.base_model_fingerprint is None


def test_files_are_for_everybody_and_may_lie_behind_a_link(base, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    SSPromptModel.from_pretrained(base).save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    files = sorted((tmp_path / "real").iterdir())
    assert [path.name for path in files] == ["README.md", "adapter_config.json", WEIGHTS]
    assert len({path.stat().st_mode for path in files}) == 1 and files[0].stat().st_mode & 0o044


def test_arguments_that_contradict_each_other(base, adapter):
    with pytest.raises(AdapterError, match="brings its own classes"):
        SSPromptModel.from_pretrained(base, adapter, class_names=["a"])
    with pytest.raises(AdapterError, match="no base model"):
        SSPromptModel.from_pretrained()


def test_push_and_load_by_id_and_by_bare_name(base, adapter, hub, tmp_path, monkeypatch):
    hub.patch_client(monkeypatch, tmp_path / "home", token=True)
    monkeypatch.chdir(tmp_path)
    model = SSPromptModel.from_pretrained(base, adapter)
    expected = logits(model)
    address = model.push_to_hub("tester/fog")
    assert address.startswith(hub.endpoint)
    files = hub.files("tester/fog")
    assert {"README.md", "adapter_config.json", WEIGHTS} <= set(files)
    assert 'adapter="tester/fog"' in files["README.md"].decode()
    model.push_to_hub("tester/fog", revision="new")  # a branch that is not there yet
    assert same(logits(SSPromptModel.from_pretrained(base, "tester/fog", adapter_revision="new")), expected)
    shutil.rmtree(adapter)
    assert same(logits(SSPromptModel.from_pretrained(base, "tester/fog")), expected)
    assert same(logits(SSPromptModel.from_pretrained(base, "fog", namespace="tester")), expected)
    with pytest.raises(DownloadError, match="no adapter 'smog'"):
        SSPromptModel.from_pretrained(base, "smog", namespace="tester")
    hub.stop()
    assert same(logits(SSPromptModel.from_pretrained(base, "tester/fog", local_files_only=True)), expected)
    with pytest.raises(DownloadError, match="not in the cache"):
        SSPromptModel.from_pretrained(base, "tester/rain", local_files_only=True)


def test_pixels_are_those_of_the_processor(base):
    """`predict` is nothing but processor, model and post-processing."""
    model = SSPromptModel.from_pretrained(base)
    inputs = model.image_processor(image(), return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    expected = model.image_processor.post_process_semantic_segmentation(outputs)[0]
    assert np.array_equal(model.predict(image()).class_map, expected.numpy())
    assert pixels().shape == (2, 3, 64, 64)
