"""The notebook and the Space of `examples/`, run as a reader would."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssprompt_hf import SSPromptModel
from ssprompt_hf.errors import SSPromptError

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "few_shot_segmentation.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names = {"__name__": "notebook"}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), names)
    assert names["metrics"]["ssprompt_miou"] > names["metrics"]["zero_shot_miou"] + 20
    assert {segment.name for segment in names["result"].segments} <= set(names["images"].classes.names)
    assert (tmp_path / "out/notebook-peft/adapter/adapter_model.safetensors").is_file()
    assert "trainable params" in capsys.readouterr().out


@pytest.fixture
def space(monkeypatch):
    spec = importlib.util.spec_from_file_location("space_app", EXAMPLES / "space" / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)


def test_the_space_segments_by_class_names(space, image):
    (result,) = space.segment(image, space.BY_NAME, "road, sky , ", "semantic")
    assert result.class_names == ["road", "sky"]
    shown, masks = space.annotations(result)
    assert np.array_equal(shown, image)
    assert sum(mask.sum() for mask, _ in masks) == image[..., 0].size  # every pixel belongs to one class
    assert {name for _, name in masks} <= set(space.colors(result))


def test_the_space_compares_an_adapter_with_the_base_model(space, image, nano_adapter, monkeypatch):
    monkeypatch.setenv("ADAPTERS", f" {nano_adapter} ,")
    assert space.adapters() == [str(nano_adapter)]
    zero_shot, adapted = space.segment(image, str(nano_adapter), "", "semantic")
    assert zero_shot.class_names == adapted.class_names == ["road", "sky"]
    assert not np.array_equal(zero_shot.class_map, adapted.class_map)
    # the model is left with its adapter
    assert np.array_equal(space.segment(image, str(nano_adapter), "", "semantic")[1].class_map, adapted.class_map)


@pytest.fixture(scope="module")
def nano_adapter(tmp_path_factory):
    """An adapter that takes the first class for the second."""
    model = SSPromptModel.from_pretrained("seem-nano", class_names=["road", "sky"], is_trainable=True)
    embedding = model.get_base_model().class_embeddings.ssprompt_embedding["default"].data
    embedding.copy_(3 * embedding.flip(0))  # outweighs the default, which has a weight of a half
    folder = tmp_path_factory.mktemp("space") / "adapter"
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("image", "names", "words"), [(None, "road", "upload"), ("image", " , ", "class names")])
def test_the_space_says_what_is_missing(space, image, names, words, request):
    image = None if image is None else request.getfixturevalue(image)
    with pytest.raises(SSPromptError, match=words):
        space.segment(image, space.BY_NAME, names, "semantic")


def test_the_page_answers(space, image, tmp_path):
    pytest.importorskip("gradio", reason="the page needs gradio, which is installed on the Space's machine only")
    client = pytest.importorskip("gradio_client")
    Image.fromarray(image).save(tmp_path / "image.png")
    page = space.build()
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, share=False)
    try:
        answers = client.Client(address, verbose=False).predict(
            client.handle_file(tmp_path / "image.png"), space.BY_NAME, "road, sky", "semantic", api_name="/segment"
        )
    finally:
        page.close()
    assert {part["label"] for part in answers[0]["value"]["annotations"]} <= {"road", "sky"}
