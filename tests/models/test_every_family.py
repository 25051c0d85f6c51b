"""What holds for the base models of every family, and for adapters on them; `tiny_families` describes the families."""

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from tiny_families import HALVES, NAMES, THINGS, aligned, answers, move
from torch.utils._pytree import tree_flatten
from transformers import Trainer, TrainingArguments

from ssprompt_hf import SSPromptModel
from ssprompt_hf.errors import AdapterError
from ssprompt_hf.models import registry
from ssprompt_hf.models.fingerprint import model_fingerprint
from ssprompt_hf.segmentation.predictions import QueryPrediction
from ssprompt_hf.tuners import CoOpConfig, LOCNConfig, SSPromptConfig, VSPLConfig

OTHER_NAMES = ["a big old tree", "sky", "lamp", "bench"]
WEIGHTS = "adapter_model.safetensors"


def ssprompt(model, kinds: str = "both", **config) -> PeftModel:
    return get_peft_model(model, SSPromptConfig(**HALVES[kinds], **config))


def learned(model) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def slots_of(names) -> set[str]:
    """The slots that learned parameters belong to."""
    return {name.removeprefix("base_model.model.").split(".ssprompt_")[0] for name in names}


@torch.no_grad()
def logits_by_class(model, pixel_values) -> torch.Tensor:
    """`(K, ...)`: the maps of one image, or what each query says of each class before the softmax."""
    prediction = model.get_base_model().predict_pixels(pixel_values, torch.tensor([pixel_values.shape[-2:]]))
    if isinstance(prediction, QueryPrediction):
        return prediction.class_queries_logits[0, :, :-1].T
    return prediction.maps


def test_what_is_skipped_is_a_test():
    """So that no description speaks of tests that are no longer there."""
    suite = (
        Path(__file__).read_text() + (Path(__file__).parents[1] / "training/test_every_family_trains.py").read_text()
    )
    for path in (Path(__file__).parents[1] / "support" / "tiny_families").glob("[a-z]*.py"):
        for name in importlib.import_module(f"tiny_families.{path.stem}").TINY.skips:
            assert f"def {name}(tiny" in suite, f"{path.name} skips {name}"


# The model without an adapter


def test_answers_are_those_of_transformers(tiny):
    model, pixel_values = tiny.model(), tiny.pixel_values(2)
    expected = tiny.reference(model, pixel_values)
    with torch.no_grad():
        output = model(pixel_values=pixel_values, class_indices=[torch.arange(len(NAMES))] * 2)
    for name, values in expected.items():
        assert torch.equal(output[name], values), name
        assert values.std() > 1e-4


@pytest.mark.parametrize("size", [(30, 50), (64, 48), (100, 33)])
def test_images_are_those_of_transformers(tiny, size):
    ours = tiny.image_processor(tiny.model())
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8))
    theirs = tiny.their_image_processor(ours)
    found, expected = (one(picture, return_tensors="pt")["pixel_values"] for one in (ours, theirs))
    assert torch.equal(found, expected)


def test_features_say_all_that_pixels_say(tiny):
    model, pixel_values = tiny.model(), tiny.pixel_values()
    expected = answers(model, pixel_values)
    assert expected.dtype == torch.float32 and expected.shape[:2] == (1, len(NAMES)) and expected.min() >= 0
    padded_size = tuple(pixel_values.shape[-2:])
    for stage in model.feature_stages(("spatial", "semantic")):
        features = model.image_features(pixel_values, stage)
        size = sum(t.numel() * t.element_size() for name, t in features.items() if name != "padded_size")
        assert 0 <= model.feature_bytes(padded_size, stage) - size <= 16
        assert features["padded_size"].tolist() == list(padded_size) and features["padded_size"].dtype == torch.int64
        for dtype, tolerance in ((torch.float32, 0), (torch.float16, 0.05)):  # as a cache gives them back
            kept = {name: t.to(dtype).float() if t.is_floating_point() else t for name, t in features.items()}
            with torch.no_grad():
                output = model(**model.decoder_inputs([kept], "cpu"), image_sizes=torch.tensor([padded_size]))
            scores = model.predictions(output)[0].class_scores()
            torch.testing.assert_close(scores, expected, rtol=tolerance, atol=tolerance)


def test_an_image_does_not_depend_on_its_company(tiny):
    model, pixel_values = move(ssprompt(tiny.model())), tiny.pixel_values(2)
    together = answers(model, pixel_values)
    assert (together[0] - together[1]).abs().max() > 1e-3
    torch.testing.assert_close(answers(model, pixel_values[1:]), together[1:])


def test_a_base_model_is_saved_and_found_again(tiny, tmp_path):
    model, pixel_values = tiny.model(), tiny.pixel_values()
    tiny.save(tmp_path, class_names=NAMES)
    assert registry.find_family(tmp_path) is tiny.family
    info = tiny.family.info(str(tmp_path))
    assert info.model_type in tiny.family.model_types and info.class_names == NAMES
    assert info.has_text_encoder == (tiny.tokenizer() is not None)
    loaded, processor = tiny.family.load(str(tmp_path), ("text", "spatial") if info.has_text_encoder else ())
    assert not loaded.training and loaded.config.thing_class_ids == THINGS
    assert torch.equal(answers(aligned(loaded), pixel_values), answers(model, pixel_values))
    assert model_fingerprint(loaded) == model_fingerprint(model)
    assert processor.to_dict() == tiny.image_processor(model).to_dict()
    random, _ = tiny.family.random_model(str(tmp_path), ["a", "b"])
    assert random.num_classes() == 2 and not any(p.requires_grad for p in random.parameters())
    assert answers(random, pixel_values).shape[1] == 2


def test_half_precision_keeps_adapters_in_float32(tiny):
    model, pixel_values = tiny.model().bfloat16(), tiny.pixel_values().bfloat16()
    before = answers(model, pixel_values)
    wrapped = ssprompt(model)
    assert before.dtype == torch.float32 and torch.equal(answers(wrapped, pixel_values), before)
    assert {parameter.dtype for parameter in learned(wrapped).values()} == {torch.float32}
    move(wrapped)
    assert not torch.equal(answers(wrapped, pixel_values), before)


# Adapters


@pytest.mark.parametrize("kinds", HALVES)
def test_untrained_disabled_and_no_adapter_are_the_same_to_the_bit(tiny, kinds):
    model, pixel_values = tiny.model(), tiny.pixel_values()
    before, mark = answers(model, pixel_values), model_fingerprint(model)
    wrapped = ssprompt(model, kinds)
    assert torch.equal(answers(wrapped, pixel_values), before)
    after = answers(move(wrapped), pixel_values)
    assert (after - before).abs().max() > 1e-6
    for context in (wrapped.disable_adapter, wrapped.zero_shot):
        with context():
            assert torch.equal(answers(wrapped, pixel_values), before)
        assert torch.equal(answers(wrapped, pixel_values), after)
    assert model_fingerprint(model) == mark
    assert torch.equal(answers(wrapped.unload(), pixel_values), before)


@pytest.mark.parametrize("kinds", HALVES)
def test_gradients_reach_the_learned_prompts_and_nothing_else(tiny, kinds):
    model = tiny.model()
    wrapped = move(ssprompt(model, kinds))
    slots = {slot.kind: slot.path for slot in model.prompt_slots.values() if slot.source == "object_queries"}
    assert slots_of(learned(wrapped)) == {path for kind, path in slots.items() if kinds in (kind, "both")}
    before = {name: value.clone() for name, value in wrapped.state_dict().items()}
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=0.01)
    pixel_values = tiny.pixel_values()
    stage = model.feature_stages(("spatial", "semantic"))[0]
    inputs = model.decoder_inputs([model.image_features(pixel_values, stage)])
    output = wrapped(**inputs, image_sizes=torch.tensor([pixel_values.shape[-2:]]))
    model.predictions(output)[0].class_scores().square().mean().backward()
    assert {name for name, p in wrapped.named_parameters() if p.grad is not None} == set(learned(wrapped))
    assert all(parameter.grad.abs().max() > 0 for parameter in learned(wrapped).values())
    optimizer.step()
    moved = {name for name, value in wrapped.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(learned(wrapped))


def test_gradients_are_those_of_finite_differences(tiny):
    model = tiny.model().double()
    wrapped = move(ssprompt(model))
    pixel_values = tiny.pixel_values().double()
    stage = model.feature_stages(("spatial", "semantic"))[0]
    inputs = model.decoder_inputs([model.image_features(pixel_values, stage)])
    generator = torch.Generator().manual_seed(2)
    weights = None

    def loss():
        nonlocal weights
        scores = model.predictions(wrapped(**inputs, image_sizes=torch.tensor([pixel_values.shape[-2:]])))[0]
        scores = scores.class_scores()
        weights = torch.randn(scores.shape, generator=generator).double() if weights is None else weights
        return (scores * weights).sum()

    loss().backward()
    for name, parameter in learned(wrapped).items():
        direction = torch.randn(parameter.shape, generator=generator).double()
        direction[parameter == 0] = 0  # padding stays padding
        middle, ends = parameter.detach().clone(), []
        with torch.no_grad():
            for sign in (1, -1):
                parameter.copy_(middle + sign * 1e-6 * direction)
                ends.append(loss())
            parameter.copy_(middle)
        difference = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close((parameter.grad * direction).sum(), difference, rtol=1e-4, atol=1e-6, msg=name)
        assert difference.abs() > 1e-6, name


def test_classes_that_nobody_asked_about_learn_nothing(tiny):
    model = tiny.model()
    assert model.decodes_by_class
    wrapped = move(ssprompt(model, "semantic"))
    inputs = model.decoder_inputs([model.image_features(tiny.pixel_values(), "features")])
    output = wrapped(**inputs, class_indices=[torch.tensor([2, 0])])
    scores = model.predictions(output)[0].class_scores()
    assert not scores[0, 1].any()
    scores.sum().backward()
    for parameter in learned(wrapped).values():
        assert parameter.grad[0].any() and parameter.grad[2].any() and not parameter.grad[1].any()


def test_merging_only_rounds(tiny, tmp_path):
    model, pixel_values = tiny.model(), tiny.pixel_values()
    wrapped = move(ssprompt(model))
    expected, mark = answers(wrapped, pixel_values), model_fingerprint(model)
    wrapped.merge_adapter()
    assert model_fingerprint(model) == mark
    torch.testing.assert_close(answers(wrapped, pixel_values), expected)
    wrapped.unmerge_adapter()
    assert torch.equal(answers(wrapped, pixel_values), expected) and model_fingerprint(model) == mark
    merged = wrapped.merge_and_unload(safe_merge=True)
    assert merged is model and not slots_of(learned(merged))
    torch.testing.assert_close(answers(merged, pixel_values), expected)
    merged.save_pretrained(tmp_path)
    loaded = aligned(tiny.family.load(str(tmp_path))[0])
    assert torch.equal(answers(loaded, pixel_values), answers(merged, pixel_values))
    assert loaded.config.class_names == NAMES


@pytest.mark.parametrize("kinds", HALVES)
def test_saved_and_loaded_to_the_bit(tiny, kinds, tmp_path):
    wrapped, pixel_values = move(ssprompt(tiny.model(), kinds)), tiny.pixel_values()
    expected = answers(wrapped, pixel_values)
    wrapped.save_pretrained(tmp_path / "adapter")
    for names in (OTHER_NAMES, None):  # an adapter brings its classes
        again = PeftModel.from_pretrained(tiny.model(class_names=names), tmp_path / "adapter")
        assert torch.equal(answers(again, pixel_values), expected)
        config = again.get_base_model().config
        assert config.class_names == NAMES and config.thing_class_ids == THINGS
        assert not learned(again)
    base = tiny.model(class_names=OTHER_NAMES)
    before = answers(base, pixel_values)
    base.load_adapter(str(tmp_path / "adapter"))  # as transformers does it
    assert torch.equal(answers(base, pixel_values), expected) and base.config.class_names == NAMES
    base.disable_adapters()
    assert torch.equal(answers(base, pixel_values), before) and base.config.class_names == OTHER_NAMES
    if kinds == "both":
        folder = tiny.save(tmp_path / "base")
        trainable = SSPromptModel.from_pretrained(folder, tmp_path / "adapter", is_trainable=True)
        assert torch.equal(answers(aligned(trainable), pixel_values), expected)
        model = aligned(SSPromptModel.from_pretrained(folder, tmp_path / "adapter"))  # with merged prompts
        torch.testing.assert_close(answers(model, pixel_values), expected)
        model.save_pretrained(tmp_path / "again")
        first, second = (load_file(tmp_path / name / WEIGHTS) for name in ("adapter", "again"))
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_several_adapters_and_switching(tiny, tmp_path):
    expected, pixel_values = {}, tiny.pixel_values()
    for seed, (name, names) in enumerate({"first": NAMES, "second": OTHER_NAMES}.items()):
        wrapped = move(ssprompt(tiny.model(class_names=names)), seed)
        expected[name] = answers(wrapped, pixel_values)
        wrapped.save_pretrained(tmp_path / name)
    model = SSPromptModel.from_pretrained(tiny.model(), tmp_path / "first", "first", is_trainable=True)
    model.load_adapter(tmp_path / "second", "second", is_trainable=True)
    model.add_adapter("fresh", SSPromptConfig())
    before = answers(tiny.model(), pixel_values)
    for name in ("first", "second", "fresh", "first"):
        model.set_adapter(name)
        assert torch.equal(answers(model, pixel_values), expected.get(name, before)), name
        assert model.config.class_names == (OTHER_NAMES if name == "second" else NAMES)
        assert all(f".{name}" in parameter for parameter in learned(model))
        with model.disable_adapter():
            assert torch.equal(answers(model, pixel_values), before) and model.config.class_names == NAMES
    model.save_pretrained(tmp_path / "all")
    for name in expected:  # the file of an adapter does not tell what else was in the model
        first, again = (load_file(tmp_path / folder / WEIGHTS) for folder in (name, f"all/{name}"))
        assert first.keys() == again.keys() and all(torch.equal(first[key], again[key]) for key in first)
    model.set_adapter("second")
    model.delete_adapter("first")
    assert torch.equal(answers(model, pixel_values), expected["second"])


def test_joined_adapters_keep_the_scores_of_each_class(tiny, tmp_path):
    pixel_values, expected = tiny.pixel_values(), []
    model = SSPromptModel.from_pretrained(tiny.model(), is_trainable=True)
    if model.get_base_model().decodes_by_class:
        model.get_base_model().class_chunk_size = 1  # larger batches of classes round otherwise
    for name, names in (("first", NAMES), ("second", OTHER_NAMES[::2] + ["bench"])):
        wrapped = move(ssprompt(tiny.model(class_names=names), "semantic"))
        wrapped.save_pretrained(tmp_path / name)
        model.load_adapter(tmp_path / name, name)
        model.set_adapter(name)
        expected.append(logits_by_class(model, pixel_values))
    model.join_adapters(["first", "second"], "both")
    model.save_pretrained(tmp_path, selected_adapters=["both"])
    model.load_adapter(tmp_path / "both", "again")
    for name in ("both", "again"):
        model.set_adapter(name)
        assert model.config.class_names == [*NAMES, "a big old tree", "lamp", "bench"]
        found, parts = logits_by_class(model, pixel_values), torch.cat(expected)
        if model.get_base_model().decodes_by_class:
            assert torch.equal(found, parts)
        torch.testing.assert_close(found, parts)


# Words and points


def test_no_text_encoder_is_needed_once_there_are_class_prompts(tiny, tmp_path):
    model, pixel_values = tiny.model(), tiny.pixel_values()
    wrapped = move(ssprompt(model))
    expected = answers(wrapped, pixel_values)
    assert model.word_embeddings() is not None
    model.drop_text_encoder()
    assert model.word_embeddings() is None and torch.equal(answers(wrapped, pixel_values), expected)
    wrapped.save_pretrained(tmp_path / "adapter")
    lean = SSPromptModel.from_pretrained(tiny.save(tmp_path / "base"), tmp_path / "adapter", is_trainable=True)
    assert lean.get_base_model().word_embeddings() is None
    assert torch.equal(answers(aligned(lean), pixel_values), expected)
    lean.get_base_model().save_pretrained(tmp_path / "lean")
    assert not tiny.family.info(str(tmp_path / "lean")).has_text_encoder
    with pytest.raises(AdapterError, match=r"text encoder"):
        tiny.family.load(str(tmp_path / "lean"), ("text",))


@pytest.mark.parametrize("method", [CoOpConfig, LOCNConfig])
def test_words_can_be_learned(tiny, method):
    model, pixel_values = tiny.model(), tiny.pixel_values()
    before = answers(model, pixel_values)
    config = method(**({"num_context_tokens": 3} if method is CoOpConfig else {}))
    wrapped = get_peft_model(model, config.tokenize(NAMES, tiny.tokenizer(), model.class_template))
    inputs = model.decoder_inputs([model.image_features(tiny.pixel_values(), model.feature_stages(("semantic",))[0])])
    sizes = torch.tensor([pixel_values.shape[-2:]])
    model.predictions(wrapped.train()(**inputs, image_sizes=sizes))[0].class_scores().square().mean().backward()
    (parameter,) = learned(wrapped).values()
    assert parameter.grad.abs().max() > 0
    expected = answers(move(wrapped).eval(), pixel_values)
    assert not torch.equal(expected, before)
    model.drop_text_encoder()
    assert torch.equal(answers(wrapped, pixel_values), expected)
    with wrapped.disable_adapter():
        assert torch.equal(answers(wrapped, pixel_values), before)


def test_methods_that_do_not_apply_say_so(tiny):
    model = tiny.model()
    if "points" in tiny.family.lacks:
        with pytest.raises(AdapterError, match="VSPL, which learns their coordinates, does not apply"):
            get_peft_model(model, VSPLConfig())
        with pytest.raises(AdapterError, match="no spatial prompts of the kind 'point_grid'; it has 'object_queries'"):
            get_peft_model(model, SSPromptConfig(spatial_source="point_grid"))
    else:
        wrapped, pixel_values = get_peft_model(model, VSPLConfig(point_grid_size=3)), tiny.pixel_values()
        untrained = answers(wrapped, pixel_values)
        assert not torch.equal(answers(move(wrapped), pixel_values), untrained)
    if "words" in tiny.family.lacks:
        with pytest.raises(AdapterError, match="text encoder"):
            get_peft_model(tiny.model(), CoOpConfig())


# As transformers' own models


def test_published_names_are_known_to_the_class(tiny, tmp_path, monkeypatch):
    """As `AutoPeftModel` asks for the base model of an adapter."""
    name, known = next((name, one) for name, one in registry.BASE_MODELS.items() if one.family == tiny.family.name)
    monkeypatch.setitem(registry.BASE_MODELS, name, dataclasses.replace(known, repo_id=str(tiny.save(tmp_path))))
    loaded = type(tiny.model()).from_pretrained(name)
    assert model_fingerprint(loaded) == model_fingerprint(tiny.model())


@torch.no_grad()
def test_unknown_arguments_are_type_errors(tiny):
    with pytest.raises(TypeError, match="unexpected keyword argument 'class_indexes'"):
        tiny.model()(pixel_values=tiny.pixel_values(), class_indexes=[[0]])


@torch.no_grad()
def test_return_dict(tiny):
    model, pixel_values = tiny.model(), tiny.pixel_values()
    output, parts = model(pixel_values=pixel_values), model(pixel_values=pixel_values, return_dict=False)
    assert type(parts) is tuple and len(parts) == len(output) and tree_flatten(output)[0]
    assert all(torch.equal(part, output[index]) for index, part in enumerate(parts) if isinstance(part, torch.Tensor))


def test_the_stock_trainer_predicts(tiny, tmp_path):
    """Without labels: the predictions of all images, and nothing but tensors."""
    model, pixel_values = ssprompt(tiny.model()), tiny.pixel_values(2)
    arguments = TrainingArguments(str(tmp_path), per_device_eval_batch_size=1, use_cpu=True, report_to="none")
    images = [{"pixel_values": one} for one in pixel_values]
    predictions = Trainer(model, arguments).predict(images).predictions
    with torch.no_grad():
        output = model(pixel_values=pixel_values[:1])
    names = [name for name in output if name not in model.config.keys_to_ignore_at_inference]
    assert len(names) == len(predictions) >= 2
    for name, values in zip(names, predictions):
        torch.testing.assert_close(torch.from_numpy(values)[: len(output[name])], output[name])
        assert len(values) == 2 * len(output[name])


# Mistakes


def test_another_base_model_is_refused(tiny, tmp_path):
    ssprompt(tiny.model()).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match=r"made for another base model .* has another set of weights"):
        PeftModel.from_pretrained(tiny.model(seed=1), tmp_path)
    model = SSPromptModel.from_pretrained(tiny.model(seed=1), tmp_path, check_base_model=False)
    assert answers(model, tiny.pixel_values()).isfinite().all()


def test_other_classes_than_those_of_the_base_model_are_refused(tiny):
    with pytest.raises(AdapterError, match=r"holds the embeddings of 3 other ones: call model\.set_class_names"):
        ssprompt(tiny.model(), class_names=OTHER_NAMES)
    with pytest.raises(AdapterError, match="semantic prompts need class names, and the base model has none"):
        ssprompt(tiny.model(class_names=None))


def test_damaged_files_are_refused(tiny, tmp_path):
    wrapped = move(ssprompt(tiny.model()))
    wrapped.save_pretrained(tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:-8])
    model = tiny.model()
    before = answers(model, tiny.pixel_values())
    with pytest.raises(AdapterError, match="damaged"):
        SSPromptModel.from_pretrained(model, tmp_path)
    assert torch.equal(answers(model, tiny.pixel_values()), before)
