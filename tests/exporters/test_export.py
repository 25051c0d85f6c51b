"""Merged models as files: `torch.export`, and ONNX where its packages are installed."""

import json
import logging
import runpy
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from prompted_seem import CLASSES, set_classes, small_seem
from tiny_families import move
from tiny_families.clipseg import TINY as CLIPSEG
from tiny_families.sam import TINY as SAM
from tiny_families.toy import TINY as TOY
from torch.nn.functional import scaled_dot_product_attention
from transformers import ResNetConfig

from ssprompt_hf import SSPromptConfig, SSPromptModel
from ssprompt_hf.cli.main import main
from ssprompt_hf.errors import ExportError
from ssprompt_hf.exporters import export_model
from ssprompt_hf.exporters.export import _check_any_size, _program
from ssprompt_hf.exporters.merged_model import MergedModel
from ssprompt_hf.models.seem.image_processing_seem import SeemImageProcessor

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_onnx.py"
BACKBONE = ResNetConfig(
    embedding_size=16,
    hidden_sizes=[16, 32, 64, 128],
    depths=[1] * 4,
    layer_type="basic",
    out_features=["stage1", "stage2", "stage3", "stage4"],
)


@pytest.fixture(autouse=True, scope="module")
def no_traces():
    """What PyTorch would tell the log of a test about every expression takes most of the time."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A small SEEM and an adapter that has learned something, in folders."""
    folder = tmp_path_factory.mktemp("export")
    base = small_seem(backbone_config=BACKBONE, decoder_layers=1)
    base.save_pretrained(folder / "base")
    SeemImageProcessor(size={"shortest_edge": 64, "longest_edge": 256}).save_pretrained(folder / "base")
    model = SSPromptModel.from_pretrained(folder / "base", config=SSPromptConfig(class_masks=True), is_trainable=True)
    move(model).save_pretrained(folder / "adapter")
    return folder / "adapter"


@pytest.fixture(scope="module")
def model(adapter):
    return SSPromptModel.from_pretrained(adapter=adapter)


def photograph(height: int, width: int) -> np.ndarray:
    """`(H, W, 3)` of uint8, with structure."""
    rows, columns = np.mgrid[:height, :width]
    channels = [np.sin(rows / 9 + columns / 17), np.cos(columns / 5), np.sin(rows * columns / 400)]
    return (127.5 * (1 + np.stack(channels, -1))).astype(np.uint8)


@torch.no_grad()
def scores(model: SSPromptModel, pixel_values: torch.Tensor) -> torch.Tensor:
    """Of the merged model, for images that are as large as it wants them."""
    given = {"do_resize": False, "return_tensors": "pt"}
    inputs = [model.image_processor(pixels.byte().numpy(), **given) for pixels in pixel_values]
    prediction = model.get_base_model().predict_pixels(
        torch.cat([one["pixel_values"] for one in inputs]), torch.cat([one["image_sizes"] for one in inputs])
    )
    height, width = pixel_values.shape[-2:]
    return prediction.class_scores(prediction.padded_size)[..., :height, :width]


ANY_SIZE = ((1, 64, 96), (3, 70, 64), (2, 64, 129))


def check(run, model: SSPromptModel, sizes=ANY_SIZE) -> None:
    """`run` maps pixel values to class scores as the merged model does, for (images, height, width)."""
    for count, height, width in sizes:
        pixels = np.stack([np.roll(photograph(height, width), index * 7, axis=1) for index in range(count)])
        pixel_values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        wanted, found = scores(model, pixel_values), run(pixel_values)
        torch.testing.assert_close(torch.as_tensor(found), wanted, atol=1e-4, rtol=0)
        assert (found.argmax(1) == wanted.argmax(1)).float().mean() > 0.999
        assert wanted.max() - wanted.min() > 0.05


def test_torch_export(adapter, model, tmp_path, capsys):
    before = scores(model, torch.from_numpy(photograph(64, 64)).permute(2, 0, 1)[None].float())
    path = tmp_path / "model.pt2"
    options = ["--format", "torch_export", "--size", "64", "90", "--output", str(path)]
    assert main(["export", str(adapter), *options]) == 0
    assert "RGB images of 64 x 90 pixels" in capsys.readouterr().out
    extra = {"ssprompt.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    check(lambda pixel_values: program(pixel_values).detach(), model, [(1, 64, 90)])
    metadata = json.loads(extra["ssprompt.json"])
    assert not metadata["image_size"] and not metadata["max_image_size"]
    assert json.loads(metadata["class_names"]) == CLASSES and json.loads(metadata["class_ids"]) == [0, 1, 2]
    assert metadata["output"] == "class_scores" and json.loads(metadata["size"]) == [64, 90]
    assert torch.equal(before, scores(model, torch.from_numpy(photograph(64, 64)).permute(2, 0, 1)[None].float()))


@pytest.fixture
def enlarging(model, monkeypatch):
    """The model with an image processor that enlarges what it has enlarged once more."""
    settings = model.image_processor.to_dict() | {"max_shortest_edge": 200, "enlargement": 1.2}
    monkeypatch.setattr(model, "image_processor", SeemImageProcessor(**settings))
    return model


def test_one_program_takes_any_number_of_images_of_any_size(enlarging, tmp_path):
    metadata = export_model(enlarging, tmp_path / "model.pt2", "torch_export")
    assert [json.loads(metadata[name]) for name in ("image_size", "max_image_size", "enlargement")] == [64, 200, 1.2]
    program = torch.export.load(tmp_path / "model.pt2").module()
    check(lambda pixel_values: program(pixel_values).detach(), enlarging)


def test_a_size_between_the_least_and_the_largest(enlarging, tmp_path):
    with pytest.raises(ExportError, match="210x300 pixels is resized by the model: give the size 200 285"):
        export_model(enlarging, tmp_path / "model", "torch_export", size=(210, 300))
    export_model(enlarging, tmp_path / "model.pt2", "torch_export", size=(96, 110))
    program = torch.export.load(tmp_path / "model.pt2").module()
    check(lambda pixel_values: program(pixel_values).detach(), enlarging, [(1, 96, 110)])


def test_the_active_adapter_is_exported_whatever_a_thread_sees(tmp_path):
    model = SSPromptModel(small_seem(backbone_config=BACKBONE, decoder_layers=1), SSPromptConfig(), "active").eval()
    model.image_processor = SeemImageProcessor(size={"shortest_edge": 64, "longest_edge": 256})
    set_classes(model.get_base_model(), ["one", "other"], [])
    model.add_adapter("seen", SSPromptConfig())
    model.set_adapter("active")
    with model.base_model.use_adapter("seen"):
        metadata = export_model(model, tmp_path / "model.pt2", "torch_export", size=(64, 64))
    program = torch.export.load(tmp_path / "model.pt2").module()
    assert json.loads(metadata["class_names"]) == CLASSES
    assert program(torch.zeros(1, 3, 64, 64)).shape[1] == len(CLASSES)


class AttentionAmongChannels(torch.nn.Module):
    """Its scale is a number of Python that depends on the size, as in DaViT."""

    model, returns_map = torch.nn.Identity(), False

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        channels = pixel_values.flatten(2)
        scale = channels.shape[-1] ** -0.5
        return scaled_dot_product_attention(channels, channels, channels, scale=scale).view_as(pixel_values)


def test_a_program_that_holds_the_size_of_its_first_image_is_refused():
    module = AttentionAmongChannels()
    program = _program(module, None)
    with pytest.raises(ExportError, match="Identity is written for images of one size only: give the size"):
        _check_any_size(program, module)


@pytest.mark.parametrize(
    ("returns_map", "pixels", "is_refused"), [(True, 1, False), (True, 999, True), (False, 1, True)]
)
def test_a_class_map_may_differ_where_two_classes_are_equal_but_for_rounding(returns_map, pixels, is_refused):
    module = torch.nn.Module()
    module.model, module.returns_map = torch.nn.Identity(), returns_map
    module.forward = lambda pixel_values: pixel_values[:, 0].long()

    def exported(pixel_values):
        found = module(pixel_values)
        found.view(-1)[:pixels] += 1
        return found

    with pytest.raises(ExportError, match="one size only") if is_refused else nullcontext():
        _check_any_size(SimpleNamespace(module=lambda: exported), module)


def test_onnx(enlarging, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="ONNX needs the extra 'export'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX needs the extra 'export'")
    path = tmp_path / "model.onnx"
    model = enlarging
    export_model(model, path)
    session = onnxruntime.InferenceSession(path)
    check(lambda pixel_values: torch.from_numpy(session.run(None, {"pixel_values": pixel_values.numpy()})[0]), model)
    # the example, on a photograph
    Image.fromarray(photograph(60, 120)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run_onnx.py", str(path), "image.png"])
    runpy.run_path(str(EXAMPLE))
    sized = Image.fromarray(photograph(60, 120)).resize((144, 72), Image.Resampling.BICUBIC)
    wanted = Image.fromarray(model.predict(sized, image_size=72).class_map).resize((120, 60), Image.Resampling.NEAREST)
    assert (np.asarray(Image.open("class_map.png")) == np.asarray(wanted)).mean() > 0.999


def test_a_model_of_another_family_takes_images_of_its_one_size(tmp_path):
    base = CLIPSEG.model()
    model = SSPromptModel(base, SSPromptConfig(), image_processor=CLIPSEG.image_processor(base)).eval()
    metadata = export_model(model, tmp_path / "model.pt2", "torch_export", "class_map")
    size = json.loads(metadata["size"])
    pixel_values = torch.from_numpy(photograph(*size)).permute(2, 0, 1)[None].float()
    found = torch.export.load(tmp_path / "model.pt2").module()(pixel_values)
    wanted = model.predict(photograph(*size)).class_map
    assert not metadata["image_size"] and (found[0].numpy() == wanted).mean() > 0.999


def test_what_cannot_be_exported_is_told(model, tmp_path):
    with pytest.raises(ExportError, match="format is 'tflite'; it must be 'onnx' or 'torch_export'"):
        export_model(model, tmp_path / "model", "tflite")
    with pytest.raises(ExportError, match="output is 'boxes'"):
        export_model(model, tmp_path / "model", "torch_export", "boxes")
    with pytest.raises(ExportError, match="100x100 pixels is resized by the model: give the size 64 64"):
        export_model(model, tmp_path / "model", "torch_export", size=(100, 100))
    for tiny, message in ((SAM, "depends on the size of the image: give the size"), (TOY, "does more than to resize")):
        base = tiny.model()
        other = SSPromptModel(base, SSPromptConfig(), image_processor=tiny.image_processor(base)).eval()
        with pytest.raises(ExportError, match=message):
            export_model(other, tmp_path / "model", "torch_export")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_told(model, tmp_path, monkeypatch):
    monkeypatch.setattr("ssprompt_hf.exporters.export._is_installed", lambda name: name != "onnxscript")
    with pytest.raises(ExportError, match=r"onnxscript cannot be found: pip install 'ssprompt-hf\[export\]'"):
        export_model(model, tmp_path / "model.onnx")


def test_what_a_program_cannot_hold_is_told(model, tmp_path, monkeypatch):
    """As SAM 3, whose shapes depend on values."""

    def forward(self, pixel_values):
        return pixel_values[:, 0] if pixel_values.sum() > 0 else pixel_values[:, 1]

    monkeypatch.setattr(MergedModel, "forward", forward)
    with pytest.raises(ExportError, match="SeemForUniversalSegmentation cannot be written as torch_export: "):
        export_model(model, tmp_path / "model.pt2", "torch_export")
    assert not list(tmp_path.iterdir())
