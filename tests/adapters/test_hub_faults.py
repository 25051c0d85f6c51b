"""A Hub that is busy, gone, slow, that does not know the token, or sends something else."""

import hashlib
import os
from pathlib import Path

import pytest
from faults import flip_bit
from huggingface_hub import close_session, snapshot_download
from prompted_seem import trained

from ssprompt_hf.adapters.files import fetch_adapter, read_adapter
from ssprompt_hf.data.sources.hub import load_hub_dataset
from ssprompt_hf.errors import DownloadError, NoImagesError
from ssprompt_hf.utils import hub as hub_calls

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    trained().save_pretrained(folder)
    return {name: folder / name for name in (CONFIG, WEIGHTS)}


@pytest.fixture
def fog(hub, files, tmp_path, monkeypatch):
    """With `tester/fog`."""
    hub.large_file = 50_000
    hub.patch_client(monkeypatch, tmp_path / "home")
    hub.add("tester/fog", files)
    monkeypatch.setattr(hub_calls, "WAITS", (0.01, 0.01))
    return hub


@pytest.mark.parametrize("status", [503, 429])
def test_one_refusal_is_asked_again(fog, status):
    fog.fail("/api/models/tester/fog", status)
    assert read_adapter(fetch_adapter("tester/fog"))
    count = fog.count("GET", "tester/rain")
    with pytest.raises(DownloadError, match="there is no adapter"):
        fetch_adapter("tester/rain")
    assert fog.count("GET", "tester/rain") == count + 1  # there is nothing to wait for


@pytest.mark.parametrize("fault", ["503", "dropped", "gone"])
def test_the_cache_is_taken_where_nobody_answers(fog, caplog, fault):
    folder = fetch_adapter("tester/fog")
    if fault == "gone":
        fog.stop()
        close_session()  # or connections that are open would go on
    else:
        fog.disturb("tester/fog", lambda request: request.drop() if fault == "dropped" else request.reply(503), 10)
    assert fetch_adapter("tester/fog") == folder
    assert "is taken from the cache" in caplog.text
    with pytest.raises(DownloadError):
        fetch_adapter("tester/rain")


def test_a_hub_that_stalls(fog, caplog, monkeypatch):
    monkeypatch.setenv("SSPROMPT_HUB_TIMEOUT", "0.3")
    fog.disturb("tester/fog", lambda request: request.stall(1))
    with pytest.raises(DownloadError, match=r"has not answered within 0.3 seconds about adapter 'tester/fog'"):
        fetch_adapter("tester/fog")
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", fog.endpoint)
    fog.disturb("tester/street", lambda request: request.stall(1), 3)
    with pytest.raises((DownloadError, NoImagesError), match=r"has not answered within 0.3 seconds"):
        load_hub_dataset("tester/street", "train")
    monkeypatch.setenv("SSPROMPT_HUB_TIMEOUT", "soon")
    with pytest.raises(DownloadError, match="it must be a number of seconds"):
        fetch_adapter("tester/fog")


def test_a_wrong_token_is_told(fog):
    with pytest.raises(DownloadError, match=r"does not accept your token .*401.*hf auth login"):
        fetch_adapter("tester/fog", token="hf_" + "b" * 34)


@pytest.mark.parametrize(("name", "is_large"), [(CONFIG, False), (WEIGHTS, True)])
def test_what_comes_is_what_the_hub_says(fog, name, is_large, caplog):
    """Of the right size, with another bit: a large file with its SHA-256, a small one with Git's digest."""
    content = fog.files("tester/fog")[name]
    fog.large_file = len(content) if is_large else 10**9
    part = f"/{hashlib.sha256(content).hexdigest()}" if is_large else f"/{name}"
    fog.disturb(part, lambda request: request.flip(), method="GET")
    folder = fetch_adapter("tester/fog")
    assert read_adapter(folder) and "is not what the Hub says of it" in caplog.text
    path = os.path.realpath(os.path.join(folder, name))
    flip_bit(Path(path), 8)  # in the cache, long ago
    assert fetch_adapter("tester/fog") == folder and Path(path).read_bytes() == content
    flip_bit(Path(path), 8)
    fog.disturb(part, lambda request: request.flip(), 3, method="GET")
    with pytest.raises(DownloadError, match=f"{name} .*comes damaged from"):
        fetch_adapter("tester/fog")


def test_files_that_transformers_has_downloaded(fog, files):
    content = b"x" * 50_000
    fog.add("tester/base", {"model.safetensors": content, "config.json": b"{}"})
    fog.disturb(hashlib.sha256(content).hexdigest(), lambda request: request.flip(), method="GET")
    with (
        pytest.raises(DownloadError, match=r"a file of 'tester/base' has come damaged"),
        hub_calls.checked_downloads("tester/base"),
    ):
        raise ValueError(snapshot_download("tester/base"))  # damage may also be what a library stumbles over
    with hub_calls.checked_downloads("tester/base"):
        folder = snapshot_download("tester/base")
    assert Path(folder, "model.safetensors").read_bytes() == content


@pytest.mark.parametrize("name", ["5" * 64 + ".incomplete", "5" * 64])
def test_files_that_another_process_takes_away(name, tmp_path, monkeypatch):
    """A download that ends is renamed, and a damaged file removed, after the folder was listed."""
    blobs = tmp_path / "models--tester--base" / "blobs"
    blobs.mkdir(parents=True)
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([self / name]))
    with hub_calls.checked_downloads("tester/base", tmp_path):
        pass
