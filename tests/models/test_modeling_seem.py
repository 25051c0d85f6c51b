"""One base of tests that runs every architecture, and what the prompts of a model promise each other."""

import copy

import pytest
import torch
from prompted_seem import CLASSES, class_embeddings, small_seem, word_tokenizer
from tiny_seem import ARCHITECTURES, images, phrases, strokes, tiny_seem
from torch.nn import functional as F

from ssprompt_hf.models.seem import SeemConfig, SeemForUniversalSegmentation, SeemModel

ZERO_AT_FIRST = (
    "gamma_1", "gamma_2", "sampling_offsets.weight", "attention_weights.weight", "rel_pos_h", "rel_pos_w", "pos_embed",
)  # fmt: skip
PHRASES = phrases([[5, 6, 7], [8]], [[9, 10, 11, 12, 13]])


def tensors(output) -> dict[str, torch.Tensor]:
    """What a model predicted."""
    return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}


def assert_same(first, second):
    """Bit for bit."""
    first, second = tensors(first), tensors(second)
    assert set(first) == set(second) and first
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def assert_close(first, second):
    assert first.keys() == second.keys() and first
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-8, atol=1e-8, msg=lambda text, name=name: name + text)


def rows(output, index) -> dict[str, torch.Tensor]:
    return {name: value[index] for name, value in tensors(output).items()}


@torch.no_grad()
def generic(model, size=(64, 96)):
    return model(pixel_values=images(size=size).to(model.dtype))


class TestEveryArchitecture:
    @pytest.fixture(params=list(ARCHITECTURES))
    def model(self, request):
        return tiny_seem(request.param)

    @pytest.mark.parametrize("size", [(64, 96), (32, 32), (96, 160)])
    def test_any_size(self, model, size):
        output = generic(model, size)
        queries, (height, width) = model.config.num_queries, size
        assert output.class_queries_logits.shape == (2, queries, len(CLASSES) + 1)
        assert output.masks_queries_logits.shape == (2, queries, height // 4, width // 4)
        assert output.padded_size == size
        assert all(value.isfinite().all() for value in tensors(output).values())

    @torch.no_grad()
    def test_images_of_a_batch_do_not_touch_each_other(self, model):
        pixels, marks = images(3), strokes(3)
        prompts = phrases([[5, 6]], [[7]], [[8, 9, 10]])
        together = model(pixel_values=pixels, **marks, **prompts, output_objects=True)
        for index in range(3):
            one = slice(index, index + 1)
            alone = model(
                pixel_values=pixels[one],
                **{name: value[one] for name, value in (marks | prompts).items()},
                output_objects=True,
            )
            assert_close(rows(together, one), rows(alone, slice(None)))

    def test_save_and_load(self, model, tmp_path):
        model = model.float()
        model.save_pretrained(tmp_path)
        assert [file.name for file in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
        loaded, info = SeemForUniversalSegmentation.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), info
        assert_same(generic(loaded), generic(model))
        assert type(loaded.config.backbone_config) is type(model.config.backbone_config)
        assert loaded.config.decoder_version == model.config.decoder_version

    def test_gradient_checkpointing(self, model):
        model.train()

        def gradients():
            model.zero_grad()
            output = model(pixel_values=images(), **strokes(), **PHRASES, output_objects=True)
            names = ("class_queries_logits", "masks_queries_logits", "grounding_masks_logits", "spatial_masks_logits")
            sum(output[name].square().mean() for name in names).backward()
            return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

        expected = gradients()
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
        assert_close(gradients(), expected)
        unused = {name for name, _ in model.named_parameters()} - set(expected)
        assert unused <= {"model.memory_features", "model.memory_positions"}


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_initialisation_is_complete(architecture):
    """In deterministic mode PyTorch fills memory that nobody has written to with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        first, again, other = (tiny_seem(architecture, class_names=None, seed=seed).state_dict() for seed in (1, 1, 2))
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in first.items():
        assert value.isfinite().all(), name
        assert torch.equal(value, again[name]), name
    constant = {name for name, value in first.items() if torch.equal(value, other[name])}
    # Biases, norms, layer scales, and what Deformable DETR and SAM start at zero.
    assert all(first[name].ndim <= 1 or name.endswith(ZERO_AT_FIRST) for name in constant)


def test_compiles_in_one_graph():
    model = tiny_seem("focal-v1", decoder_layers=3)
    pixels = images()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert_close(tensors(compiled(pixel_values=pixels)), tensors(model(pixel_values=pixels)))
        with torch._dynamo.config.patch(error_on_recompile=True):
            compiled(pixel_values=pixels)


def test_float16_where_the_trunk_of_davit_outgrows_it():
    model = tiny_seem("davit-v1")
    with torch.no_grad():
        for name, parameter in model.model.backbone.blocks[2].named_parameters():
            if name.endswith(("conv1.weight", "conv2.weight")):
                parameter *= 100
        assert model.model.backbone(images()).feature_maps[2].abs().max() > torch.finfo(torch.float16).max
    expected, half = generic(model), generic(copy.deepcopy(model).half())
    assert half.masks_queries_logits.dtype == torch.float16
    scale = expected.masks_queries_logits.abs().max()
    assert ((half.masks_queries_logits - expected.masks_queries_logits).abs() / scale).median() < 0.02


class TestSaving:
    @pytest.fixture
    def model(self):
        return small_seem()

    def test_shards(self, model, tmp_path):
        model.save_pretrained(tmp_path, max_shard_size="100KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
        assert (tmp_path / "model.safetensors.index.json").is_file()
        assert_same(generic(SeemForUniversalSegmentation.from_pretrained(tmp_path)), generic(model))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, model, tmp_path, dtype):
        expected = generic(copy.deepcopy(model).to(dtype))
        model.save_pretrained(tmp_path / "full")
        loaded = SeemForUniversalSegmentation.from_pretrained(tmp_path / "full", dtype=dtype)
        assert {value.dtype for value in loaded.state_dict().values()} == {dtype}
        assert_same(generic(loaded), expected)
        loaded.save_pretrained(tmp_path / "half")
        size = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
        assert size[1] < 0.6 * size[0]
        again = SeemForUniversalSegmentation.from_pretrained(tmp_path / "half")
        assert again.dtype == dtype
        assert_same(generic(again), expected)

    @pytest.mark.parametrize(
        "part, switch", [("text_model", "use_text_model"), ("spatial_prompt_encoder", "use_spatial_prompt_encoder")]
    )
    def test_parts_that_are_not_needed(self, model, tmp_path, part, switch):
        model.save_pretrained(tmp_path / "whole")
        loaded, info = SeemForUniversalSegmentation.from_pretrained(
            tmp_path / "whole", **{switch: False}, output_loading_info=True
        )
        assert getattr(loaded.model, part) is None and not info["missing_keys"] and not info["unexpected_keys"]
        assert loaded.num_parameters() < model.num_parameters()
        assert_same(generic(loaded), generic(model))
        loaded.save_pretrained(tmp_path / "part")
        again = SeemForUniversalSegmentation.from_pretrained(tmp_path / "part")
        assert getattr(again.model, part) is None
        assert_same(generic(again), generic(model))

    def test_dropped_text_model(self, model, tmp_path):
        expected = generic(model)
        model.drop_text_encoder()
        assert model.model.text_model is None and not any("text_model" in name for name in model.state_dict())
        model.save_pretrained(tmp_path)
        loaded = SeemForUniversalSegmentation.from_pretrained(tmp_path)
        assert loaded.config.class_names == CLASSES and loaded.config.thing_class_ids == [1]
        assert_same(generic(loaded), expected)

    def test_base_model(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        base = SeemModel.from_pretrained(tmp_path)
        with torch.no_grad():
            states = base(pixel_values=images().float()).object_states
        assert torch.equal(states.class_embeds, generic(model).class_queries_embeds)

    def test_weights_from_a_dictionary(self, model):
        """`from_pretrained(None, config=..., state_dict=...)`."""
        loaded = SeemForUniversalSegmentation.from_pretrained(None, config=model.config, state_dict=model.state_dict())
        assert_same(generic(loaded), generic(model))


class TestClasses:
    def test_names_through_the_text_model(self):
        model = small_seem(class_names=None)
        with pytest.raises(ValueError, match="no classes: call set_class_names"):
            generic(model)
        model.set_class_names(["sky", "the car"], word_tokenizer(), thing_class_ids=[1])
        assert model.config.id2label == {0: "sky", 1: "the car"} and model.config.label2id["the car"] == 1
        assert model.config.thing_class_ids == [1]
        embeddings = model.class_embeddings()
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))
        kept, expected = (
            generic(model),
            model.model.text_model.encode_class_names(
                ["sky", "the car", "background"], word_tokenizer(), templates=model.config.prompt_templates
            ),
        )
        assert torch.equal(embeddings, expected)
        assert kept.class_queries_logits.shape[-1] == 3
        model.drop_text_encoder()
        assert_same(generic(model), kept)
        with pytest.raises(ValueError, match="class names need the text encoder"):
            model.set_class_names(["sky"], word_tokenizer())

    @torch.no_grad()
    def test_embeddings_of_a_call(self):
        model, pixels = small_seem(), images().float()
        kept = model(pixel_values=pixels)
        given = model(pixel_values=pixels, class_embeddings=class_embeddings(CLASSES))
        assert_same(given, kept)
        # One matrix an image; and again, without looking at the images once more.
        both = torch.stack([class_embeddings(CLASSES), class_embeddings(CLASSES).flip(0)])
        each = model(pixel_values=pixels, class_embeddings=both)
        assert_close(
            {"": each.class_queries_logits[1]},
            {"": kept.class_queries_logits[1].flip(-1)},
        )
        again = model(
            class_queries_embeds=kept.class_queries_embeds,
            masks_queries_logits=kept.masks_queries_logits,
            class_embeddings=both,
        )
        assert torch.equal(again.class_queries_logits, each.class_queries_logits)

    def test_wrong_embeddings(self):
        model = small_seem()
        with pytest.raises(ValueError, match=r"must have shape \(3, 32\), got \(2, 32\)"):
            model.set_class_embeddings(torch.zeros(2, 32), ["sky", "car"])
        with pytest.raises(ValueError, match=r"thing_class_ids \[2\]"):
            model.set_class_embeddings(torch.zeros(3, 32), ["sky", "car"], [0, 2])
        with pytest.raises(ValueError, match="must have 32 columns"):
            model(pixel_values=images().float(), class_embeddings=torch.zeros(3, 31))
        with pytest.raises(ValueError, match="without masks_queries_logits"):
            model(class_queries_embeds=torch.zeros(1, 6, 32))


class TestPrompts:
    @pytest.fixture(params=["focal-dw-v0", "focal-v1"], ids=["v0", "v1"])
    def model(self, request):
        return tiny_seem(request.param)

    @torch.no_grad()
    def test_features_serve_any_number_of_calls(self, model):
        pixels, prompts = images(), {**strokes(), **PHRASES, "output_objects": True}
        fresh = model(pixel_values=pixels, **prompts)
        assert_same(model(image_features=fresh.image_features, **prompts), fresh)
        assert_same(model(image_features=model.get_image_features(pixels, prepare=False), **prompts), fresh)

    @torch.no_grad()
    def test_prompts_together_equal_prompts_apart(self, model):
        features = model.get_image_features(images())
        together = model(image_features=features, **strokes(), **PHRASES, output_objects=True)
        apart = (
            tensors(model(image_features=features))
            | tensors(model(image_features=features, **strokes()))
            | tensors(model(image_features=features, **PHRASES))
        )
        assert_close(tensors(together), apart)

    @torch.no_grad()
    def test_one_image_and_many_strokes(self, model):
        marks = strokes(5)
        features = model.get_image_features(images(1))
        together = model(image_features=features, **marks).spatial_masks_logits
        assert together.shape == (5, 1, 16, 24)
        for index in range(5):
            one = slice(index, index + 1)
            alone = model(image_features=features, **{name: value[one] for name, value in marks.items()})
            assert_close({"": together[one]}, {"": alone.spatial_masks_logits})

    @torch.no_grad()
    def test_phrases_of_every_image(self, model):
        """`(phrases, T)` as a processor returns them, or once more for every image."""
        pixels, once = images(), phrases([[5, 6, 7], [8]])
        every = {name: value.expand(2, -1, -1) for name, value in once.items()}
        shared = {name: value[0] for name, value in once.items()}
        expected = model(pixel_values=pixels, **every)
        assert_close(tensors(model(pixel_values=pixels, **shared)), tensors(expected))
        # Without a mask phrases end at their end-of-text token.
        assert_close(tensors(model(pixel_values=pixels, input_ids=shared["input_ids"])), tensors(expected))
        longer = {name: F.pad(value, (0, 9)) for name, value in shared.items()}
        assert_close(tensors(model(pixel_values=pixels, **longer)), tensors(expected))

    @torch.no_grad()
    def test_batches_of_phrases_equal_each_alone(self, model):
        pixels = images()
        together = model(pixel_values=pixels, **PHRASES)
        for index, alone in enumerate((phrases([[5, 6, 7], [8]]), phrases([[9, 10, 11, 12, 13]]))):
            alone = model(pixel_values=pixels[index : index + 1], **alone)
            count = alone.grounding_scores.shape[1]
            for name in ("grounding_masks_logits", "grounding_scores"):
                assert_close({name: together[name][index, :count]}, {name: alone[name][0]})

    @torch.no_grad()
    def test_rounds(self, model):
        features, marks = model.get_image_features(images()), strokes()
        previous, seen = None, []
        for _ in range(3):
            output = model(image_features=features, **marks, previous_masks=previous)
            previous = output.spatial_masks_logits
            seen.append(previous)
        assert all(masks.shape == (2, 1, 16, 24) and masks.isfinite().all() for masks in seen)
        assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])

    @torch.no_grad()
    def test_reference_image(self, model):
        source, target = (model.get_image_features(images(1, seed=seed)) for seed in (0, 1))
        marks = strokes(1)
        prompts = model.get_spatial_prompts(source, *marks.values())
        itself = model(image_features=source, reference_prompts=prompts)
        assert_same(itself, model(image_features=source, **marks))
        other = model(image_features=target, reference_prompts=prompts)
        assert other.spatial_masks_logits.shape == (1, 1, 16, 24)
        assert not torch.equal(other.spatial_masks_logits, itself.spatial_masks_logits)
        assert not torch.equal(other.spatial_masks_logits, model(image_features=target, **marks).spatial_masks_logits)
        small = model.get_image_features(images(1, size=(32, 64)))  # a picture of another size
        assert model(image_features=small, reference_prompts=prompts).spatial_masks_logits.shape == (1, 1, 8, 16)

    @torch.no_grad()
    def test_images_without_strokes(self, model):
        marks = strokes()
        for masks in marks.values():
            masks[0] = False
        output = model(pixel_values=images(), **marks)
        assert output.spatial_masks_logits.isfinite().all()
        alone = model(pixel_values=images()[1:], **{name: masks[1:] for name, masks in marks.items()})
        assert_close({"": output.spatial_masks_logits[1]}, {"": alone.spatial_masks_logits[0]})
        empty = torch.zeros_like(marks["positive_prompt_masks"])
        assert model(pixel_values=images(), positive_prompt_masks=empty).spatial_masks_logits.isfinite().all()

    @torch.no_grad()
    def test_many_pixels(self, model):
        """A box of the whole image: no more tokens than `max_spatial_points`, evenly spread."""
        masks = torch.ones(1, 1, 64, 96, dtype=torch.bool)
        prompts = model.get_spatial_prompts(model.get_image_features(images(1)), masks)
        assert prompts.token_objects.shape == (1, model.config.max_spatial_points)
        assert_same(*(model(pixel_values=images(1), positive_prompt_masks=masks) for _ in range(2)))

    @torch.no_grad()
    def test_objects_do_not_touch_each_other(self, model):
        if model.config.decoder_version == "v0":
            pytest.skip("decoder v0 takes one object")
        marks = strokes(num_objects=3)
        features = model.get_image_features(images())
        together = model(image_features=features, **marks).spatial_masks_logits
        per_object = model.config.queries_per_object
        for index in range(3):
            one = slice(index, index + 1)
            queries = torch.arange(index * per_object, (index + 1) * per_object) % model.config.num_queries
            alone = model(
                image_features=features,
                **{name: value[:, one] for name, value in marks.items()},
                spatial_query_indices=queries,
            )
            assert_close({"": together[:, one]}, {"": alone.spatial_masks_logits})

    def test_wrong_inputs(self, model):
        pixels, marks = images(), strokes()
        features = model.get_image_features(pixels)
        with pytest.raises(ValueError, match="pass pixel_values or image_features"):
            model()
        with pytest.raises(ValueError, match="64x100 pixels; height and width must be multiples of 32"):
            model(pixel_values=torch.zeros(1, 3, 64, 100))
        with pytest.raises(ValueError, match=r"input_ids must be .* got shape \(4,\)"):
            model(image_features=features, input_ids=torch.zeros(4, dtype=torch.long))
        with pytest.raises(ValueError, match="prompts for 3 images were passed with 2 images"):
            model(image_features=features, **phrases([[5]], [[6]], [[7]]))
        with pytest.raises(ValueError, match="prompts for 1 images were passed with 2 images"):
            model(
                image_features=features,
                reference_prompts=model.get_spatial_prompts(
                    model.get_image_features(pixels[:1]), marks["positive_prompt_masks"][:1]
                ),
            )
        with pytest.raises(ValueError, match="negative_prompt_masks were passed without positive_prompt_masks"):
            model(image_features=features, negative_prompt_masks=marks["negative_prompt_masks"])
        with pytest.raises(ValueError, match="prompts for 3 images were passed with 2 images"):
            model(image_features=features, **strokes(3))
        with pytest.raises(ValueError, match=r"previous_masks of shape \(2, 3, 16, 24\)"):
            model(image_features=features, **marks, previous_masks=torch.zeros(2, 3, 16, 24))
        if model.config.decoder_version == "v0":
            with pytest.raises(ValueError, match="one object per image and call, 2 were given"):
                model(image_features=features, **strokes(num_objects=2))
        else:
            with pytest.raises(ValueError, match="4 spatial_query_indices cannot be shared equally by 3 objects"):
                model(image_features=features, **strokes(num_objects=3), spatial_query_indices=torch.arange(4))

    def test_parts_that_were_left_out(self):
        model = tiny_seem("focal-v1", use_text_model=False, use_spatial_prompt_encoder=False)
        assert generic(model).masks_queries_logits.isfinite().all()
        with pytest.raises(ValueError, match="phrases need the text encoder"):
            model(pixel_values=images(), **PHRASES)
        with pytest.raises(ValueError, match="no spatial prompt encoder"):
            model(pixel_values=images(), **strokes())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"decoder_version": "v2"}, "decoder_version is 'v2'"),
        ({"pixel_decoder_type": "unet"}, "pixel_decoder_type is 'unet'"),
        ({"num_attention_heads": 3}, "hidden_dim is 512; it must be a multiple of num_attention_heads"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(Exception, match=message):
        SeemConfig(**settings)
