"""Checkpoints that are not what was written are refused by name; those of a full disk are not there."""

import json
import os
import shutil

import pytest
import torch
from faults import flip_bit, full_disk, killed_in
from tiny_training import prompts, tiny_trainer

from ssprompt_hf.errors import SSPromptError, StorageError
from ssprompt_hf.training import checkpoints, runs
from ssprompt_hf.training.checkpoints import check_files, last_complete_checkpoint, mark_finished
from ssprompt_hf.training.feature_cache import FeatureCache

MANIFEST = "manifest.json"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a run with one checkpoint, after 2 steps."""
    folder = tmp_path_factory.mktemp("run")
    tiny_trainer(folder, max_steps=2, save_steps=2).train()
    return folder


@pytest.fixture
def run(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def test_all_files_are_in_the_manifest(run):
    names = {path.name for path in (run / "checkpoint-2").iterdir()}
    wanted = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_start.safetensors"}
    assert wanted | {"adapter_model.safetensors", "training_settings.json"} <= names
    assert set(json.loads((run / "checkpoint-2" / MANIFEST).read_text())["sha256"]) == names - {MANIFEST}
    modes = {path.stat().st_mode for path in (run / "checkpoint-2").iterdir()}
    assert len(modes) == 1, "some files are not for everybody"
    trainer = tiny_trainer(run, max_steps=3)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3


def test_each_damaged_file_is_named(run):
    """A flipped bit, a cut, a loss, another step: whatever the file."""
    folder = run / "checkpoint-2"
    for name in sorted(path.name for path in folder.iterdir()):
        path = folder / name
        content = path.read_bytes()
        damages = [lambda path=path: flip_bit(path, 4 * path.stat().st_size), path.unlink]
        damages.append(lambda path=path, content=content: path.write_bytes(content[: len(content) // 2]))
        for damage in damages:
            damage()
            with pytest.raises(SSPromptError, match="checkpoint-2 is damaged: ") as error:
                check_files(folder)
            assert name in str(error.value)
            path.write_bytes(content)
    check_files(folder)


def test_training_does_not_go_on_from_damage(run):
    state = run / "checkpoint-2" / "trainer_state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"global_step": 1}))
    (run / "checkpoint-2" / "optimizer.pt").unlink()
    trainer = tiny_trainer(run, max_steps=3)
    before = prompts(trainer.model)
    with pytest.raises(SSPromptError, match=r"optimizer.pt is missing, trainer_state.json is not what was written"):
        trainer.train(resume_from_checkpoint=True)
    assert all(torch.equal(before[name], value) for name, value in prompts(trainer.model).items())


def test_a_checkpoint_of_an_earlier_version(run, caplog):
    folder = run / "checkpoint-2"
    (folder / MANIFEST).unlink()
    assert last_complete_checkpoint(run) is None  # of this version, it was not written to its end
    with pytest.raises(SSPromptError, match=r"manifest.json is missing"):
        check_files(folder)
    settings = json.loads((folder / "training_settings.json").read_text())
    del settings["has_manifest"]
    (folder / "training_settings.json").write_text(json.dumps(settings))
    assert last_complete_checkpoint(run) == str(folder)
    check_files(folder)
    assert "is of an earlier version" in caplog.text
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(SSPromptError, match=f"{name} is truncated or damaged"):
            check_files(folder)
        (folder / name).unlink()
        with pytest.raises(SSPromptError, match=f"{name} is missing"):
            check_files(folder)
        (folder / name).write_bytes(content)
    (folder / "training_settings.json").write_text("{")
    with pytest.raises(SSPromptError, match=r"training_settings.json is not what was written"):
        check_files(folder)


def test_killed_before_the_manifest(run):
    """The older checkpoint is there until the newer one is whole."""
    trainer = tiny_trainer(run, max_steps=4, save_steps=2, save_total_limit=1)
    assert killed_in(checkpoints, "_write_manifest", 1, lambda: trainer.train(resume_from_checkpoint=True))
    assert (run / "checkpoint-4").is_dir() and last_complete_checkpoint(run) == str(run / "checkpoint-2")
    trainer = tiny_trainer(run, max_steps=4, save_steps=2, save_total_limit=1)
    trainer.train(resume_from_checkpoint=True)
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-4"]


def test_a_full_disk_leaves_the_older_checkpoint(run):
    trainer = tiny_trainer(run, max_steps=4, save_steps=4)
    with full_disk(2000), pytest.raises(StorageError, match=r"checkpoint-4: there is no room for it"):
        trainer.train(resume_from_checkpoint=True)
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-2"]
    check_files(run / "checkpoint-2")


def test_a_full_disk_does_not_end_a_training_with_a_cache(tmp_path, caplog):
    expected = tiny_trainer(tmp_path / "none", max_steps=2, save_strategy="no", feature_cache="none")
    expected.train()
    trainer = tiny_trainer(tmp_path / "full", max_steps=2, save_strategy="no")
    trainer.feature_cache = FeatureCache("disk", tmp_path / "cache")
    with full_disk(2000):
        trainer.train()
    assert caplog.text.count("the feature cache cannot be written") == 1 and not list(tmp_path.glob("cache/*"))
    for name, value in prompts(expected.model).items():
        assert torch.equal(value, prompts(trainer.model)[name])


def test_a_copied_run_is_as_finished_as_it_was(run):
    """Copying gives every file the time of the copy, in any order."""
    (run / "adapter").mkdir()
    shutil.copy(run / "checkpoint-2" / "adapter_model.safetensors", run / "adapter")
    os.utime(run / "checkpoint-2" / "trainer_state.json", ns=(2**60, 2**60))
    with pytest.raises(SSPromptError, match="did not finish"):
        runs._refuse_unfinished(run)
    mark_finished(run)
    runs._refuse_unfinished(run)
    check_files(run / "checkpoint-2")
    shutil.copytree(run, run.parent / "copy")
    os.utime(run.parent / "copy" / "adapter" / "adapter_model.safetensors", ns=(1, 1))
    runs._refuse_unfinished(run.parent / "copy")
