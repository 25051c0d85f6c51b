"""The loopback Hub against the unmodified client: what other tests rely on."""

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError


@pytest.fixture
def api(hub, tmp_path, monkeypatch):
    hub.patch_client(monkeypatch, tmp_path / "home", token=True)
    return HfApi()


def test_push_and_pull(hub, api, tmp_path):
    folder = tmp_path / "adapter"
    (folder / "sub").mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"a": 1}')
    (folder / "sub" / "weights.safetensors").write_bytes(bytes(range(256)) * 10)
    assert api.whoami()["name"] == "tester"
    api.create_repo("tester/fog")
    assert api.create_repo("tester/fog", exist_ok=True).repo_id == "tester/fog"
    with pytest.raises(HfHubHTTPError):
        api.create_repo("tester/fog")
    commit = api.upload_folder(repo_id="tester/fog", folder_path=folder, commit_message="Add adapter")
    assert hub.files("tester/fog")["sub/weights.safetensors"] == bytes(range(256)) * 10
    assert api.list_repo_commits("tester/fog")[0].commit_id == commit.oid

    pulled = snapshot_download("tester/fog")
    assert Path(pulled, "sub", "weights.safetensors").read_bytes() == bytes(range(256)) * 10
    assert sorted(api.list_repo_files("tester/fog"))[1:] == ["adapter_config.json", "sub/weights.safetensors"]
    api.delete_file("adapter_config.json", "tester/fog")
    assert not api.file_exists("tester/fog", "adapter_config.json")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("tester/fog", "adapter_config.json")
    api.delete_repo("tester/fog")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("tester/fog")


def test_cards_branches_and_tags(hub, api):
    hub.add("tester/fog", {"a.txt": b"1"})
    card = ModelCard("---\nlicense: mit\n---\n# Fog\n")
    card.validate = lambda **_: None  # older clients ask huggingface.co, whatever the endpoint
    card.push_to_hub("tester/fog")
    assert ModelCard.load("tester/fog").data.license == "mit"
    api.create_tag("tester/fog", tag="v1")
    api.create_branch("tester/fog", branch="next")
    api.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id="tester/fog", revision="next")
    assert (hub.files("tester/fog")["a.txt"], hub.files("tester/fog", revision="next")["a.txt"]) == (b"1", b"2")
    assert Path(hf_hub_download("tester/fog", "a.txt", revision="v1")).read_bytes() == b"1"
    assert [branch.name for branch in api.list_repo_refs("tester/fog").branches] == ["main", "next"]
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(path_or_fileobj=b"3", path_in_repo="a.txt", repo_id="tester/fog", parent_commit="0" * 40)


def test_large_files_are_redirected_and_resumed(hub, api, tmp_path):
    hub.large_file = 1000
    content = bytes(range(256)) * 100
    hub.add("tester/fog", {"large.bin": content})
    path = Path(hf_hub_download("tester/fog", "large.bin"))
    assert path.read_bytes() == content

    # A download that broke off is continued where it stopped.
    blobs = path.parents[2] / "blobs"
    digest = hashlib.sha256(content).hexdigest()
    path.unlink()
    (blobs / digest).unlink()
    (blobs / f"{digest}.incomplete").write_bytes(content[:5000])
    assert Path(hf_hub_download("tester/fog", "large.bin")).read_bytes() == content


def test_failures_on_request(hub, api):
    hub.add("tester/fog", {"a.txt": b"1"})
    hub.fail("api/models/tester/fog", 400)
    with pytest.raises(HfHubHTTPError):
        api.model_info("tester/fog")
    assert api.model_info("tester/fog").sha == hub.repos["model", "tester/fog"].refs["main"]


def test_private_repositories_need_the_token(hub, api):
    hub.add("tester/secret", {"a.txt": b"1"}, private=True)
    assert hf_hub_download("tester/secret", "a.txt")
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=False).model_info("tester/secret")
