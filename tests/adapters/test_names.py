"""Names of adapters become folders or Hub ids."""

import pytest

from ssprompt_hf.adapters.names import resolve_adapter_name
from ssprompt_hf.errors import UnknownNameError


def test_adapter_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SSPROMPT_HUB_NAMESPACE", raising=False)
    assert resolve_adapter_name("user/name") == "user/name"
    assert resolve_adapter_name("fog") == "ssprompt-hf/fog"
    assert resolve_adapter_name("fog", namespace="me") == "me/fog"
    monkeypatch.setenv("SSPROMPT_HUB_NAMESPACE", "team")
    assert resolve_adapter_name("fog") == "team/fog"

    # A data set of the same name is no adapter; a folder with an adapter comes first.
    (tmp_path / "fog").mkdir()
    assert resolve_adapter_name("fog") == "team/fog"
    (tmp_path / "fog" / "adapter_config.json").write_text("{}")
    assert resolve_adapter_name("fog") == "fog"
    assert resolve_adapter_name(tmp_path / "fog") == str(tmp_path / "fog")


@pytest.mark.parametrize("name", ["./fog", "/nowhere/fog", "a/b/c", "", "two words", "user/two words"])
def test_bad_adapter_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError):
        resolve_adapter_name(name)


def test_folder_without_adapter(tmp_path):
    with pytest.raises(UnknownNameError, match=r"no adapter_config\.json in it"):
        resolve_adapter_name(tmp_path)
