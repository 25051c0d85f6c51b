"""SSPrompt as a PEFT method: what is exact, what is learned, and what the errors say."""

import copy
import json
import subprocess
import sys
import warnings

import pytest
import torch
from peft import PeftModel
from prompted_seem import (
    CLASSES,
    OTHER_CLASSES,
    WIDTH,
    adapted,
    class_embeddings,
    logits,
    loss,
    pixels,
    same,
    set_classes,
    small_seem,
    train,
    trained,
)
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ssprompt_hf.errors import AdapterError
from ssprompt_hf.models.fingerprint import fingerprint_difference, model_fingerprint
from ssprompt_hf.tuners import PromptPeftType, SSPromptConfig, SSPromptLayer, point_grid_tokens

POINTS = {"spatial_source": "point_grid", "point_grid_size": 3}
VARIANTS = [
    {},
    {"spatial_embedding": False, "spatial_weight": False},
    {"semantic_embedding": False, "semantic_weight": False},
    {"spatial_weight": False, "semantic_weight": False},
    {"weight_range": "free", "init_weight": 0.9},
    {"normalize_class_embeddings": True},
    {"semantic_scale": True, "semantic_bias": True},
    {"prompts_per_class": 3},
    {"prompts_per_class": 2, "semantic_weight": False, "semantic_bias": True, "normalize_class_embeddings": True},
    {"deep_prompts": "last"},
    {"deep_prompts": "all", "spatial_embedding": False, "spatial_weight": False},
]


def layer(model, slot: str) -> SSPromptLayer:
    base = model.get_base_model()
    return base.get_submodule(base.prompt_slots[slot].path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("config", VARIANTS)
def test_untrained_disabled_and_no_adapter_are_the_same_bit_for_bit(config, dtype):
    base = small_seem().to(dtype)
    images = pixels().to(dtype)
    expected = logits(base, images)
    model = adapted(base, **config)
    assert same(logits(model, images), expected)
    with model.disable_adapter():
        assert same(logits(model, images), expected)
    assert same(logits(model.unload(), images), expected)


@pytest.mark.parametrize("config", [*VARIANTS, POINTS])
def test_merging_rounds_at_most_and_unmerging_restores(config):
    base = small_seem()
    zero_shot = logits(base)
    model = adapted(base, **config)
    if config is POINTS:
        model.set_point_tokens(point_grid_tokens(base, [{"pixel_values": pixels()}], 3))
    train(model)
    learned = logits(model)
    assert not same(learned, zero_shot)
    model.merge_adapter()
    assert same(logits(model), learned)  # the very same numbers go into the slot
    model.unmerge_adapter()
    assert same(logits(model), learned)
    with model.disable_adapter():
        assert same(logits(model), zero_shot)
    merged = model.merge_and_unload(safe_merge=True)
    assert type(merged) is type(base) and not any(isinstance(m, SSPromptLayer) for m in merged.modules())
    assert same(logits(merged), learned)


def test_a_merged_model_is_saved_and_loaded_like_any_other(tmp_path):
    model = adapted(**POINTS)
    model.set_point_tokens(point_grid_tokens(model.get_base_model(), [{"pixel_values": pixels()}], 3))
    merged = train(model).merge_and_unload()
    merged.save_pretrained(tmp_path)
    assert same(logits(type(merged).from_pretrained(tmp_path).eval()), logits(merged))


def test_each_class_has_a_scale_and_a_bias(tmp_path):
    learned = ("spatial_embedding", "spatial_weight", "semantic_embedding", "semantic_weight")
    model = adapted(**dict.fromkeys(learned, False), semantic_scale=True, semantic_bias=True)
    assert model.peft_config["default"].method_name == "SemPrompt"
    numbers = {name.split(".")[-2]: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name: tuple(p.shape) for name, p in numbers.items()} == {"ssprompt_scale": (3,), "ssprompt_bias": (3,)}
    train(model)
    scale = F.pad(numbers["ssprompt_scale"].detach(), (0, 1), value=1)
    bias = F.pad(numbers["ssprompt_bias"].detach(), (0, 1))
    before, masks = logits(small_seem())
    torch.testing.assert_close(logits(model)[0], scale * before + bias)
    assert same(logits(model), (logits(model)[0], masks))
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path).eval()
    assert same(logits(again), logits(merged))
    with pytest.raises(AdapterError, match="merged with an adapter that has a bias"):
        adapted(again, semantic_bias=True)
    assert same(logits(adapted(again)), logits(merged))
    set_classes(again, OTHER_CLASSES)
    assert adapted(again, semantic_bias=True) is not None


def test_a_class_has_several_prompts_and_the_best_one_counts(tmp_path):
    spatial = {"spatial_embedding": False, "spatial_weight": False}
    model = adapted(prompts_per_class=3, semantic_bias=True, **spatial)
    slot = layer(model, "class_embeddings")
    embedding, weight = slot.ssprompt_embedding["default"], slot.ssprompt_weight["default"]
    assert embedding.shape == (3, 3, WIDTH) and weight.shape == (3, 3)
    assert slot.weight.shape == (4, 3 * WIDTH + 1)
    model(pixel_values=pixels()).class_queries_logits.sum().backward()
    assert embedding.grad[:, 0].any() and not embedding.grad[:, 1:].any()  # equal ones: the first learns
    with torch.no_grad():
        embedding.add_(torch.randn_like(embedding))
        slot.ssprompt_bias["default"].copy_(torch.tensor([1.0, 0.0, -2.0]))
    single, best = adapted(**spatial), []
    for index in range(3):
        with torch.no_grad():
            layer(single, "class_embeddings").ssprompt_embedding["default"].copy_(embedding[:, index])
        best.append(logits(single)[0])
    expected = torch.stack(best).amax(0) + torch.tensor([1.0, 0.0, -2.0, 0.0])
    learned = logits(model)
    torch.testing.assert_close(learned[0], expected)
    assert len({tensor.argmax().item() for tensor in torch.stack(best).flatten(1).T}) == 3  # each counts somewhere

    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(small_seem(), tmp_path / "adapter").eval()
    assert same(logits(loaded), learned)
    merged = model.merge_and_unload()
    assert (merged.config.prompts_per_class, merged.config.class_bias) == (3, True) and same(logits(merged), learned)
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path).eval()
    assert same(logits(again), learned) and model_fingerprint(again) == model_fingerprint(small_seem())
    with pytest.raises(AdapterError, match="merged with an adapter that has several prompts a class already"):
        adapted(again, prompts_per_class=2)
    assert same(logits(adapted(again)), learned)
    set_classes(again, OTHER_CLASSES)
    assert again.config.prompts_per_class == 1 and adapted(again, prompts_per_class=2) is not None


@pytest.mark.parametrize(("layers", "count"), [("last", 1), ("all", 3)])
def test_each_query_has_offsets_in_the_decoder(layers, count, tmp_path):
    learned = ("spatial_embedding", "spatial_weight", "semantic_embedding", "semantic_weight")
    model = adapted(**dict.fromkeys(learned, False), deep_prompts=layers)
    assert model.peft_config["default"].method_name == "SpaPrompt"
    (offsets,) = (p for p in model.parameters() if p.requires_grad)
    assert offsets.shape == (count, 6, WIDTH) and not offsets.any()
    train(model)
    assert all(offset.any() for offset in offsets)
    deep = hidden_states(model)
    if layers == "last":  # before it, nothing changes; the heads see the sum
        *before, last = hidden_states(small_seem())
        assert same(deep, (*before, last + offsets[0].detach()))
    decoder = model.get_base_model().model.mask_decoder
    torch.testing.assert_close(model(pixel_values=pixels()).mask_queries_embeds, decoder.predict(deep[-1]).mask_embeds)
    learned = logits(model)
    assert not any(map(torch.equal, learned, logits(small_seem())))
    model.save_pretrained(tmp_path / "adapter")
    names = [name.split("model.", 1)[1] for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors")]
    assert sorted(names) == ["model.class_embeddings.ssprompt_default", "model.model.deep_prompts.ssprompt_offset"]
    merged = model.merge_and_unload()
    assert merged.config.num_deep_prompts == count and same(logits(merged), learned)
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path).eval()
    assert same(logits(again), learned)
    assert model_fingerprint(again) == model_fingerprint(small_seem())
    with pytest.raises(AdapterError, match="merged with an adapter that has deep prompts already"):
        adapted(again, deep_prompts="last")
    assert same(logits(adapted(again)), learned)


def hidden_states(model) -> tuple[torch.Tensor, ...]:
    """Of the object queries: before the decoder's first layer, and after each."""
    with torch.no_grad():
        return model(pixel_values=pixels(), output_hidden_states=True).hidden_states


def test_base_models_know_nothing_of_deep_prompts():
    base = small_seem()
    assert not [name for name in base.state_dict() if "deep" in name]
    assert "num_deep_prompts" not in base.feature_settings()
    assert base.model.deep_prompts not in base.feature_modules("predictions")
    merged = trained(deep_prompts="all").merge_and_unload()
    assert merged.model.deep_prompts in merged.feature_modules("predictions")
    assert "num_deep_prompts" not in merged.feature_settings()


def test_deep_prompts_of_adapters_that_live_together():
    model = trained(deep_prompts="last")
    model.add_adapter("all", SSPromptConfig(deep_prompts="all"))
    model.add_adapter("none", SSPromptConfig())
    first = logits(model)
    for name in ("all", "none"):
        model.set_adapter(name)
        assert same(logits(model), logits(small_seem()))
    model.set_adapter("default")
    with model.base_model.use_adapter("none"):
        assert same(logits(model), logits(small_seem()))
    with model.zero_shot():
        assert same(logits(model), logits(small_seem()))
    assert same(logits(model), first)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(logits(adapted(deep_prompts="all")), logits(small_seem()))
    model.set_adapter("none")
    with model.base_model.use_adapter("default"):
        assert same(logits(model), first)
    model.add_adapter("other", SSPromptConfig(deep_prompts="last"))
    model.base_model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "mean")
    offsets = layer(model, "deep_prompts").ssprompt_offset
    assert torch.equal(offsets["mean"], offsets["default"] / 2)
    with pytest.raises(AdapterError, match="other classes or settings"):
        model.base_model.add_weighted_adapter(["default", "all"], [0.5, 0.5], "mixed")


@pytest.mark.parametrize("config", VARIANTS)
def test_saved_and_loaded_is_the_same_bit_for_bit(config, tmp_path):
    model = trained(**config)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(small_seem(), tmp_path)
    assert same(logits(loaded), expected)
    assert loaded.peft_config["default"].to_dict() == {
        **model.peft_config["default"].to_dict(),
        "inference_mode": True,
        "auto_mapping": json.loads((tmp_path / "adapter_config.json").read_text())["auto_mapping"],
    }
    assert not any(p.requires_grad for p in loaded.parameters())
    assert same(logits(PeftModel.from_pretrained(small_seem(), tmp_path, low_cpu_mem_usage=True)), expected)


def test_an_adapter_brings_its_classes_to_a_base_without_any(tmp_path):
    model = trained()
    model.save_pretrained(tmp_path)
    base = small_seem(class_names=None, use_text_model=False, use_spatial_prompt_encoder=False)
    base.load_state_dict(model.unload().state_dict(), strict=False)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert same(logits(loaded), logits(PeftModel.from_pretrained(small_seem(), tmp_path)))
    assert loaded.config.class_names == CLASSES and loaded.config.id2label == dict(enumerate(CLASSES))
    with loaded.disable_adapter():  # the default prompts, as the base has no class embeddings of its own
        assert same(logits(loaded), logits(small_seem()))
    assert loaded.unload().config.class_names is None


def test_transformers_load_add_and_switch_adapters(tmp_path):
    model = trained()
    model.save_pretrained(tmp_path)
    expected, base = logits(model), small_seem()
    zero_shot = logits(base)
    base.load_adapter(str(tmp_path))
    assert same(logits(base), expected)
    base.add_adapter(SSPromptConfig(), "fresh")
    assert same(logits(base), zero_shot)
    base.set_adapter("default")
    assert same(logits(base), expected)
    base.disable_adapters()
    assert same(logits(base), zero_shot)
    base.enable_adapters()
    base.delete_adapter("fresh")
    assert same(logits(base), expected)


def test_transformers_adapters_bring_their_classes(tmp_path):
    names, things = {}, {}
    for place, classes in enumerate((CLASSES, OTHER_CLASSES)):
        seem = small_seem()
        set_classes(seem, classes, [place])
        adapted(seem).save_pretrained(tmp_path / str(place))
        names[str(place)], things[str(place)] = list(classes), [place]
    base = small_seem(("own",), ())
    names[None], things[None] = ["own"], []
    for name in ("0", "1"):
        base.load_adapter(str(tmp_path / name), name)

    def check(name):
        assert base.config.class_names == names[name] and base.config.thing_class_ids == things[name]
        assert base.config.id2label == dict(enumerate(names[name]))
        assert logits(base)[0].shape[-1] == len(names[name]) + 1

    check("1")
    base.set_adapter("0")
    check("0")
    base.disable_adapters()
    check(None)
    base.enable_adapters()
    check("0")
    base.delete_adapter("0")
    check("1")
    base.delete_adapter("1")
    check(None)


@pytest.mark.parametrize("damage", ["not finite", "lacks", "no use for", "has shape", "is damaged", "no file"])
def test_transformers_load_no_damaged_adapter(tmp_path, damage):
    trained().save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    key = next(name for name in tensors if "object_queries.ssprompt_embedding" in name)
    if damage == "lacks":
        del tensors[key]
    elif damage == "no use for":
        tensors[key.replace("embedding", "extra")] = tensors[key].clone()
    else:
        tensors[key] = tensors[key][1:].clone() if damage == "has shape" else tensors[key] * torch.nan
    good = path.read_bytes()
    save_file(tensors, path, metadata={"format": "pt"})
    if damage == "is damaged":
        path.write_bytes(b"nothing that could be read")
    elif damage == "no file":
        path.unlink()
    base = small_seem()
    expected = logits(base)
    with pytest.raises(AdapterError, match=r"lacks adapter_model\.safetensors" if damage == "no file" else damage):
        base.load_adapter(str(tmp_path), "night")
    assert same(logits(base), expected) and base.config.class_names == CLASSES
    path.write_bytes(good)
    base.load_adapter(str(tmp_path), "night")
    assert not same(logits(base), expected)


def test_adapters_with_different_classes_live_together(tmp_path):
    model = trained()
    first = logits(model)
    base = model.get_base_model()
    set_classes(base, OTHER_CLASSES, [1, 3])
    model.add_adapter("harbour", SSPromptConfig(semantic_embedding=False, semantic_weight=False))
    assert model.config.class_names == CLASSES  # the first is still the active one
    assert same(logits(model), first)

    model.set_adapter("harbour")
    untrained = logits(model)
    assert untrained[0].shape[-1] == len(OTHER_CLASSES) + 1
    assert (model.config.class_names, model.config.thing_class_ids) == (OTHER_CLASSES, [1, 3])
    train(model)
    second = logits(model)
    assert not same(second, untrained)
    model.set_adapter("default")
    assert same(logits(model), first)

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(small_seem(), tmp_path)
    loaded.load_adapter(tmp_path / "harbour", "harbour")
    assert same(logits(loaded), first)
    loaded.set_adapter("harbour")
    assert same(logits(loaded), second)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT tells which adapter is active now
        loaded.delete_adapter("harbour")
    assert loaded.active_adapters == ["default"] and loaded.config.class_names == CLASSES
    assert same(logits(loaded), first)


def test_adapters_of_different_slots_stay_in_step_when_one_is_deleted():
    model = adapted()
    model.add_adapter("a", SSPromptConfig(spatial_embedding=False, spatial_weight=False))
    model.add_adapter("z", SSPromptConfig())
    model.set_adapter("z")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.delete_adapter("z")
    assert model.active_adapters == ["a"]
    assert {tuple(one.active_adapters) for one in model.modules() if isinstance(one, SSPromptLayer)} == {("a",)}


def test_zero_shot_keeps_the_adapters_classes():
    model = trained()
    base = model.get_base_model()
    set_classes(base, OTHER_CLASSES)
    with model.zero_shot():
        assert same(logits(model), logits(small_seem()))
    with model.disable_adapter():
        assert logits(model)[0].shape[-1] == len(OTHER_CLASSES) + 1


@pytest.mark.parametrize("config", [*VARIANTS, POINTS])
def test_only_the_adapter_learns(config):
    model = adapted(**config)
    if config is POINTS:
        model.set_point_tokens(point_grid_tokens(model.get_base_model(), [{"pixel_values": pixels()}], 3))
    before = copy.deepcopy(model.state_dict())
    train(model, steps=3)
    for name, value in model.state_dict().items():
        learned = ".ssprompt_" in name and ".ssprompt_default." not in name
        assert torch.equal(value, before[name]) != learned, name
    gradients = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert gradients == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("ssprompt_" in name for name in gradients)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("weight_range", ["unit", "free"])
def test_gradients_agree_with_finite_differences(weight_range, calibrated):
    config = {"weight_range": weight_range, "init_embeddings": "noise", "init_std": 0.5}
    config |= {"semantic_scale": calibrated, "semantic_bias": calibrated, "normalize_class_embeddings": True}
    model = adapted(small_seem().double(), **config)
    slots = [layer(model, "object_queries"), layer(model, "class_embeddings")]
    learned = [(slot, kind) for slot in slots for kind in slot.adapter_layer_names if "default" in getattr(slot, kind)]
    assert len(learned) == (6 if calibrated else 4)

    def prompts(*values):
        states = {slot: {} for slot in slots}
        for (slot, kind), value in zip(learned, values):
            states[slot][f"{kind}.default"] = value
        return tuple(torch.func.functional_call(slot, state, ()) for slot, state in states.items())

    assert torch.autograd.gradcheck(prompts, [getattr(slot, kind)["default"] for slot, kind in learned])


def test_equation_background_and_weights():
    model = adapted(init_embeddings="noise", init_std=1.0, init_weight=0.25)
    slot, z = layer(model, "class_embeddings"), class_embeddings(CLASSES)
    e = slot.ssprompt_embedding["default"]
    torch.testing.assert_close(slot.prompt_weights("default"), torch.full((3,), 0.25))
    torch.testing.assert_close(slot()[:-1], 0.25 * z[:-1] + 0.75 * e)
    assert torch.equal(slot()[-1], z[-1])
    fixed = layer(adapted(spatial_weight=False), "object_queries")
    assert fixed.prompt_weights("default") == 0.5 and not len(fixed.ssprompt_weight)


def test_a_normalised_class_embedding_keeps_the_default_length():
    slot = layer(adapted(normalize_class_embeddings=True, init_embeddings="noise", init_std=1.0), "class_embeddings")
    torch.testing.assert_close(slot().norm(dim=-1), torch.ones(4))


def test_a_weight_alone_weighs_a_fixed_embedding():
    model = adapted(semantic_embedding=False, init_embeddings="normal", init_std=0.3)
    slot = layer(model, "class_embeddings")
    before = slot.ssprompt_embedding["default"].clone()
    train(model)
    assert torch.equal(slot.ssprompt_embedding["default"], before)
    assert slot.prompt_weights("default").std() > 0


def test_the_base_stays_in_evaluation_mode():
    model = adapted(small_seem(backbone_config={"model_type": "seem_focalnet", "embed_dim": 8, "drop_path_rate": 0.5}))
    model.train()
    assert model.training and not model.get_base_model().training
    assert torch.equal(loss(model), loss(model))


def test_an_adapter_stays_float32_on_a_bfloat16_base():
    model = train(adapted(small_seem().bfloat16()), steps=1)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert logits(model)[0].dtype == torch.bfloat16


def test_the_adapter_of_the_paper_is_small(tmp_path):
    base = small_seem(
        class_names=None, hidden_dim=512, projection_dim=512, num_queries=100, decoder_layers=1, use_text_model=False
    )
    names = [f"class {index}" for index in range(19)]
    base.set_class_embeddings(torch.nn.functional.normalize(torch.randn(20, 512), dim=-1), names)
    adapted(base).save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 300_000
    shapes = {
        name.split("model.", 1)[1]: tuple(t.shape)
        for name, t in load_file(tmp_path / "adapter_model.safetensors").items()
    }
    assert shapes == {
        "model.model.object_queries.ssprompt_embedding": (100, 512),
        "model.model.object_queries.ssprompt_weight": (100,),
        "model.class_embeddings.ssprompt_embedding": (19, 512),
        "model.class_embeddings.ssprompt_weight": (19,),
        "model.class_embeddings.ssprompt_default": (20, 512),
    }


def test_trainable_parameters_and_status(capsys):
    model = adapted()
    expected = 6 * WIDTH + 6 + 3 * WIDTH + 3
    assert model.get_nb_trainable_parameters()[0] == expected
    model.print_trainable_parameters()
    assert f"trainable params: {expected}" in capsys.readouterr().out
    assert model.get_model_status().trainable_params == expected


# The point grid


def test_point_tokens_are_the_mean_over_images():
    model = small_seem()
    images = torch.cat([pixels(0), pixels(1)])
    together = point_grid_tokens(model, [{"pixel_values": images}], 3)
    apart = point_grid_tokens(model, [{"pixel_values": image[None]} for image in images], 3)
    assert together.shape == (3, 9, WIDTH)
    torch.testing.assert_close(together, apart)
    padded = torch.nn.functional.pad(images[:1, :, :32], (0, 0, 0, 32))
    sizes = torch.tensor([[32, 64]])
    assert not torch.equal(
        point_grid_tokens(model, [{"pixel_values": padded, "image_sizes": sizes}], 3),
        point_grid_tokens(model, [{"pixel_values": padded}], 3),
    )


def test_point_grid_round_trip(tmp_path):
    model = adapted(**POINTS)
    with pytest.raises(AdapterError, match="set_point_tokens"):
        logits(model)
    with pytest.raises(AdapterError, match=r"shape \(3, 9, 32\)"):
        model.set_point_tokens(torch.zeros(3, 4, WIDTH))
    tokens = point_grid_tokens(model.get_base_model(), [{"pixel_values": pixels()}], 3)
    model.set_point_tokens(tokens)
    assert torch.equal(layer(model, "point_tokens")(), tokens)  # e starts at z
    assert logits(train(model))[0].shape[1] == 9
    model.save_pretrained(tmp_path)
    assert same(logits(PeftModel.from_pretrained(small_seem(), tmp_path)), logits(model))
    with pytest.raises(AdapterError, match="learns no point grid"):
        adapted().set_point_tokens(tokens)
    with pytest.raises(AdapterError, match="at least one image"):
        point_grid_tokens(small_seem(), [], 3)
    with pytest.raises(AdapterError, match="too small for a grid"):
        point_grid_tokens(small_seem(), [{"pixel_values": pixels(), "image_sizes": [[2, 64]] * 2}], 3)


# Fingerprints and registration


def test_the_fingerprint_is_that_of_the_base_model(tmp_path):
    base = small_seem()
    expected = model_fingerprint(base)
    base.save_pretrained(tmp_path)
    lean = {"use_text_model": False, "use_spatial_prompt_encoder": False}
    for arguments in (lean, {"dtype": torch.bfloat16}, {"dtype": torch.float64}):
        assert model_fingerprint(type(base).from_pretrained(tmp_path, **arguments)) == expected
    set_classes(base, OTHER_CLASSES)
    assert model_fingerprint(base) == expected
    half = model_fingerprint(copy.deepcopy(base).half())
    assert half != expected and fingerprint_difference(half, expected) is None
    model = train(adapted(base))
    assert model_fingerprint(model.get_base_model()) == expected
    model.merge_adapter()
    assert model_fingerprint(model.get_base_model()) == expected
    assert fingerprint_difference(model_fingerprint(model.merge_and_unload()), expected) == "weights"


def test_the_models_bring_the_method_along(tmp_path):
    """A user of transformers and PEFT alone never imports the tuners."""
    trained().save_pretrained(tmp_path)
    code = f"import ssprompt_hf.models.seem, peft; print(peft.PeftConfig.from_pretrained({str(tmp_path)!r}).peft_type)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "SSPROMPT" in done.stdout


def test_the_peft_type_is_the_text_in_the_file():
    assert PromptPeftType.SSPROMPT == "SSPROMPT" and hash(PromptPeftType.SSPROMPT) == hash("SSPROMPT")
    assert SSPromptConfig.peft_type_name() == "SSPROMPT"
