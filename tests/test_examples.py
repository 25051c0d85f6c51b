"""The notebook and the Space of `examples/`, run as a reader would."""

import importlib.util
import json
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssprompt_hf import SSPromptModel
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.studio import space as space_module

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    """With a quarter of the training steps, as its 200 take half of a minute or more."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "few_shot_segmentation.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    settings = 'output_dir="out/notebook", '
    assert sum(settings in cell for cell in cells) == 1
    cells = [cell.replace(settings, f"{settings}max_steps=50, ") for cell in cells]
    names = {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), names)
    assert names["metrics"]["ssprompt_miou"] > names["metrics"]["zero_shot_miou"] + 20
    assert {segment.name for segment in names["result"].segments} <= set(names["images"].classes.names)
    assert (tmp_path / "out/notebook-peft/adapter/adapter_model.safetensors").is_file()
    assert "trainable params" in capsys.readouterr().out


def test_the_notebook_shows_its_pictures():
    """Where it is read without being run, as on GitHub; from one run, from its first cell to its last."""
    path = EXAMPLES / "few_shot_segmentation.ipynb"
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", ()) for output in outputs) >= 5
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert path.stat().st_size < 1_000_000


@pytest.fixture
def make_space(monkeypatch):
    """The page of the Space, with its settings."""

    def make(**settings):
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        spec = importlib.util.spec_from_file_location("space_app", EXAMPLES / "space" / "app.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.space()

    return make


@pytest.fixture
def photographs(tmp_path):
    """Two to begin with."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def nano_adapter(tmp_path_factory):
    """An adapter that takes the first class for the second."""
    model = SSPromptModel.from_pretrained("seem-nano", class_names=["road", "sky"], is_trainable=True)
    embedding = model.get_base_model().class_embeddings.ssprompt_embedding["default"].data
    embedding.copy_(3 * embedding.flip(0))  # outweighs the default, which has a weight of a half
    folder = tmp_path_factory.mktemp("space") / "adapter"
    model.save_pretrained(folder)
    return folder


def act(space, who="me", **event):
    view = space.act({"who": who, "event": event})
    assert view["error"] == "", view["error"]
    return view


def test_visitors_of_the_space_label_apart_and_leave_nothing(make_space, photographs):
    space = make_space(EXAMPLES=str(photographs))
    view = act(space, do="look")
    assert [image["name"] for image in view["images"]] == ["0.png", "1.png"] and view["can_name"]
    assert {"car", "road"} <= {one["name"] for one in view["classes"]}
    act(space, do="choose", class_id=0)
    act(space, do="click", x=30, y=20)
    act(space, do="phrase", text="car")
    assert act(space, do="predict")["images"][0]["share"] == 100
    other = act(space, "somebody", do="look")
    assert other["images"][0]["share"] == 0 and not other["images"][0]["locked"]
    with zipfile.ZipFile(space.masks("me")) as archive:
        assert {"images/0.png", "annotations/0.png", "classes.json"} <= set(archive.namelist())
    with pytest.raises(SSPromptError, match="nothing is labelled"):
        space.masks("somebody")
    assert sorted(path.name for path in photographs.iterdir()) == ["0.png", "1.png"]


def test_the_space_compares_an_adapter_with_the_base_model(make_space, photographs, nano_adapter):
    space = make_space(EXAMPLES=str(photographs), ADAPTERS=f" {nano_adapter} ,")
    view = act(space, do="look")
    assert [one["name"] for one in view["classes"]] == ["road", "sky"] and not view["can_name"]
    assert "there is not" in space.act({"who": "me", "event": {"do": "add_class", "name": "x"}})["error"]
    before, after = space.compare("me")
    assert not np.array_equal(np.asarray(before), np.asarray(after))
    project = space.visitor("me").session.project
    act(space, do="predict")
    assert project.pixels_of_classes("0.png")
    space.choose("me", space_module.NO_ADAPTER, 0.5)  # other classes, and empty labels
    view = act(space, do="look")
    assert view["can_name"] and view["labelled"] == 0 and not project.folder.exists()
    assert space.visitor("me").session.assistant.threshold == 0.5
    with pytest.raises(SSPromptError, match="choose an adapter"):
        space.compare("me")
    with pytest.raises(SSPromptError, match="no adapter '/etc'"):
        space.choose("me", "/etc", 0)


def test_the_space_shows_drawn_scenes_and_uploads(make_space, photographs):
    space = make_space()
    view = act(space, do="look")
    assert len(view["images"]) == 5
    space.add_images("me", [photographs / "1.png"])
    assert len(act(space, do="look")["images"]) == 6 and len(act(space, "other", do="look")["images"]) == 5
    for number in range(space_module.MAX_VISITORS):
        space.visitor(f"visitor {number}")
    assert len(space._visitors) == space_module.MAX_VISITORS and "me" not in space._visitors


def test_the_space_has_a_page(make_space, photographs):
    pytest.importorskip("gradio", reason="the page needs gradio: pip install -e '.[studio]'")
    space = make_space(EXAMPLES=str(photographs))
    _, address, _ = space.launch(prevent_thread_lock=True, quiet=True, share=False, inbrowser=False)
    try:
        page = urllib.request.urlopen(address, timeout=60)
        assert page.status == 200 and b"Segment with your own classes" in page.read()
    finally:
        space.page.close()
