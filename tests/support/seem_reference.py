"""Parts of SEEM with the official random weights, for comparison with the official outputs."""

import json
import sys
from pathlib import Path

import torch
from class_scores import semantic_scores
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, BatchFeature

from ssprompt_hf.models.seem.backbones.build import build_backbone
from ssprompt_hf.models.seem.configuration_seem import SeemConfig
from ssprompt_hf.models.seem.image_processing_seem import SeemImageProcessor
from ssprompt_hf.models.seem.modeling_seem import SeemForUniversalSegmentation
from ssprompt_hf.models.seem.pixel_decoder import build_pixel_decoder
from ssprompt_hf.models.seem.processing_seem import SeemProcessor
from ssprompt_hf.models.seem.weight_mapping import config_from_official, map_official_name, map_official_tensors
from ssprompt_hf.segmentation.tiles import MaskGeometry

PARTS = ("model.backbone.", "model.pixel_decoder.")


def image_encoder(config: SeemConfig) -> nn.ModuleDict:
    backbone = build_backbone(config.backbone_config)
    return nn.ModuleDict(
        {"backbone": backbone, "pixel_decoder": build_pixel_decoder(config, backbone.channels)}
    ).eval()


def mapped_shapes(layout: dict, config: SeemConfig) -> dict[str, tuple[int, ...]]:
    """Our names and shapes of the backbone's and pixel decoder's tensors of an official layout."""
    shapes = {}
    for name, shape in layout.items():
        mapping = map_official_name(name, config)
        shapes.update({ours: mapping.shape(shape) for ours in mapping.names})
    return {name.removeprefix("model."): shape for name, shape in shapes.items() if name.startswith(PARTS)}


def official_state_dict(folder: Path) -> dict[str, torch.Tensor]:
    sys.path.insert(0, str(folder.parent))
    try:
        from random_checkpoint import random_state_dict
    finally:
        sys.path.pop(0)
    spec = json.loads((folder / "spec.json").read_text())
    return random_state_dict(json.loads((folder / "layout.json").read_text()), spec["seed"])


def reference_image_encoder(folder: Path) -> tuple[nn.ModuleDict, SeemConfig]:
    """Backbone and pixel decoder of a reference model, in float64, with its weights."""
    hyperparameters = json.loads((folder / "spec.json").read_text())["hyperparameters"]
    config = config_from_official(hyperparameters)
    model = image_encoder(config)
    tensors = map_official_tensors(official_state_dict(folder).items(), config)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors if name.startswith(PARTS)})
    return model.double(), config


def reference_pixels(folder: Path, name: str = "image_a") -> torch.Tensor:
    """A reference image, normalised and zero-padded, `(1, 3, H, W)`, float64."""
    options = json.loads((folder / "spec.json").read_text())["hyperparameters"]
    image = normalised(load_file(folder / "inputs.safetensors")[name], options)
    multiple = options["size_divisibility"]
    return F.pad(image, (0, -image.shape[-1] % multiple, 0, -image.shape[-2] % multiple))[None]


def normalised(image: torch.Tensor, options: dict) -> torch.Tensor:
    """`(..., 3, H, W)`, 0 to 255, normalised in float64 by float32 constants, as the official code holds them: exact
    ones would differ by more than the tolerance at the end of a large model."""
    mean, std = (torch.tensor(options[key], dtype=torch.float32) for key in ("pixel_mean", "pixel_std"))
    return (image.double() - mean.double()[:, None, None]) / std.double()[:, None, None]


def assert_close_to_largest(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5):
    """Largest difference at most `tolerance` times the largest expected value."""
    difference = error_of_largest(actual, expected)
    assert difference < tolerance, f"differs by {difference:.1e} of the largest value"


def error_of_largest(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest expected value."""
    assert actual.shape == expected.shape
    return ((actual.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


class Reference:
    """A folder of official inputs and outputs, and what this package makes of the inputs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.spec = json.loads((folder / "spec.json").read_text())
        self.info = self.spec.get("info", {})
        self.options = self.spec["hyperparameters"]
        self.inputs = load_file(folder / "inputs.safetensors")
        self.expected = load_file(folder / "expected.safetensors")
        # Full-size models are given one image, and the names of its outputs have no prefix.
        self.image, self.prefix = ("image_a", "a.") if "image_a" in self.inputs else ("image", "")
        self.processor = SeemProcessor(
            SeemImageProcessor(
                do_resize=False,
                image_mean=self.options["pixel_mean"],
                image_std=self.options["pixel_std"],
                size_divisibility=self.options["size_divisibility"],
                object_mask_threshold=self.options["object_mask_threshold"],
                overlap_threshold=self.options["overlap_threshold"],
                thing_class_ids=self.spec.get("thing_ids"),
            ),
            AutoTokenizer.from_pretrained(folder.parent / "tokenizer"),
        )

    def model(self) -> SeemForUniversalSegmentation:
        """With the official weights, float32."""
        official = official_state_dict(self.folder)
        vocabulary = official["sem_seg_head.predictor.lang_encoder.lang_encoder.token_embedding.weight"].shape[0]
        config = config_from_official(self.options, vocab_size=vocabulary)
        model = SeemForUniversalSegmentation(config)
        model.load_state_dict(dict(map_official_tensors(official.items(), config)))
        return model.eval()

    def model_inputs(self, *names: str, dtype: torch.dtype = torch.float64, **arguments) -> BatchFeature:
        """The images `names` through the processor; for float64 models normalised in float64."""
        images = [self.inputs[name] for name in names]
        inputs = self.processor(images=images, return_tensors="pt", **arguments)
        if dtype == torch.float64:
            pixels = self.processor(images=images, do_normalize=False, return_tensors="pt")["pixel_values"]
            pixels = normalised(pixels, self.options)
            for image, (height, width) in zip(pixels, inputs["image_sizes"]):
                image[:, height:], image[:, :, width:] = 0, 0
            inputs["pixel_values"] = pixels
        return inputs

    def labels(self, output) -> torch.Tensor:
        """Semantic result, `(H, W)`."""
        return self.processor.post_process_semantic_segmentation(output, self.target_sizes)[0]

    @property
    def target_sizes(self) -> list | None:
        return [self.spec["target_size"]] if "target_size" in self.spec else None

    @torch.no_grad()
    def segment(self, model, dtype: torch.dtype):
        """The model's output for the (first) image and the given class embeddings."""
        embeddings = self.inputs["class_embeddings"].to(dtype)
        inputs = self.model_inputs(self.image, dtype=dtype)
        return model(**inputs, class_embeddings=embeddings, output_auxiliary_predictions=True)

    @torch.no_grad()
    def compute(self, model, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
        """Our values under the names of the expected ones (and some that were not stored)."""
        results = self._text(model) | self._segmentation(model, dtype)
        if "ab.pred_logits" in self.expected:
            output = model(
                **self.model_inputs("image_a", "image_b", dtype=dtype),
                class_embeddings=self.inputs["class_embeddings"].to(dtype),
            )
            results["ab.pred_logits"] = output.class_queries_logits
            results["ab.pred_masks_sub"] = output.masks_queries_logits[..., ::2, ::2]
        if f"{self.prefix}grounding_phrases" in self.info:
            phrases = self.info[f"{self.prefix}grounding_phrases"]
            output = model(**self.model_inputs(self.image, dtype=dtype, text=phrases))
            (masks,) = self.processor.post_process_grounding(output, binarize=False)
            results[f"{self.prefix}grounding_masks"] = masks
        if "stroke.pos_1" in self.inputs:
            results |= self._strokes(model, dtype)
        return {name: self._strided(name, value) for name, value in results.items()}

    def _strided(self, name: str, value: torch.Tensor) -> torch.Tensor:
        for part, strides in self.spec.get("strides", {}).items():
            if part in name.split("."):
                return value[(slice(None), *(slice(None, None, stride) for stride in strides))]
        return value

    def _text(self, model) -> dict[str, torch.Tensor]:
        results = {}
        if "text.class_ensemble" in self.expected:
            model.set_class_names(self.spec["classes"], self.processor)
            results["text.class_ensemble"] = model.class_embeddings()
        text = model.model.text_model(
            self.inputs["text.input_ids"], self.inputs["text.attention_mask"], truncate=False
        )
        results["text.token_embeddings"], results["text.class_embeddings"] = text.token_embeddings, text.text_embeds
        if not self.prefix:  # full-size models: phrases were stored with unit length
            results["text.class_embeddings"] = F.normalize(text.text_embeds, dim=-1)
        return results

    def _segmentation(self, model, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        results, maps = {}, []
        handle = model.model.backbone.register_forward_hook(lambda *call: maps.extend(call[-1].feature_maps))
        output = self.segment(model, dtype)
        handle.remove()
        results |= {f"backbone.res{stage}": value for stage, value in enumerate(maps, start=2)}
        results["pixel_decoder.mask_features"] = output.image_features.mask_features
        for level, value in enumerate(output.image_features.multi_scale_features):
            results[f"pixel_decoder.multi_scale.{level}"] = value
        results["pred_logits"], results["pred_masks"] = output.class_queries_logits, output.masks_queries_logits
        for index, prediction in enumerate(output.auxiliary_predictions):
            results[f"aux.{index}.pred_logits"] = prediction["class_queries_logits"]
            results[f"aux.{index}.pred_masks"] = prediction["masks_queries_logits"]

        size = tuple(output.image_sizes[0].tolist())
        geometry = MaskGeometry(output.padded_size, size, tuple(self.spec.get("target_size", size)))
        scores = semantic_scores(output.class_queries_logits[0], output.masks_queries_logits[0], geometry)
        best, second = scores.topk(2, dim=0).values
        results["sem_seg_labels"], results["sem_seg_margin"] = self.labels(output), best - second
        results["sem_seg_scores_sub"] = scores[:, ::8, ::8]

        (panoptic,) = self.processor.post_process_panoptic_segmentation(output, target_sizes=self.target_sizes)
        results["panoptic_seg"] = panoptic["segmentation"]
        self.segments = [
            {"id": segment["id"], "isthing": not segment["was_fused"], "category_id": segment["label_id"]}
            for segment in panoptic["segments_info"]
        ]
        (instances,) = self.processor.post_process_instance_segmentation(
            output,
            top_k=self.spec.get("instances_top_k", 100),
            target_sizes=self.target_sizes,
            return_binary_maps=True,
        )
        results["instances.classes"] = torch.tensor([segment["label_id"] for segment in instances["segments_info"]])
        results["instances.scores"] = torch.tensor([segment["score"] for segment in instances["segments_info"]])
        results["instances.mask_areas"] = instances["segmentation"].flatten(1).sum(1)
        return {self.prefix + name: value for name, value in results.items()}

    def _strokes(self, model, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        features = model.get_image_features(self.model_inputs(self.image, dtype=dtype)["pixel_values"])
        first, negative, second = (self.inputs[f"stroke.{name}"][None] for name in ("pos_1", "neg_1", "pos_2"))

        def masks(positive, negative, **arguments):
            return model(
                image_features=features,
                positive_prompt_masks=positive,
                negative_prompt_masks=negative,
                **arguments,
            ).spatial_masks_logits

        results = {"refimg.pos": model.get_spatial_prompts(features, first, negative).mask_embeds}
        results["stroke1.step1_mask"] = masks(first, negative)
        results["stroke1.step2_mask"] = masks(first, negative, previous_masks=results["stroke1.step1_mask"])
        if model.config.decoder_version == "v1":
            both = torch.cat([first, second], dim=1), torch.cat([negative, torch.zeros_like(negative)], dim=1)
            results["stroke2.step1_masks"] = masks(*both)
        return {self.prefix + name: value for name, value in results.items()}
