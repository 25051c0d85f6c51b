"""
What transformers asks of every model, configuration and image processor of its own, for SEEM with each backbone.

What is asked elsewhere: any size, batches, gradient checkpointing, initialisation, compiling, shards and half
precision in `test_modeling_seem.py`, outputs and losses in `test_seem_outputs.py`. What does not apply:

* resizing of the vocabulary, and tied weights: words belong to the text encoder, which shares no tensor with the rest;
* flash attention and static caches: masks of the decoder change with every layer, and nothing is generated;
* `batch_size` of a pipeline: outputs hold the features of their images, which a pipeline cannot divide again.
"""

import copy
import inspect
import json

import numpy as np
import pytest
import torch
from PIL import Image
from prompted_seem import CLASSES
from safetensors.torch import load_file, save_file
from tiny_seem import ARCHITECTURES, images, tiny_seem
from transformers import AutoConfig, AutoModel, AutoModelForUniversalSegmentation, pipeline

from ssprompt_hf.models.seem import (
    SeemConfig,
    SeemForUniversalSegmentation,
    SeemImageProcessor,
    SeemModel,
)

QUERIES = "model.object_queries.weight"


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def model(request):
    """Tests leave it as it is."""
    return tiny_seem(request.param, decoder_layers=3).float()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small():
    """One architecture, for what the backbone has no part in."""
    return tiny_seem("focal-v1", decoder_layers=3).float()


@pytest.fixture(scope="module")
def small_folder(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    small.save_pretrained(folder)
    return folder


@torch.no_grad()
def predict(model, size=(32, 64), **settings):
    """Class and mask logits of two images."""
    output = model(pixel_values=images(size=size).to(model.dtype), **settings)
    return output.class_queries_logits, output.masks_queries_logits


def assert_same(first, second):
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def assert_alike(first, second):
    """Of the same weights: kernels of float32 add up in an order that depends on where in memory a weight lies."""
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


class TestConfiguration:
    def test_round_trips(self, model, tmp_path):
        config = model.config
        config.save_pretrained(tmp_path)
        written = json.loads((tmp_path / "config.json").read_text())
        assert written["model_type"] == "seem" and written["backbone_config"]["model_type"]
        for again in (
            SeemConfig.from_pretrained(tmp_path),
            SeemConfig.from_dict(config.to_dict()),
            SeemConfig.from_json_file(tmp_path / "config.json"),
            AutoConfig.from_pretrained(tmp_path),
            copy.deepcopy(config),
        ):
            assert type(again) is SeemConfig and type(again.backbone_config) is type(config.backbone_config)
            assert again.to_json_string() == config.to_json_string()
        # older versions leave the defaults of the parts out of the difference, too
        assert set(config.to_diff_dict()) <= set(config.to_dict())
        assert SeemConfig.from_dict(config.to_diff_dict()).to_json_string() == config.to_json_string()

    def test_parts_are_given_as_objects_or_as_dicts(self, model):
        config = model.config
        parts = {"backbone_config": config.backbone_config, "text_config": config.text_config}
        whole = SeemConfig(**parts)
        assert whole.backbone_config is config.backbone_config
        again = SeemConfig(**{name: part.to_dict() for name, part in parts.items()})
        assert again.to_json_string() == whole.to_json_string()

    def test_defaults(self):
        first, second = SeemConfig(), SeemConfig()
        assert first.backbone_config.model_type == "seem_focalnet" and first.text_config.model_type == "seem_text"
        assert first.backbone_config is not second.backbone_config
        assert SeemConfig(backbone_config={"depths": [1, 1, 1, 1]}).backbone_config.model_type == "seem_focalnet"
        assert SeemConfig(backbone_config={"model_type": "seem_davit"}).backbone_config.depths == (1, 1, 9, 1)
        assert SeemConfig(text_config={"vocab_size": 77}).text_config.layer_norm_eps == 1e-12
        first.backbone_config.depths = [9]
        assert SeemConfig().to_json_string() == second.to_json_string()

    def test_common_names(self):
        config = SeemConfig(class_names=CLASSES, hidden_dim=64)
        assert config.num_labels == len(CLASSES) and config.label2id == {name: i for i, name in enumerate(CLASSES)}
        assert config.hidden_size == 64 and config.num_hidden_layers == config.decoder_layers
        config.hidden_size = 32
        assert config.hidden_dim == 32
        assert SeemConfig(hidden_size=96).hidden_dim == 96
        assert SeemConfig(output_hidden_states=True, name_or_path="x").output_hidden_states

    def test_unknown_keys_are_kept(self):
        config = SeemConfig.from_dict({"made_by": "somebody else"})
        assert config.to_dict()["made_by"] == "somebody else"

    def test_arguments_of_loading_go_before_the_file(self, folder):
        config, unused = SeemConfig.from_pretrained(
            folder, use_text_model=False, something="else", return_unused_kwargs=True
        )
        assert config.use_text_model is False and unused == {"something": "else"}


class TestModel:
    def test_signature(self, small):
        for method in (small.forward, small.model.forward):
            assert next(iter(inspect.signature(method).parameters)) == small.main_input_name == "pixel_values"
        assert small.base_model is small.model and small.base_model_prefix == "model"

    def test_the_same_again(self, model):
        first = predict(model)
        assert_same(predict(model), first)
        assert_same(predict(copy.deepcopy(model)), first)

    def test_a_loaded_model_is_the_saved_one(self, model, folder):
        loaded = AutoModelForUniversalSegmentation.from_pretrained(folder)
        assert type(loaded) is SeemForUniversalSegmentation and not loaded.training
        tensors = loaded.state_dict()
        assert not any(tensor.is_meta for tensor in tensors.values())
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
        assert_alike(predict(loaded), predict(model))
        assert load_file(folder / "model.safetensors").keys() == model.state_dict().keys()

    def test_configurations_alone_make_the_same_model(self, model):
        torch.manual_seed(0)
        made = SeemForUniversalSegmentation(model.config)
        torch.manual_seed(0)
        again = AutoModelForUniversalSegmentation.from_config(model.config)
        assert made.config.to_json_string() == model.config.to_json_string()
        assert all(torch.equal(one, other) for one, other in zip(made.parameters(), again.parameters(), strict=True))
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        assert {name: tensor.shape for name, tensor in made.state_dict().items()} == shapes

    def test_no_memory_is_shared_or_left_out_of_the_file(self, model):
        tensors = [*model.parameters(), *model.buffers()]
        places = [tensor.data_ptr() for tensor in tensors if tensor.numel()]
        assert len(places) == len(set(places))
        kept = model.state_dict().keys()
        left_out = {name for name, _ in model.named_buffers()} - kept
        # position ids and the like are computed, not learned; nobody may lose them by loading
        again = type(model)(copy.deepcopy(model.config))
        again.load_state_dict(model.state_dict())
        assert all(torch.equal(dict(again.named_buffers())[n], dict(model.named_buffers())[n]) for n in left_out)

    def test_the_base_model_and_the_whole_one_read_each_other(self, model, folder, tmp_path):
        base, info = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert type(base) is SeemModel and not info["missing_keys"]
        assert all(torch.equal(tensor, model.model.state_dict()[name]) for name, tensor in base.state_dict().items())
        base.save_pretrained(tmp_path)
        whole, info = SeemForUniversalSegmentation.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["missing_keys"]) == {"class_embeddings.weight"}
        whole.class_embeddings.weight = model.class_embeddings.weight
        assert_alike(predict(whole), predict(model))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_types_of_numbers(self, model, folder, tmp_path, dtype):
        loaded = SeemForUniversalSegmentation.from_pretrained(folder, dtype=dtype)
        assert {tensor.dtype for tensor in loaded.state_dict().values() if tensor.is_floating_point()} == {dtype}
        assert_same(predict(loaded), predict(copy.deepcopy(model).to(dtype)))
        loaded.save_pretrained(tmp_path)
        for wanted, found in (("auto", dtype), (None, dtype), (torch.float32, torch.float32), ("float16", torch.half)):
            again = SeemForUniversalSegmentation.from_pretrained(tmp_path, **({"dtype": wanted} if wanted else {}))
            assert again.dtype == found and again.config.dtype == found
        assert SeemForUniversalSegmentation._from_config(model.config, dtype=dtype).dtype == dtype

    def test_ways_of_attention(self, model, folder):
        eager = SeemForUniversalSegmentation.from_pretrained(folder, attn_implementation="eager")
        assert eager.config._attn_implementation == "eager"
        for one, other in zip(predict(eager), predict(model), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)

    def test_device_maps(self, model, folder, tmp_path):
        loaded = SeemForUniversalSegmentation.from_pretrained(folder, device_map="cpu")
        assert_alike(predict(loaded), predict(model))
        # the backbone stays on disk, and is read when its turn comes
        parts = {name: "cpu" for name, _ in model.model.named_children()}
        parts = {f"model.{name}": place for name, place in parts.items()} | {"class_embeddings": "cpu"}
        alone = {f"model.{name}": "cpu" for name, _ in model.model.named_parameters(recurse=False)}
        spread = SeemForUniversalSegmentation.from_pretrained(
            folder, device_map=parts | alone | {"model.backbone": "disk"}, offload_folder=tmp_path
        )
        assert next(spread.model.backbone.parameters()).is_meta
        assert_alike(predict(spread), predict(model))

    def test_weights_in_memory_in_place_of_a_file(self, small):
        tensors = {name: tensor.clone() for name, tensor in small.state_dict().items()}
        loaded = SeemForUniversalSegmentation.from_pretrained(None, config=small.config, state_dict=tensors)
        assert_same(predict(loaded), predict(small))

    def test_missing_weights_are_told_and_made(self, small_folder, tmp_path):
        tensors = load_file(small_folder / "model.safetensors")
        gone = [QUERIES, *(name for name in tensors if name.startswith("model.mask_decoder.layers.1."))]
        tensors = {name: tensor for name, tensor in tensors.items() if name not in gone}
        save_file(tensors | {"nobody.knows": torch.ones(1)}, tmp_path / "model.safetensors", {"format": "pt"})
        (tmp_path / "config.json").write_bytes((small_folder / "config.json").read_bytes())
        torch.manual_seed(0)
        loaded, info = SeemForUniversalSegmentation.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["missing_keys"]) == set(gone) and set(info["unexpected_keys"]) == {"nobody.knows"}
        state = loaded.state_dict()
        assert all(state[name].isfinite().all() for name in gone) and state[QUERIES].std() > 0.5
        assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())

    def test_weights_of_another_shape(self, small, small_folder):
        settings = {"num_queries": 9, "output_loading_info": True}
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
            SeemForUniversalSegmentation.from_pretrained(small_folder, **settings)
        loaded, info = SeemForUniversalSegmentation.from_pretrained(
            small_folder, ignore_mismatched_sizes=True, **settings
        )
        assert {name for name, *_ in info["mismatched_keys"]} == {QUERIES, "model.mask_decoder.query_positions"}
        assert loaded.state_dict()[QUERIES].shape[0] == 9
        assert predict(loaded)[0].shape == (2, 9, len(CLASSES) + 1)
        kept = "model.mask_decoder.level_embeddings"
        assert torch.equal(loaded.state_dict()[kept], small.state_dict()[kept])

    def test_variants_and_wholes(self, small, tmp_path):
        small.save_pretrained(tmp_path, variant="mine")
        assert (tmp_path / "model.mine.safetensors").is_file()
        with pytest.raises(OSError, match=r"model\.safetensors"):
            SeemForUniversalSegmentation.from_pretrained(tmp_path)
        assert_same(predict(SeemForUniversalSegmentation.from_pretrained(tmp_path, variant="mine")), predict(small))

    def test_counts(self, small):
        assert small.num_parameters() == sum(parameter.numel() for parameter in small.parameters())
        assert small.num_parameters(only_trainable=True) == small.num_parameters()
        small_again = copy.deepcopy(small)
        small_again.model.backbone.requires_grad_(False)
        assert small_again.num_parameters(only_trainable=True) < small.num_parameters()

    def test_every_prompt_reaches_the_answers(self, model):
        """A step of training moves the prompts, and nothing that is frozen."""
        learner = copy.deepcopy(model)
        learner.requires_grad_(False)
        prompts = learner.model.object_queries.weight.requires_grad_(True)
        before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
        output = learner(pixel_values=images(size=(32, 64)).float())
        (output.masks_queries_logits.square().mean() + output.class_queries_logits.square().mean()).backward()
        torch.optim.SGD([prompts], lr=1.0).step()
        changed = {name for name, tensor in learner.state_dict().items() if not torch.equal(tensor, before[name])}
        assert changed == {QUERIES} and prompts.grad.abs().amax(-1).min() > 0


def picture(height=30, width=48, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


PROCESSOR = SeemImageProcessor(size={"shortest_edge": 32})


class TestImageProcessor:
    @pytest.mark.parametrize(
        "kind",
        [
            Image.fromarray,
            lambda array: array,
            lambda array: array.transpose(2, 0, 1),
            torch.from_numpy,
            lambda array: torch.from_numpy(array).permute(2, 0, 1),
        ],
        ids=["PIL", "numpy", "numpy, channels first", "torch", "torch, channels first"],
    )
    def test_kinds_of_images_and_batches(self, kind):
        pictures = [picture(), picture(seed=1)]
        expected = PROCESSOR(pictures, return_tensors="pt")
        assert expected["pixel_values"].shape == (2, 3, 32, 64) and expected["pixel_values"].dtype == torch.float32
        together = PROCESSOR([kind(one) for one in pictures], return_tensors="pt")
        assert together.keys() == expected.keys()
        assert all(torch.equal(together[name], expected[name]) for name in expected)
        alone = [PROCESSOR(kind(one), return_tensors="pt")["pixel_values"] for one in pictures]
        assert torch.equal(torch.cat(alone), expected["pixel_values"])
        arrays = PROCESSOR([kind(one) for one in pictures], return_tensors="np")["pixel_values"]
        assert isinstance(arrays, np.ndarray) and np.array_equal(arrays, expected["pixel_values"].numpy())

    def test_channels_are_told_where_they_cannot_be_seen(self):
        narrow = picture(3, 40)
        told = PROCESSOR(narrow, input_data_format="channels_last", return_tensors="pt")
        assert told["original_sizes"].tolist() == [[3, 40]]
        other = PROCESSOR(narrow.transpose(2, 0, 1), input_data_format="channels_first", return_tensors="pt")
        assert torch.equal(told["pixel_values"], other["pixel_values"])

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
    def test_modes_become_colours(self, mode):
        image = Image.fromarray(picture()).convert("L" if mode == "I;16" else mode)
        if mode == "I;16":
            image = image.convert("I").convert("I;16")
        inputs = PROCESSOR(image, return_tensors="pt")
        assert inputs["pixel_values"].shape == (1, 3, 32, 64)
        expected = PROCESSOR(image.convert("RGB"), return_tensors="pt")
        assert torch.equal(inputs["pixel_values"], expected["pixel_values"])

    def test_arguments_of_a_call_and_of_the_processor_mean_the_same(self):
        settings = {
            "size": {"shortest_edge": 48},
            "size_divisibility": 16,
            "image_mean": [1.0, 2.0, 3.0],
            "image_std": [4.0, 5.0, 6.0],
            "do_rescale": True,
            "rescale_factor": 0.5,
        }
        before = PROCESSOR.to_dict()
        called = PROCESSOR(picture(), return_tensors="pt", **settings)
        assert PROCESSOR.to_dict() == before
        made = SeemImageProcessor(**settings)(picture(), return_tensors="pt")
        assert torch.equal(called["pixel_values"], made["pixel_values"])
        assert not torch.equal(called["pixel_values"], PROCESSOR(picture(), return_tensors="pt")["pixel_values"])

    def test_switches(self):
        plain = PROCESSOR(picture(32, 64), do_resize=False, do_normalize=False, do_pad=False, return_tensors="pt")[
            "pixel_values"
        ]
        assert torch.equal(plain[0], torch.from_numpy(picture(32, 64)).permute(2, 0, 1).float())

    def test_unknown_arguments_are_told(self):
        with pytest.raises(Exception, match="shortest_side"):
            PROCESSOR(picture(), shortest_side=3)

    def test_files(self, tmp_path):
        made = SeemImageProcessor(size={"shortest_edge": 40}, image_mean=[1.0, 2.0, 3.0], ignore_index=7)
        made.save_pretrained(tmp_path)
        again = SeemImageProcessor.from_pretrained(tmp_path)
        assert json.loads(again.to_json_string()) == json.loads(made.to_json_string())
        assert SeemImageProcessor.from_dict(made.to_dict()).to_dict() == made.to_dict()
        assert SeemImageProcessor.from_pretrained(tmp_path, ignore_index=9).ignore_index == 9
        assert copy.deepcopy(made).to_dict() == made.to_dict()
        made.size["shortest_edge"] = 1
        assert SeemImageProcessor().size["shortest_edge"] == 512


class TestPipeline:
    @pytest.fixture(scope="class")
    def segmenter(self, model):
        return pipeline("image-segmentation", model=model, image_processor=PROCESSOR, device="cpu")

    @pytest.mark.parametrize("subtask", ["semantic", "instance", "panoptic"])
    def test_images_of_every_kind(self, segmenter, tmp_path, subtask):
        image = Image.fromarray(picture())
        image.save(tmp_path / "image.png")
        settings = {"subtask": subtask, "threshold": 0.0, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.0}
        expected = segmenter(image, **settings)
        for segment in expected:
            assert set(segment) == {"score", "label", "mask"} and segment["label"] in CLASSES
            assert segment["mask"].size == image.size and segment["mask"].mode == "L"
        for other in (str(tmp_path / "image.png"), [image]):
            found = segmenter(other, **settings)
            found = found[0] if isinstance(other, list) else found
            assert [one["label"] for one in found] == [one["label"] for one in expected]
            assert all(np.array_equal(one["mask"], two["mask"]) for one, two in zip(found, expected, strict=True))
        several = segmenter([image, image.rotate(180)], **settings)
        assert len(several) == 2 and [one["label"] for one in several[0]] == [one["label"] for one in expected]

    @pytest.mark.parametrize("mask_threshold", [0, 1])
    def test_ends_of_thresholds(self, segmenter, mask_threshold):
        found = segmenter(Image.fromarray(picture()), subtask="panoptic", threshold=0, mask_threshold=mask_threshold)
        assert isinstance(found, list)
