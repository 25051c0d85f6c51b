"""Explanations of adapters whose prompts were moved by hand, so that what they must say is known."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import save_tiny_base

from ssprompt_hf.cli.main import main
from ssprompt_hf.data.street_scenes.classes import STREET_CLASSES, STREET_THINGS
from ssprompt_hf.explain.findings import (
    class_changes,
    example_images,
    largest_confusions,
    serving_prompts,
    worst_images,
)
from ssprompt_hf.explain.observation import STATES, Observations, serve
from ssprompt_hf.explain.prompts import read_prompts
from ssprompt_hf.explain.vocabulary import built_in_words, distinct_words, nearest_words
from ssprompt_hf.model import SSPromptModel
from ssprompt_hf.plotting.charts import BLUE, ORANGE, bar_chart, moved_points, table_chart
from ssprompt_hf.segmentation.predictions import QueryPrediction
from ssprompt_hf.segmentation.tiles import MaskGeometry
from ssprompt_hf.tuners import CoOpConfig, LOCNConfig, SSPromptConfig, VSPLConfig
from ssprompt_hf.tuners.text.model import load_tokenizer

SCENES = ["--dataset_options", '{"num_images": 3, "size": [32, 64]}', "--use_cpu"]
DATA = {"class_names": list(STREET_CLASSES), "thing_class_ids": list(STREET_THINGS), "dataset": "street-scenes/fog"}
ROAD, SKY, PERSON = (STREET_CLASSES.index(name) for name in ("road", "sky", "person"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("base"))


def new_adapter(base, config):
    """An untrained adapter for the street scenes."""
    torch.manual_seed(0)
    return SSPromptModel.from_pretrained(
        base,
        config=config,
        class_names=config.class_names,
        thing_class_ids=config.thing_class_ids,
        keep_prompt_encoders=True,
        is_trainable=True,
    )


@pytest.fixture(scope="module")
def moved(base, tmp_path_factory):
    """Road and sky have changed places, "person" has become a word that no list holds, query 2 is twice as long."""
    model = new_adapter(base, SSPromptConfig(weight_range="free", shots=16, **DATA))
    seem = model.get_base_model()
    semantic, spatial = seem.class_embeddings, seem.model.object_queries
    word = seem.get_text_model().encode_class_names(
        ["quixotic"], load_tokenizer(base), templates=seem.config.prompt_templates
    )
    with torch.no_grad():
        embedding, default = semantic.ssprompt_embedding["default"], semantic.ssprompt_default["default"]
        embedding[ROAD], embedding[SKY], embedding[PERSON] = default[SKY], default[ROAD], word[0]
        semantic.ssprompt_weight["default"][[ROAD, SKY, PERSON]] = 0.0
        spatial.ssprompt_embedding["default"][2] = 2 * spatial.base_prompt[2]
        spatial.ssprompt_weight["default"][2] = 0.25
    folder = tmp_path_factory.mktemp("moved") / "adapter"
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def explained(moved, tmp_path_factory):
    """The folder that the command wrote, and what it printed."""
    output = tmp_path_factory.mktemp("explained")
    words = output / "words.txt"
    words.write_text("quixotic\n\nSky\n")
    options = ["--words", str(words), "--examples", "2", "--output_dir", str(output)]
    assert main(["explain", moved, *SCENES, *options]) == 0
    return output


def read(folder):
    return json.loads((folder / "explain.json").read_text())


def test_weights_and_movement(explained):
    explanation = read(explained)
    assert explanation["method"] == "SSPrompt" and explanation["parameters"] == 6 * 32 + 6 + 11 * 32 + 11
    semantic, spatial = (explanation["prompts"][kind] for kind in ("semantic", "spatial"))
    assert [semantic["weights"][i] for i in (ROAD, SKY, PERSON)] == [0, 0, 0]
    assert sum(semantic["weights"]) == 8 * 0.5 and spatial["weights"] == [0.5, 0.5, 0.25, 0.5, 0.5, 0.5]
    still = [i for i in range(11) if i not in (ROAD, SKY, PERSON)]
    assert all(semantic["movement"][i] == 0 and abs(semantic["cosine"][i] - 1) < 1e-6 for i in still)
    assert semantic["movement"][ROAD] == pytest.approx(semantic["movement"][SKY], rel=1e-5)
    # unit vectors: the distance follows from the cosine
    assert semantic["movement"][ROAD] == pytest.approx((2 - 2 * semantic["cosine"][ROAD]) ** 0.5, rel=1e-4)
    assert spatial["movement"] == pytest.approx([0, 0, 0.75, 0, 0, 0], abs=1e-6)
    assert spatial["cosine"] == pytest.approx([1] * 6, abs=1e-6)


def test_words(explained):
    words = read(explained)["words"]
    near = {name: (words["before"][i][0], words["after"][i][0]) for i, name in enumerate(STREET_CLASSES)}
    assert near["road"] == (["road", 1.0], ["sky", 1.0]) and near["sky"] == (["sky", 1.0], ["road", 1.0])
    assert near["person"] == (["person", 1.0], ["quixotic", 1.0])
    assert near["car"] == (["car", 1.0], ["car", 1.0])
    assert words["vocabulary"] == len(distinct_words(STREET_CLASSES, built_in_words())) + 1


def test_nearest_and_distinct_words():
    assert distinct_words(["Road", "traffic_light"], ["road", "traffic light", "tree-merged", "tree"]) == [
        "Road",
        "traffic_light",
        "tree-merged",
    ]
    near = nearest_words(["a", "b"], torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 4.0]]))
    assert near == [[["b", 0.8], ["a", 0.6]]]


def test_report_ties_it_together(explained):
    report = (explained / "report.md").read_text()
    for text in ("trained on: street-scenes/fog, 16 shots", "| road | road 1.00", "query 2 | 75.0 % | 1.00 | 0.25"):
        assert text in report
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", report)
    assert {"weights.png", "movement.png", "serving.png", "worst-1.png", "worst-2.png"} <= set(pictures)
    assert all((explained / picture).is_file() for picture in pictures)
    assert "What needs images" not in report


def test_scores_are_those_of_evaluate(explained, moved, tmp_path):
    options = ["--adapter", moved, "--dataset", "street-scenes/fog", *SCENES, "--output_dir", str(tmp_path)]
    assert main(["evaluate", *options, "--disable_tqdm", "True"]) == 0
    expected = json.loads((tmp_path / "metrics.json").read_text())["scores"]
    scores = read(explained)["scores"]
    for state in STATES:
        assert 100 * scores[state]["mean_iou"] == pytest.approx(expected[state]["mean_iou"], abs=1e-3)


def test_serving_follows_the_classes(base, tmp_path):
    """Where two classes only change places, so do the prompts that serve them."""
    model = new_adapter(base, SSPromptConfig(spatial_embedding=False, spatial_weight=False, **DATA))
    layer = model.get_base_model().class_embeddings
    names, quick = list(STREET_CLASSES), [*SCENES, "--examples", "0"]
    model.save_pretrained(tmp_path / "same")
    assert main(["explain", str(tmp_path / "same"), *quick, "--output_dir", str(tmp_path / "first")]) == 0
    first = read(tmp_path / "first")
    assert first["serving"]["zero_shot"] == first["serving"]["adapted"] and not first["prompts"]["semantic"]["learned"]
    given = [name for name in names if first["serving"]["zero_shot"][name]]
    one, other = given[0], next(name for name in names if name != given[0])
    i, j = names.index(one), names.index(other)
    with torch.no_grad():
        default = layer.ssprompt_default["default"]
        layer.ssprompt_embedding["default"][[i, j]] = default[[j, i]]
        layer.ssprompt_weight["default"].fill_(-40.0)  # w = sigmoid, as good as 0
    model.save_pretrained(tmp_path / "swapped")
    assert main(["explain", str(tmp_path / "swapped"), *quick, "--output_dir", str(tmp_path / "second")]) == 0
    second = read(tmp_path / "second")
    before, after = (second["serving"][state] for state in STATES)
    assert before == first["serving"]["zero_shot"]

    def shares(served):
        return [(x["prompt"], round(x["share"], 4)) for x in served]

    assert shares(after[other]) == shares(before[one]) and shares(after[one]) == shares(before[other])
    assert "SemPrompt leaves the spatial prompts as they are." in (tmp_path / "second" / "report.md").read_text()
    rows = (tmp_path / "second" / "serving.csv").read_text().splitlines()
    assert rows[0].split(",") == ["state", "prompt", *names] and len(rows) == 1 + 2 * 6


def test_serve():
    class_logits = torch.tensor([[20.0, 0.0, 0.0], [0.0, 20.0, 0.0], [0.0, 0.0, 20.0]])
    mask_logits = torch.full((3, 4, 4), -20.0)
    mask_logits[0, :, :2] = mask_logits[1, :, 2:] = mask_logits[2] = 20.0  # the last one says "no object"
    class_map = torch.tensor([0, 0, 1, 1]).expand(4, 4).contiguous()
    label = class_map.clone()
    label[0], label[1, 0] = 255, 1
    prediction = QueryPrediction(class_logits[None], mask_logits[None], (4, 4))
    served = serve(prediction, MaskGeometry((4, 4), (4, 4), (4, 4)), class_map, label)
    np.testing.assert_allclose(served.mass, [[6, 0], [0, 6], [0, 0]], atol=1e-4)
    np.testing.assert_allclose(served.correct, [[5, 0], [0, 6], [0, 0]], atol=1e-4)
    assert served.wins.tolist() == [[6, 0], [0, 6], [0, 0]]
    np.testing.assert_allclose(served.class_shares()[:2], np.eye(2), atol=1e-4)
    best = serving_prompts(served, ["a", "b"])["a"]
    assert len(best) == 1 and best[0]["prompt"] == 0 and best[0]["correct"] == pytest.approx(5 / 6, abs=1e-4)
    both = served + served
    assert both.wins.sum() == 24 and both.mass[0, 0] == pytest.approx(12, abs=1e-3)


def test_findings():
    names = ["a", "b", "c"]
    confusions = {
        "zero_shot": np.array([[10, 0, 0, 0], [0, 2, 8, 0], [0, 0, 10, 0]]),
        "adapted": np.array([[6, 4, 0, 0], [0, 10, 0, 0], [0, 0, 10, 0]]),
    }
    largest = largest_confusions(confusions, names)
    assert largest == [{"truth": "a", "predicted": "b", "zero_shot": 0.0, "adapted": 0.4, "pixels": 4 / 30}]
    assert largest_confusions(confusions, names, "zero_shot")[0]["predicted"] == "c"
    scores = {
        "zero_shot": {"per_class_iou": {"a": 1.0, "b": 0.2, "c": float("nan")}},
        "adapted": {"per_class_iou": {"a": 0.6, "b": 0.7, "c": 0.5}},
    }
    changes = class_changes(scores)
    assert [(change["class"], round(change["gain"], 3)) for change in changes] == [("b", 0.5), ("a", -0.4)]
    images = {state: np.zeros((2, 3, 3), np.int64) for state in STATES}
    images["zero_shot"][:, 0] = images["adapted"][0, 0] = 10  # "a" is right, but for the second image with the adapter
    images["adapted"][1, 0] = [6, 10, 6]
    images["zero_shot"][0, 1], images["adapted"][0, 1] = [2, 10, 2], [10, 10, 10]
    seen = Observations(confusions, images, {})
    assert [(e["class"], e["kind"], e["image"]) for e in example_images(seen, changes, names, 3)] == [
        ("b", "gained", 0),
        ("a", "lost", 1),
    ]
    assert worst_images(seen, 1) == [{"image": 1, "zero_shot": 1.0, "adapted": 0.6}]


@pytest.mark.parametrize(
    ("config", "notes"),
    [
        (CoOpConfig(num_context_tokens=2, init_std=0.5, **DATA), "CoOp learns words in front of the text encoder"),
        (LOCNConfig(**DATA), "LOCN learns words"),
        (VSPLConfig(point_grid_size=2, **DATA), "VSPL learns positions in the image"),
        (SSPromptConfig(semantic_embedding=False, semantic_weight=False, **DATA), "SpaPrompt leaves the semantic"),
        (
            SSPromptConfig(spatial_source="point_grid", point_grid_size=2, init_embeddings="noise", **DATA),
            "tokens of a regular grid of points",
        ),
        (SSPromptConfig(class_masks=True, **DATA), "Its share of the class's score: road 0.46, "),
        (
            SSPromptConfig(semantic_weight=False, deep_prompts="last", prompts_per_class=2, **DATA),
            "The semantic weights are not learned: w is 0.5",
        ),
    ],
    ids=["coop", "locn", "vspl", "spaprompt", "point grid", "class masks", "no weights"],
)
def test_every_method(base, tmp_path, config, notes):
    model = new_adapter(base, config)
    if getattr(config, "spatial_source", "") == "point_grid":
        model.base_model.set_point_tokens(torch.randn(3, 4, 32))
    if getattr(config, "class_masks", False):
        torch.nn.init.constant_(model.get_base_model().class_masks.ssprompt_share["default"], 0.5)
    model.save_pretrained(tmp_path / "adapter")
    options = ["--examples", "1", "--output_dir", str(tmp_path)]
    assert main(["explain", str(tmp_path / "adapter"), *SCENES, *options]) == 0
    report, explanation = (tmp_path / "report.md").read_text(), read(tmp_path)
    assert notes in report and "Where it fails" in report
    assert ("Each class has 2 prompts" in report) == (getattr(config, "prompts_per_class", 1) > 1)
    assert ("Deep prompts are added to" in report) == (getattr(config, "deep_prompts", "none") != "none")
    assert all((tmp_path / name).is_file() for name in explanation["pictures"].values())
    if config.method_name in ("VSPL", "SSPrompt") and hasattr(config, "point_grid_size"):
        on_points = config.method_name == "VSPL" or config.spatial_source == "point_grid"
        assert explanation["prompt_names"]["adapted"][0] == ("point 0" if on_points else "query 0")
        assert explanation["prompt_names"]["zero_shot"][0] == "query 0"


def test_moved_points_of_vspl(base):
    model = new_adapter(base, VSPLConfig(point_grid_size=2, **DATA))
    with torch.no_grad():
        model.get_base_model().model.point_coordinates.vspl_logits["default"][0] = torch.logit(
            torch.tensor([0.55, 0.65])
        )
    spatial = read_prompts(model)["spatial"]
    assert spatial.movement().tolist() == pytest.approx([0.5, 0, 0, 0], abs=1e-6) and spatial.cosines() is None


def test_without_data(moved, tmp_path, capsys):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for path in Path(moved).iterdir():
        text = path.read_bytes().replace(b'"dataset": "street-scenes/fog"', b'"dataset": "my-photos"')
        (adapter / path.name).write_bytes(text)
    assert main(["explain", str(adapter), "--use_cpu", "--output_dir", str(tmp_path / "out")]) == 0
    assert "my-photos, does not come with this package; add --dataset" in capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text()
    assert "What needs images" in report and "--data_dir DIR" in report and "sky 1.00" in report
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "explain.json",
        "movement.png",
        "report.md",
        "weights.png",
    ]


def test_a_base_without_text_encoder(base, tmp_path):
    config = SSPromptConfig(**DATA)
    model = new_adapter(base, config)
    seem = model.get_base_model()
    model.save_pretrained(tmp_path / "adapter")
    lean = model.unload()
    lean.drop_text_encoder()
    lean.save_pretrained(tmp_path / "lean")
    assert seem is lean
    options = ["--base_model", str(tmp_path / "lean"), "--examples", "0", "--output_dir", str(tmp_path / "out")]
    assert main(["explain", str(tmp_path / "adapter"), *SCENES, *options]) == 0
    assert "has no text encoder" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "street-scenes/fog/custom"], "was made for the classes road"),
        (["--dataset", "street-scenes/hail"], "hail"),
        (["--data_dir", "/nowhere"], "/nowhere: no such folder"),
        (["--words", "/nowhere.txt"], "--words '/nowhere.txt' cannot be read"),
        (["--examples", "-1"], "--examples is -1"),
    ],
)
def test_mistakes(moved, options, message, tmp_path, capsys):
    size = [] if "--data_dir" in options else SCENES
    assert main(["explain", moved, *size, *options, "--output_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("ssprompt-hf explain: error:") and message in error
    assert not list(tmp_path.iterdir())


def test_missing_adapter(capsys, tmp_path):
    assert main(["explain", "/nowhere", "--output_dir", str(tmp_path)]) == 2
    assert "/nowhere" in capsys.readouterr().err


def test_charts():
    chart = bar_chart("title", ["a", "b"], [0.5, float("nan")], groups=[1, 0], group_names=("x", "y"), mark=0.5)
    colors = {color for _, color in chart.getcolors(100000)}
    assert BLUE in colors and ORANGE in colors
    table = table_chart("title", ["a", "b"], ["q"], np.array([[1.0, 0.0]]))
    assert BLUE in {color for _, color in table.getcolors(100000)}
    assert moved_points("title", np.zeros((1, 2)), np.ones((1, 2)), size=(30, 40)).size == (60, 70)
