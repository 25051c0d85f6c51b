"""What the page shows and does for one person, with the real base model, and without a browser."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from studio_folders import HEIGHT, WIDTH, photographs, project
from tiny_sam2 import tiny_sam2

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.studio.app import SSPromptStudio
from ssprompt_hf.studio.assistant import Assistant
from ssprompt_hf.studio.project import Labels, Project
from ssprompt_hf.studio.session import Session
from ssprompt_hf.studio.suggest import Suggestions, uncertainty


@pytest.fixture(scope="module")
def assistants(tmp_path_factory):
    """The model is loaded once; it forgets the images of the test before."""
    kept = Assistant(project(tmp_path_factory.mktemp("first")))
    assert kept.takes == ("points", "boxes", "scribbles", "text")
    return kept


@pytest.fixture
def made(tmp_path):
    return project(tmp_path)


@pytest.fixture
def assistant(assistants, made):
    assistants.project = made
    assistants._encoded.clear()
    return assistants


@pytest.fixture
def session(made, assistant):
    started = Session(made, assistant, Suggestions(made, assistant), "me")
    assert started.act({"do": "look"})["error"] == ""
    return started


def opened(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))


def test_a_person_labels(session, made, monkeypatch):
    view = session.act({"do": "choose", "class_id": 0})
    assert "image" not in view["current"] and view["current"]["name"] == "a.jpg"  # the picture is sent once
    view = session.act({"do": "click", "x": 30, "y": 20})
    json.dumps(view)  # plain values
    assert view["error"] == "" and view["current"]["object"]["points"] == [[30, 20, 1]]
    overlay = opened(view["current"]["overlay"])
    assert overlay.size == (WIDTH, HEIGHT) and overlay.info["transparency"][255] == 0
    labels = Project(made.folder).read_labels("a.jpg")
    assert labels.classes[20, 30] == 0 and view["images"][0]["share"] == round(100 * (labels.classes == 0).mean())
    # the image encoder ran once
    base = session.assistant.model.get_base_model()
    monkeypatch.setattr(type(base), "prompted_features", None)
    assert session.act({"do": "click", "x": 5, "y": 40, "on_it": False})["error"] == ""
    assert session.act({"do": "box", "left": 3, "top": 4, "right": 20, "bottom": 30})["error"] == ""
    assert session.act({"do": "scribble", "line": [[40, 30], [50, 30]]})["error"] == ""
    assert session.act({"do": "undo"})["current"]["can_redo"]


def test_it_starts_from_the_prediction(session, made):
    session.act({"do": "brush", "line": [[10, 10]], "radius": 3})  # no class yet: an error
    session.act({"do": "choose", "class_id": 1})
    session.act({"do": "brush", "line": [[10, 10]], "radius": 3})
    view = session.act({"do": "predict"})
    assert view["error"] == "" and view["images"][0]["share"] == 100
    labels = made.read_labels("a.jpg")
    assert labels.classes[10, 10] == 1 and set(np.unique(labels.classes)) <= {0, 1}
    assert not labels.objects[labels.classes == 1].any()


def test_what_cannot_be_done_is_told_and_changes_nothing(session, made):
    for event, words in (
        ({"do": "click", "x": 1, "y": 1}, "choose a class first"),
        ({"do": "open", "name": "../a.jpg"}, "no photograph"),
        ({"do": "open"}, "open: "),
        ({"do": "rm"}, "which there is not"),
        ({"do": "add_class", "name": "  "}, "non-empty"),
        ({"do": "add_class", "name": "x", "color": "red"}, "must be like #3d85f2"),
        ({"do": "choose", "class_id": 9}, "no class with the id 9"),
        ({"do": "undo"}, "nothing to undo"),
        ({"do": "brush", "line": [[1]], "radius": 1}, "must hold x and y"),
        ({"do": "brush", "line": "x", "radius": 1, "erase": True}, "brush: "),
        ({"do": "brush", "line": [[float("nan"), 1]], "radius": 1, "erase": True}, "must hold x and y"),
    ):
        view = session.act(event)
        assert words in view["error"] and view["current"]["name"] == "a.jpg", event
    assert made.labelled == [] and [info.name for info in made.classes] == ["car", "road"]


def test_classes_are_named_on_the_page(session, made):
    view = session.act({"do": "add_class", "name": "sky", "thing": False, "color": "#010203"})
    assert view["class_id"] == 2 and view["classes"][2]["color"] == "#010203"
    session.act({"do": "change_class", "class_id": 2, "name": "heaven", "thing": True})
    assert made.class_of(2).name == "heaven" and made.class_of(2).thing
    assert session.act({"do": "remove_class", "class_id": 2})["class_id"] is None


def test_the_next_image_is_the_least_certain(session, made, assistant):
    model = assistant.predictor()
    values = {name: uncertainty(model, made.read_image(name)) for name in ("b.jpg", "c.png")}
    assert all(0 < value < 1 for value in values.values())
    flat = uncertainty(model, Image.new("RGB", (64, 48)))
    assert flat != values["b.jpg"]
    view = session.act({"do": "next"})
    assert view["current"]["name"] == max(values, key=values.get) and "least certain" in view["current"]["note"]
    labels = Labels.empty(HEIGHT, WIDTH)
    labels.classes[:] = 1
    for name in made.images:
        made.write_labels(name, labels)
    assert "every photograph has a label" in session.act({"do": "next"})["error"]


def test_others_look_while_one_labels(session, made, assistant):
    other = Session(made, assistant, session.suggestions, "they")
    session.act({"do": "choose", "class_id": 0})
    session.act({"do": "brush", "line": [[10, 10]], "radius": 3})
    view = other.act({"do": "look"})
    assert view["images"][0]["locked"] and view["classes"][0]["pixels"] > 0
    other.act({"do": "choose", "class_id": 1})
    assert "somebody else" in other.act({"do": "fill"})["error"]
    session.act({"do": "brush", "line": [[50, 40]], "radius": 3})
    seen = view["classes"][0]["pixels"]
    view = other.act({"do": "peek"})
    assert view["classes"][0]["pixels"] > seen and "image" not in view["current"]
    session.act({"do": "open", "name": "b.jpg"})  # gives it back
    assert other.act({"do": "fill"})["error"] == ""
    assert session.act({"do": "open", "name": "a.jpg"})["classes"][1]["pixels"] > 0  # what they did is seen


def test_a_page_for_looking(tmp_path):
    project(tmp_path)
    studio = SSPromptStudio(tmp_path, read_only=True)
    studio.assistant = Assistant(studio.project)
    view = studio.session("me").view()
    assert not view["can_write"]
    before = sorted(path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file())
    for event in ({"do": "add_class", "name": "x"}, {"do": "brush", "line": [[1, 1]], "radius": 2}, {"do": "clear"}):
        assert "there is not" in studio.act({"who": "me", "event": event})["error"]
    assert sorted(path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()) == before
    for act in (lambda: studio.train(3), studio.resume, lambda: studio.push("me/x", True, None)):
        with pytest.raises(SSPromptError, match="for looking only"):
            act()


def test_an_empty_folder(tmp_path):
    studio = SSPromptStudio(tmp_path)
    view = studio.act({"who": "me", "event": {"do": "look"}})
    assert view["current"] is None and view["images"] == [] and view["error"] == ""
    assert studio.compare.__doc__ and studio.progress_html()
    with pytest.raises(SSPromptError, match="no adapter yet"):
        studio.compare("a.jpg")
    studio.project.add_images(photographs(tmp_path / "uploads", ("a.jpg",)).iterdir())
    assert studio.act({"who": "me", "event": {"do": "look"}})["current"]["name"] == "a.jpg"
    assert studio.thumbnails({"who": "me", "names": ["a.jpg", "../a.jpg"]}).keys() == {"a.jpg"}


def test_base_models_without_words(tmp_path):
    """They have clicks and boxes, and all classes look alike to them."""
    base = tiny_sam2()
    base.save_pretrained(tmp_path / "sam2")
    base.default_image_processor().save_pretrained(tmp_path / "sam2")
    made = project(tmp_path / "photos")
    assistant = Assistant(made, str(tmp_path / "sam2"))
    session = Session(made, assistant, Suggestions(made, assistant), "me")
    view = session.act({"do": "look"})
    assert view["takes"] == ["points", "boxes"]
    for event in (
        {"do": "choose", "class_id": 0},
        {"do": "click", "x": 30, "y": 20},
        {"do": "box", "left": 3, "top": 4, "right": 20, "bottom": 30},
        {"do": "scribble", "line": [[40, 30], [50, 30]]},
        {"do": "predict"},
        {"do": "next"},
    ):
        assert session.act(event)["error"] == "", event
    assert "takes no phrases (it takes: points, boxes)" in session.act({"do": "phrase", "text": "car"})["error"]
