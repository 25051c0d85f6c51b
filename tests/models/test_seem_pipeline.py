"""`pipeline("image-segmentation")`, the Auto classes, and processors of saved and converted models."""

import numpy as np
import pytest
import torch
from conftest import SHARED
from official_layout import official_state_dict, tiny_config
from PIL import Image
from prompted_seem import CLASSES, OTHER_CLASSES, small_seem, word_tokenizer
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageSegmentation,
    AutoModelForUniversalSegmentation,
    AutoProcessor,
    pipeline,
)

from ssprompt_hf.data.street_scenes.source import StreetScenes
from ssprompt_hf.models.seem import (
    SeemConfig,
    SeemForUniversalSegmentation,
    SeemImageProcessor,
    SeemModel,
    SeemProcessor,
)
from ssprompt_hf.models.seem.conversion import convert_seem_checkpoint

PHOTO = SHARED / "data" / "photos" / "china.jpg"


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A photograph, or where there is none a drawn street."""
    if PHOTO.is_file():
        return Image.open(PHOTO).convert("RGB").resize((160, 107))
    return Image.fromarray(StreetScenes(num_images=1, size=(107, 160))[0]["image"])


@pytest.fixture(scope="module")
def processor() -> SeemProcessor:
    image_processor = SeemImageProcessor(
        size={"shortest_edge": 64}, thing_class_ids=[0, 2], object_mask_threshold=0.2, overlap_threshold=0.1
    )
    return SeemProcessor(image_processor, word_tokenizer())


@pytest.fixture(scope="module")
def folder(tmp_path_factory, processor):
    """A saved model, with its processor."""
    folder = tmp_path_factory.mktemp("seem")
    small_seem(OTHER_CLASSES, (0, 2)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(folder):
    model = AutoModelForImageSegmentation.from_pretrained(folder)
    return pipeline(
        "image-segmentation", model=model, image_processor=AutoImageProcessor.from_pretrained(folder), device="cpu"
    )


@pytest.mark.parametrize("subtask", ["semantic", "instance", "panoptic", None])
def test_pipeline(segmenter, photo, subtask):
    segments = segmenter(photo, subtask=subtask, threshold=0.2)
    assert segments
    covered = np.zeros(photo.size[::-1], dtype=int)
    for segment in segments:
        assert segment["label"] in OTHER_CLASSES
        assert segment["mask"].size == photo.size and segment["mask"].mode == "L"
        covered += np.asarray(segment["mask"]) > 0
        assert segment["score"] is None if subtask == "semantic" else 0.2 <= segment["score"] <= 1
        if subtask == "instance":
            assert segment["label"] in (OTHER_CLASSES[0], OTHER_CLASSES[2])
    assert covered.max() == 1 and (subtask != "semantic" or covered.min() == 1)


def test_pipeline_of_a_batch(segmenter, photo):
    images = [photo, photo.transpose(Image.Transpose.ROTATE_90)]
    results = segmenter(images, subtask="semantic", batch_size=1)
    assert [result[0]["mask"].size for result in results] == [image.size for image in images]


def test_auto_classes(folder):
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is SeemConfig and config.class_names == OTHER_CLASSES
    model = AutoModelForUniversalSegmentation.from_pretrained(folder)
    assert type(model) is SeemForUniversalSegmentation and model.config.thing_class_ids == [0, 2]
    assert type(AutoModelForUniversalSegmentation.from_config(config)) is SeemForUniversalSegmentation
    assert type(AutoModel.from_pretrained(folder)) is SeemModel
    assert type(AutoImageProcessor.from_pretrained(folder)) is SeemImageProcessor
    assert type(AutoProcessor.from_pretrained(folder)) is SeemProcessor


@torch.no_grad()
def test_processor_and_model_from_a_folder(folder, processor, photo):
    loaded = AutoProcessor.from_pretrained(folder)
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    model = AutoModelForUniversalSegmentation.from_pretrained(folder)
    request = {
        "images": [photo, photo.crop((0, 0, 90, 70))],
        "text": ["the sky", "the car"],
        "input_points": [[[[10, 12]], [[50, 30]]], [[[5, 5]]]],
        "input_boxes": [None, [[20, 10, 60, 50]]],
        "return_tensors": "pt",
    }
    inputs = loaded(**request)
    output = model(**inputs, output_objects=True)
    sizes = [(107, 160), (70, 90)] if photo.size == (160, 107) else [photo.size[::-1], (70, 90)]
    results = {
        "grounding": loaded.post_process_grounding(output),
        "spatial": loaded.post_process_spatial(output),
        "semantic": loaded.post_process_semantic_segmentation(output),
    }
    for index, size in enumerate(sizes):
        assert results["grounding"][index].shape == results["spatial"][index].shape == (2, *size)
        assert results["semantic"][index].shape == size
    assert set(loaded.post_process_panoptic_segmentation(output)[0]) == {"segmentation", "segments_info"}
    again = processor(**request)
    assert all(torch.equal(value, again[name]) for name, value in inputs.items())


def test_processor_of_a_converted_checkpoint(tmp_path, processor, photo):
    torch.save(official_state_dict(tiny_config("v1")), tmp_path / "tiny_v1.pt")
    folder = convert_seem_checkpoint(
        tmp_path / "tiny_v1.pt", output_dir=tmp_path / "model", config=tiny_config("v1"), tokenizer=word_tokenizer()
    )
    loaded = SeemProcessor.from_pretrained(folder)
    assert loaded.image_processor.size_divisibility == 32
    model = AutoModelForUniversalSegmentation.from_pretrained(folder)
    model.set_class_names(CLASSES, loaded)
    inputs = loaded(images=photo, size={"shortest_edge": 64}, return_tensors="pt")
    with torch.no_grad():
        (labels,) = loaded.post_process_semantic_segmentation(model(**inputs))
    assert labels.shape == photo.size[::-1] and labels.max() < len(CLASSES)
    assert type(AutoImageProcessor.from_pretrained(folder)) is SeemImageProcessor
