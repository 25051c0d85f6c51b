"""Overlays, the four-panel picture, the table, and JSON that is written whole or not at all."""

import json

import numpy as np
import pytest
import torch

from ssprompt_hf.data import SegmentationClasses
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.plotting.overlays import colorize, comparison_picture, overlay
from ssprompt_hf.plotting.tables import iou_table
from ssprompt_hf.utils.files import atomic_path, write_json

CLASSES = SegmentationClasses.from_names(["road", "car"], colors=[(100, 0, 0), (0, 100, 0)])


def test_colorize_and_overlay():
    label = np.array([[0, 1, 255]], np.uint8)
    assert colorize(label, CLASSES.colors).tolist() == [[[100, 0, 0], [0, 100, 0], [0, 0, 0]]]
    image = np.full((1, 3, 3), 200, np.uint8)
    mixed = overlay(image, label, CLASSES.colors, alpha=0.5)
    assert mixed.tolist() == [[[150, 100, 100], [100, 150, 100], [200, 200, 200]]]
    assert (overlay(image, label.astype(np.int64) - 1, CLASSES.colors, 1.0)[0, 0] == 200).all()
    with pytest.raises(SSPromptError, match="resize"):
        overlay(image, label[:, :2], CLASSES.colors)


def test_comparison_picture():
    image = np.full((40, 60, 3), 200, np.uint8)
    label = np.zeros((40, 60), np.uint8)
    picture = comparison_picture(image, CLASSES, label, label, label, panel_width=120)
    assert picture.mode == "RGB" and picture.width == 2 * 120 + 3 * 6 and picture.height > 2 * 80
    colors = {color for _, color in picture.getcolors(100000)}
    assert (200, 200, 200) in colors and (140, 80, 80) in colors
    assert (100, 0, 0) in colors and (0, 100, 0) not in colors  # the legend shows what occurs
    alone = comparison_picture(image, CLASSES, panel_width=120)
    assert alone.width == 120 + 2 * 6


def test_table():
    before = {
        "per_class_iou": {"road": 0.5, "car": float("nan")},
        "mean_iou": 0.5,
        "pixel_accuracy": 0.6,
        "mean_accuracy": 0.7,
    }
    after = before | {"per_class_iou": {"road": 0.755, "car": 0.25}, "mean_iou": 0.4}
    lines = iou_table(after, before).splitlines()
    assert lines[0].split() == ["IoU,", "%", "zero-shot", "SSPrompt", "gain"]
    assert lines[2].split() == ["road", "50.0", "75.5", "+25.5"]
    assert lines[3].split() == ["car", "-", "25.0", "-"]
    assert lines[5].split() == ["mean", "IoU", "50.0", "40.0", "-10.0"]
    assert len({len(line) for line in lines}) == 1
    assert len(iou_table(after).splitlines()[2].split()) == 2
    with pytest.raises(SSPromptError, match="by name"):
        iou_table(before | {"per_class_iou": [0.5, 0.5]})
    with pytest.raises(SSPromptError, match="different"):
        iou_table(after, before | {"per_class_iou": {"road": 0.5}})


def test_json_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "new" / "metrics.json"
    write_json(file, {"a": float("nan"), "b": np.float32(0.5), "c": torch.arange(2), 1: (np.inf, "ä")})
    assert json.loads(file.read_text(encoding="utf-8")) == {"a": None, "b": 0.5, "c": [0, 1], "1": [None, "ä"]}
    content = file.read_bytes()
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    with pytest.raises(RuntimeError), atomic_path(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert file.read_bytes() == content and [path.name for path in file.parent.iterdir()] == ["metrics.json"]
    assert file.stat().st_mode & 0o777 == (tmp_path / "new").stat().st_mode & 0o666
