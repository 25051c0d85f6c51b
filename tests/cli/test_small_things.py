"""The version, the package as a module, class names, uploads without a network, and names of progress bars."""

import subprocess
import sys

import pytest
from tiny_training import tiny_images, tiny_trainer

import ssprompt_hf
from ssprompt_hf.adapters import upload
from ssprompt_hf.cli.main import main
from ssprompt_hf.cli.options import split_class_names
from ssprompt_hf.errors import SSPromptError, UploadError


def test_the_version():
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    done = subprocess.run([sys.executable, "-m", "ssprompt_hf", "--version"], capture_output=True, text=True)
    assert done.stdout == f"ssprompt-hf {ssprompt_hf.__version__}\n"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a,b"], ["a", "b"]),
        (["a", "b"], ["a", "b"]),
        (["traffic light, road"], ["traffic light", "road"]),
        (None, None),
    ],
)
def test_class_names(given, names):
    assert split_class_names(given, ["x.jpg"]) == names


def test_class_names_that_are_images(tmp_path):
    folder = str(tmp_path)
    with pytest.raises(SSPromptError, match=f"--class_names took '{folder}' for a class.*{folder} --class_names a,b"):
        split_class_names(["a", "b", folder], [])
    with pytest.raises(SSPromptError, match="no images: give files or folders"):
        split_class_names(["a"], [])


def test_an_upload_without_network(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("Network is unreachable")

    monkeypatch.setattr(upload.HfApi, "create_repo", fail)
    with (
        pytest.raises(UploadError, match=r"'me/x' cannot be uploaded .*Network is unreachable.*hf auth login"),
        upload.uploaded_folder("me/x"),
    ):
        pass


def test_progress_bars_say_what_they_show(tmp_path, capsys):
    images = tiny_images(2)
    trainer = tiny_trainer(tmp_path, train=images, evaluation=images, max_steps=1, disable_tqdm=False)
    trainer.train()
    trainer.evaluate()
    shown = capsys.readouterr().err
    assert "training:" in shown and "evaluating:" in shown
