"""Base models by name: official files are fetched from a Hub over HTTP and converted once."""

import os
import threading
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN
from official_layout import official_state_dict, tiny_config

from ssprompt_hf.errors import CheckpointError, DownloadError, UnknownNameError
from ssprompt_hf.models.seem import architectures, conversion, pretrained
from ssprompt_hf.models.seem.converted import converted_models_dir, load_tokenizer, local_model_dir
from ssprompt_hf.models.seem.modeling_seem import SeemForUniversalSegmentation
from ssprompt_hf.models.seem.pretrained import resolve_base_model

REPO, FILE = "xdecoder/SEEM", "seem_focalt_v0.pt"


def checkpoint_bytes(folder, seed: int = 0) -> bytes:
    torch.save(official_state_dict(tiny_config(), seed), folder / "checkpoint.pt")
    return (folder / "checkpoint.pt").read_bytes()


@pytest.fixture
def online(hub, tmp_path, monkeypatch):
    """A Hub with a small official file for `seem-t`, served as the Hub serves large files; this process uses it."""
    hub.large_file = 100_000
    hub.add(REPO, {FILE: checkpoint_bytes(tmp_path), "README.md": b"# SEEM"})
    hub.patch_client(monkeypatch, tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    tiny_registry(monkeypatch)
    return hub


def tiny_registry(monkeypatch):
    config = tiny_config().to_dict()
    config = {key: config[key] for key in tiny_config().to_diff_dict() if key in config and key not in _NO_ARGUMENTS}
    monkeypatch.setitem(architectures.ARCHITECTURES, "seem-t", config)


_NO_ARGUMENTS = ("model_type", "transformers_version", "architectures", "dtype")


def downloads(hub) -> int:
    """How often the content of the official file was sent, at its redirected place."""
    return sum(method == "GET" and len(path) == 65 for method, path in hub.requests)


def test_first_load_converts_and_the_second_uses_the_cache(online, monkeypatch):
    folder = resolve_base_model("seem-t")
    model, info = SeemForUniversalSegmentation.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert downloads(online) == 1
    official = official_state_dict(tiny_config())["sem_seg_head.predictor.query_feat.weight"]
    assert torch.equal(model.model.object_queries.weight, official)

    monkeypatch.setattr(pretrained, "convert_seem_checkpoint", None)
    online.requests.clear()
    assert resolve_base_model("seem-t") == folder
    assert downloads(online) == 0 and online.count("HEAD", FILE) >= 1
    assert {method for method, _ in online.requests} == {"HEAD"}


def test_offline_after_the_first_load(online):
    folder = resolve_base_model("seem-t")
    online.requests.clear()
    assert resolve_base_model("seem-t", local_files_only=True) == folder
    assert not online.requests
    online.stop()
    assert resolve_base_model("seem-t") == folder


def test_official_file_may_be_deleted_after_the_conversion(online, tmp_path):
    folder = resolve_base_model("seem-t")
    for file in (tmp_path / "home" / "hub").rglob("*.pt"):
        file.unlink()
    assert resolve_base_model("seem-t") == folder
    assert resolve_base_model("seem-t", local_files_only=True) == folder
    assert downloads(online) == 1


def test_downloaded_before_but_not_converted(online):
    from huggingface_hub import hf_hub_download

    hf_hub_download(REPO, FILE)
    online.stop()
    folder = resolve_base_model("seem-t", local_files_only=True)
    assert SeemForUniversalSegmentation.from_pretrained(folder)


def test_new_official_file_and_old_revision(online, tmp_path):
    old_folder = resolve_base_model("seem-t")
    old_commit = online.repos["model", REPO].refs["main"]
    online.add(REPO, {"README.md": b"# SEEM, revised"})
    assert resolve_base_model("seem-t") == old_folder
    online.add(REPO, {FILE: checkpoint_bytes(tmp_path, seed=1)})
    assert resolve_base_model("seem-t") != old_folder
    assert resolve_base_model("seem-t", revision=old_commit) == old_folder
    assert downloads(online) == 2


def test_force_download(online):
    folder = resolve_base_model("seem-t")
    assert resolve_base_model("seem-t", force_download=True) == folder
    assert downloads(online) == 2


def test_cache_dir(online, tmp_path):
    folder = resolve_base_model("seem-t", cache_dir=tmp_path / "elsewhere")
    assert folder.startswith(str(tmp_path / "elsewhere"))
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("*.safetensors"))


def test_two_loads_at_once_convert_once(online, monkeypatch):
    conversions, real = [], conversion.convert_seem_checkpoint

    def counted(*args, **kwargs):
        conversions.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(pretrained, "convert_seem_checkpoint", counted)
    threads = [threading.Thread(target=resolve_base_model, args=("seem-t",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1


def test_damaged_file_leaves_nothing(online, tmp_path):
    content = checkpoint_bytes(tmp_path)
    online.add(REPO, {FILE: content[: len(content) // 2]})
    with pytest.raises(CheckpointError, match="truncated"):
        resolve_base_model("seem-t")
    left = [path for path in converted_models_dir().rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not left
    # The next attempt gets the mended file.
    online.add(REPO, {FILE: content})
    assert SeemForUniversalSegmentation.from_pretrained(resolve_base_model("seem-t"))


def test_nothing_cached_and_no_connection(online, monkeypatch):
    with pytest.raises(DownloadError, match=r"local_files_only=True.*ssprompt-hf convert seem_focalt_v0\.pt"):
        resolve_base_model("seem-t", local_files_only=True)
    assert not online.requests
    online.stop()
    with pytest.raises(DownloadError, match="there is no connection"):
        resolve_base_model("seem-t")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        resolve_base_model("seem-t")
    with pytest.raises(OSError):
        resolve_base_model("seem-t")


def test_what_the_hub_refuses(online):
    with pytest.raises(DownloadError, match="has no revision 'v9'"):
        resolve_base_model("seem-t", revision="v9")
    online.repos["model", REPO].gated = True
    with pytest.raises(DownloadError, match="is gated"):
        resolve_base_model("seem-t")
    assert resolve_base_model("seem-t", token=TOKEN)
    del online.repos["model", REPO]
    with pytest.raises(DownloadError, match="was not found, or is private"):
        resolve_base_model("seem-t")
    online.add(REPO, {"README.md": b"empty"})
    with pytest.raises(DownloadError, match=f"has no file {FILE}"):
        resolve_base_model("seem-t")


def test_names_without_a_public_file(online, tmp_path):
    for name in ("seem-l", "seem-davit-d5"):
        with pytest.raises(UnknownNameError, match=f"no file is published .* --name {name}"):
            resolve_base_model(name)
    assert not online.requests
    # Converted by hand under the name, without an output folder.
    folder = conversion.convert_seem_checkpoint(_written(tmp_path), "seem-t")
    online.stop()
    assert resolve_base_model("seem-t") == str(folder) == str(local_model_dir("seem-t"))
    with pytest.raises(CheckpointError, match="already exists"):
        conversion.convert_seem_checkpoint(_written(tmp_path), "seem-t")


def _written(folder):
    checkpoint_bytes(folder)
    return folder / "checkpoint.pt"


def test_folders_and_hub_ids_are_left_alone(online, tmp_path):
    (tmp_path / "seem-t").mkdir()
    for name in ("seem-t", "user/model", str(tmp_path)):
        assert resolve_base_model(name) == name
    with pytest.raises(UnknownNameError, match=r"no Hub id \(user/name\): known are seem-lite, seem-nano, seem-t"):
        resolve_base_model("nothing")
    assert not online.requests


def test_tokenizer_comes_with_the_model(online, reference_dir):
    folder = reference_dir / "tokenizer"
    online.add(architectures.TOKENIZER_REPO, {file.name: file for file in folder.iterdir()})
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(resolve_base_model("seem-t"))("a car")["input_ids"]


def test_no_tokenizer_and_no_connection_is_no_long_wait(online, tmp_path):
    online.stop()
    assert load_tokenizer() is None
    assert load_tokenizer(tmp_path) is None


def test_in_a_process_of_its_own(online, tmp_path):
    """Nothing patched but the registry: the client reads its environment."""
    code = (
        "import pytest, test_base_models as t\n"
        "with pytest.MonkeyPatch.context() as patch:\n"
        "    t.tiny_registry(patch)\n"
        "    print(t.resolve_base_model('seem-t'))"
    )
    here = Path(__file__).parent
    done = online.run(code, tmp_path / "child", PYTHONPATH=os.pathsep.join([str(here), str(here.parent / "support")]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(str(tmp_path / "child" / "ssprompt_hf" / "converted" / "seem-t"))
    assert downloads(online) == 1
