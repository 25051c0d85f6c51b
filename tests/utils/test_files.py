"""Files that appear whole or not at all."""

import os
import stat

import pytest
from faults import full_disk

from ssprompt_hf.errors import StorageError
from ssprompt_hf.utils.files import atomic_path, give_usual_modes, write_json


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_modes_are_usual_and_the_umask_stays_as_it_is(tmp_path, monkeypatch):
    """The umask is the whole process's: another thread would make files for everybody in that moment."""

    def touched(mask):
        raise AssertionError("the umask was changed")

    (tmp_path / "usual").touch()
    monkeypatch.setattr(os, "umask", touched)
    write_json(tmp_path / "a.json", 1)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").touch(0o600)
    give_usual_modes(tmp_path / "folder")
    assert mode(tmp_path / "a.json") == mode(tmp_path / "folder" / "b") == mode(tmp_path / "usual")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b"]


def test_files_are_on_the_disk_before_they_are_renamed(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: done.append(os.readlink(f"/proc/self/fd/{handle}")) or sync(handle)
    )
    monkeypatch.setattr(os, "replace", lambda old, new: done.append("renamed") or replace(old, new))
    write_json(tmp_path / "a.json", 1)
    assert done[0].endswith(".json") and done[1:] == ["renamed", str(tmp_path)]


def test_a_full_disk_is_named_and_nothing_stays(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with full_disk(), pytest.raises(StorageError, match=r"a.json: there is no room for it .*bytes are free") as caught:
        write_json(tmp_path / "a.json", "x" * 10_000)
    assert (
        isinstance(caught.value, OSError) and caught.value.errno and caught.value.filename == str(tmp_path / "a.json")
    )
    with (
        pytest.raises(StorageError, match="10,000 bytes are needed"),
        full_disk(),
        atomic_path(tmp_path / "b.bin", needed=10_000) as temporary,
    ):
        temporary.write_bytes(bytes(10_000))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "{}"
