"""What SAM 2 has and SAM has not: checkpoints of videos, features computed ahead, its images, an object score."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_sam import SIDE, grid_inputs, images, tell_classes_apart
from tiny_sam2 import DECODER, tiny_config, tiny_sam2
from transformers import Sam2VideoConfig, Sam2VideoMaskDecoderConfig, Sam2VideoModel

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.models.sam2 import Sam2ImageProcessorPil
from ssprompt_hf.models.sam2.family import FAMILY
from ssprompt_hf.training.features import weights_digest


def test_checkpoints_of_video_models_are_read(tmp_path):
    """The published files say `sam2_video`."""
    torch.manual_seed(0)
    # transformers 5.18 makes another part's configuration of a dict
    config = tiny_config(Sam2VideoConfig, mask_decoder_config=Sam2VideoMaskDecoderConfig(**DECODER))
    video = Sam2VideoModel(config).eval()
    video.save_pretrained(tmp_path)
    assert FAMILY.info(tmp_path).model_type == "sam2_video"
    model, processor = FAMILY.load(str(tmp_path))
    assert model.config.model_type == "sam2" and processor.size["height"] == SIDE
    weights = video.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    model.set_class_names(["a"])
    assert model(images(1)).class_maps.shape == (1, 16, 16)
    model.save_pretrained(tmp_path / "again")
    assert FAMILY.info(tmp_path / "again").model_type == "sam2"


def test_everything_that_decides_features_is_in_their_key():
    model = tiny_sam2()
    keys = ["vision_encoder.neck.convs.0.weight", "mask_decoder.conv_s0.weight", "mask_decoder.conv_s1.bias"]
    for name in [*keys, "no_memory_embedding"]:
        before = [weights_digest(module) for module in model.feature_modules("features")]
        features = model.image_features(images(1))
        with torch.no_grad():
            model.get_parameter(name).add_(1)
        after = [weights_digest(module) for module in model.feature_modules("features")]
        changed = model.image_features(images(1))
        assert before != after and any(not torch.equal(features[key], changed[key]) for key in features), name
    assert [tuple(features[f"level_{index}"].shape[1:]) for index in range(3)] == model.level_shapes()


def test_the_object_score_is_presence():
    model = tiny_sam2()
    tell_classes_apart(model)
    with torch.no_grad():
        output = model(images(2))
    (prediction,) = model.predictions(output)
    assert torch.equal(prediction.presence_logits, output.object_score_logits)
    confidence = output.iou_scores.clamp(0.01, 1) * output.object_score_logits.sigmoid()
    assert torch.equal(output.class_maps, output.masks_logits.sigmoid() * confidence[:, None, None])


def test_unstable_masks_are_replaced_as_in_transformers():
    """`multimask_output=False` may give the best of the other masks."""
    model = tiny_sam2()
    chosen = []
    for threshold in (0.0, 1.1):
        model.mask_decoder.dynamic_multimask_stability_thresh = threshold
        with torch.no_grad():
            mask = model(images(1)).masks_logits[0]
            inputs = grid_inputs(4, 3, 1)
            three = model(images(1), **inputs, multimask_output=True)
        best = three.pred_masks[0, 0, three.iou_scores[0, 0].argmax()]
        chosen.append(torch.equal(mask, best))
    assert chosen == [False, True]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(30, 50), (64, 64), (200, 120)])
def test_images_are_squared_and_normalised(size, tmp_path):
    processor = Sam2ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    features = processor([picture(*size), Image.fromarray(picture(*size))], return_tensors="pt")
    pixels = torch.from_numpy(picture(*size)).permute(2, 0, 1)[None].float()
    if size != (SIDE, SIDE):
        pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True).round()
    mean, std = (torch.tensor(getattr(processor, name))[:, None, None] for name in ("image_mean", "image_std"))
    expected = (pixels / 255 - mean) / std
    assert (features.pixel_values - expected).abs().max() < 0.02  # a step of 255 is 0.017
    assert torch.equal(features.pixel_values[0], features.pixel_values[1])
    assert features.image_sizes.tolist() == [[SIDE, SIDE]] * 2 and features.original_sizes.tolist() == [list(size)] * 2
    processor.save_pretrained(tmp_path)
    again = Sam2ImageProcessorPil.from_pretrained(tmp_path)
    assert torch.equal(again(picture(*size), return_tensors="pt").pixel_values, features.pixel_values[:1])
    assert again.to_dict()["image_processor_type"] == "Sam2ImageProcessor"


def test_images_are_those_of_transformers():
    try:
        from transformers import Sam2ImageProcessor

        theirs = Sam2ImageProcessor()
    except ImportError as error:
        pytest.skip(f"transformers' processor needs torchvision ({str(error).strip().splitlines()[0]})")
    for size in ((300, 500), (1024, 1024), (1500, 1100)):
        expected = theirs(picture(*size), return_tensors="pt").pixel_values
        assert torch.equal(Sam2ImageProcessorPil()(picture(*size), return_tensors="pt").pixel_values, expected)


def test_other_settings_of_images():
    processor = Sam2ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    raw = processor(picture(SIDE, SIDE), do_normalize=False, do_rescale=False, return_tensors="pt").pixel_values
    assert torch.equal(raw[0], torch.from_numpy(picture(SIDE, SIDE)).permute(2, 0, 1).float())
    half = processor(picture(SIDE, SIDE), do_normalize=False, return_tensors="pt").pixel_values
    torch.testing.assert_close(half, raw / 255)
    plain = Sam2ImageProcessorPil(do_resize=False)
    assert plain(picture(20, 30), return_tensors="pt").pixel_values.shape == (1, 3, 20, 30)
    assert plain.resized_size((20, 30)) == (20, 30)
    floats = processor.resize(np.ones((3, 10, 20), np.float32), processor.size, 2)
    assert floats.shape == (3, SIDE, SIDE) and floats.dtype == np.float32
    with pytest.raises(SSPromptError, match="resample is 1"):
        processor(picture(20, 30), resample=1, return_tensors="pt")
    with pytest.raises(SSPromptError, match="it must have height and width"):
        processor(picture(20, 30), size={"longest_edge": 5}, return_tensors="pt")
