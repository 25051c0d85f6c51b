"""Training from the page is training: it can be cancelled and resumed to the bit, and sees the labels of its start."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from studio_folders import HEIGHT, WIDTH, disc, photograph, project

from ssprompt_hf.cli.main import main
from ssprompt_hf.data.loading import load_segmentation_dataset
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.studio.app import SSPromptStudio, check_reach, curve_svg
from ssprompt_hf.studio.exports import adapter_zip, coco_zip, plain_zip
from ssprompt_hf.studio.project import NONE, Labels, Project
from ssprompt_hf.studio.training_job import TrainingJob, TrainingSettings


@pytest.fixture
def made(tmp_path):
    """Six photographs, of which five have labels, with pixels that have none."""
    names = [f"{letter}.png" for letter in "abcdef"]
    labelled = project(tmp_path / "street", names=names)
    for index, name in enumerate(names[:5]):
        labels = Labels.empty(HEIGHT, WIDTH)
        labels.classes[30:] = 1
        labels.classes[disc(20 + index, 20, 8)] = 0
        labels.objects[disc(20 + index, 20, 8)] = 1
        labelled.write_labels(name, labels)
    return labelled


SETTINGS = TrainingSettings("seem-nano", max_steps=4)


def test_it_is_cancelled_and_goes_on(made, monkeypatch, hub, tmp_path):
    whole = TrainingJob(made)
    whole.start(SETTINGS)
    progress = whole.wait()
    assert progress.state == "done", progress.message
    assert progress.step == 4 and [step for step, _ in progress.losses] == [1, 2, 3, 4] and not whole._left_run()
    assert progress.metrics["training_images"] == 4 and progress.metrics["evaluation_images"] == 1
    weights = (made.folder / "adapter/adapter_model.safetensors").read_bytes()
    config = json.loads((made.folder / "adapter/adapter_config.json").read_text())
    assert config["dataset"] == "street" and len(whole.held_out()) == 2 and whole.held_out()[1] == "f.png"

    done = []
    job = TrainingJob(made, done.append)
    tell = job.tell

    def cancel_at_two(**changes):
        tell(**changes)
        if changes.get("step") == 2:
            job.cancel()

    monkeypatch.setattr(job, "tell", cancel_at_two)
    job.start(SETTINGS)
    assert job.wait().state == "cancelled" and job.progress.step == 2 and not done
    monkeypatch.undo()
    # what is labelled meanwhile does not matter
    labels = Labels.empty(HEIGHT, WIDTH)
    labels.classes[:] = 0
    made.write_labels("a.png", labels)
    again = TrainingJob(Project(made.folder), done.append)  # of another server
    assert again.progress.can_resume
    again.resume()
    progress = again.wait()
    assert progress.state == "done", progress.message
    assert [step for step, _ in progress.losses] == [1, 2, 3, 4] and done == [made.folder / "adapter"]
    assert (made.folder / "adapter/adapter_model.safetensors").read_bytes() == weights
    # and the studio that is opened next predicts with it
    studio = SSPromptStudio(made.folder)
    assert studio.assistant.adapter == made.folder / "adapter" and "before" in studio.scores_html()
    before, after = studio.compare("f.png")
    assert before.size == after.size == (WIDTH, HEIGHT)
    with zipfile.ZipFile(adapter_zip(made, tmp_path)) as archive:
        assert "adapter_model.safetensors" in archive.namelist()
    hub.patch_client(monkeypatch, tmp_path / "home", token=True)
    assert "tester/street" in studio.push(" tester/street ", True, "")
    assert hub.files("tester/street")["adapter_model.safetensors"] == weights
    with pytest.raises(SSPromptError, match="name of the repository"):
        studio.push(" ", True, "")


def test_the_command_goes_on_where_the_page_stopped(made, tmp_path, capsys):
    out = tmp_path / "out"
    settings = ["--max_steps", "1", "--eval_strategy", "no", "--report_to", "none", "--use_cpu", "true"]
    assert main(["train", "--data_dir", str(made.folder), "--output_dir", str(out), *settings]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["training_images"] == 5 and metrics["dataset"] == "street"
    capsys.readouterr()
    assert main(["data", str(made.folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["splits"]["train"]["images"] == 5 and report["problems"] == []
    assert [(one["name"], one["thing"]) for one in report["classes"]] == [("car", True), ("road", False)]


def test_what_cannot_be_trained_is_told(made, tmp_path):
    job = TrainingJob(made)
    with pytest.raises(SSPromptError, match="no training to go on with"):
        job.resume()
    made.add_class("boat")
    with pytest.raises(SSPromptError, match="no image has a label of boat"):
        job.start(SETTINGS)
    with pytest.raises(SSPromptError, match="nothing is labelled yet"):
        TrainingJob(project(tmp_path / "other")).start(SETTINGS)
    made.remove_class(2)
    job.start(TrainingSettings("no-such-model", 2))
    assert job.wait().state == "failed" and "no-such-model" in job.progress.message
    assert "no-such-model" in studio_html(made, job)


def studio_html(made, job):
    studio = SSPromptStudio(made.folder)
    studio.job = job
    return studio.progress_html()


def test_labels_are_taken_away(made, tmp_path):
    with zipfile.ZipFile(plain_zip(made, tmp_path)) as archive:
        archive.extractall(tmp_path / "plain")
    plain = load_segmentation_dataset(data_dir=str(tmp_path / "plain"), split="train", task="instance")
    with zipfile.ZipFile(coco_zip(made, tmp_path)) as archive:
        archive.extractall(tmp_path / "coco")
    coco = load_segmentation_dataset(data_dir=str(tmp_path / "coco"), split="train", unlabelled="ignore")
    assert plain.classes == made.class_list and coco.classes.names == ["car", "road"]
    for one, other in zip(plain, coco, strict=True):
        labels = made.read_labels(Path(one["file_name"]).name)
        assert np.array_equal(one["label"], labels.classes) and np.array_equal(other["label"], labels.classes)
        assert (one["label"] == NONE).any() and np.array_equal(one["instance"], labels.objects)
    with pytest.raises(SSPromptError, match="no labels to download"):
        plain_zip(project(tmp_path / "other"), tmp_path)


def test_a_killed_server_loses_nothing(tmp_path):
    project(tmp_path)
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from studio_folders import annotation
from ssprompt_hf.studio.project import Project
one = annotation(Project({str(tmp_path)!r}))
one.choose_class(0)
for x in range(10, 55):
    one.finish_object()
    one.click(x, 20)
    print(x, flush=True)
"""
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    last = [int(server.stdout.readline()) for _ in range(4)][-1]
    time.sleep(0.01)
    server.kill()
    server.wait()
    made = Project(tmp_path)
    labels = made.read_labels("a.jpg")  # whole, whatever was being written
    assert labels.classes[20, last] == 0 and labels.objects[20, last] > 0 and made.labelled == ["a.jpg"]
    assert len(load_segmentation_dataset(data_dir=str(tmp_path), split="train")) == 1


@pytest.mark.parametrize(
    ("host", "share", "password", "fine"),
    [
        ("127.0.0.1", False, None, True),
        ("localhost", False, None, True),
        ("::1", False, None, True),
        ("0.0.0.0", False, None, False),
        ("192.168.0.7", False, "", False),
        ("example.org", False, None, False),
        ("127.0.0.1", True, None, False),
        ("0.0.0.0", True, "secret", True),
    ],
)
def test_others_need_a_password(host, share, password, fine, monkeypatch):
    monkeypatch.delenv("SSPROMPT_STUDIO_PASSWORD", raising=False)
    if fine:
        check_reach(host, share, password)
        return
    with pytest.raises(SSPromptError, match="give a password by --password, or by SSPROMPT_STUDIO_PASSWORD"):
        check_reach(host, share, password)
    monkeypatch.setenv("SSPROMPT_STUDIO_PASSWORD", "secret")
    check_reach(host, share, password)


def test_the_curve():
    assert curve_svg([(1, 0.5)], 10) == "" and curve_svg([(1, 0.5), (2, 0.25)], 10).count("<polyline") == 1


def test_photographs_of_a_phone_are_labelled_upright(tmp_path):
    image = photograph().resize((40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    tmp_path.joinpath("photos").mkdir()
    image.save(tmp_path / "photos/a.jpg", exif=exif)
    made = Project(tmp_path / "photos")
    made.add_class("car")
    assert made.read_labels("a.jpg").classes.shape == (40, 20) == made.read_image("a.jpg").size[::-1]
