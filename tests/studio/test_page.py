"""The page as a server: it gives away no file of the folder, and asks for the password. No browser."""

import json
import urllib.error
import urllib.parse
import urllib.request

import pytest
from studio_folders import photographs

from ssprompt_hf.cli.main import main
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.studio import page
from ssprompt_hf.studio.app import SSPromptStudio


def test_gradio_is_an_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(SSPromptError, match=r"pip install 'ssprompt-hf\[studio\]'"):
        page.import_gradio()
    assert main(["studio", str(tmp_path)]) == 2
    assert "ssprompt-hf[studio]" in capsys.readouterr().err


def test_the_page_asks_for_nothing_from_elsewhere():
    for file in page.STATIC.iterdir():
        text = file.read_text(encoding="utf-8")
        assert "http" not in text and "//" not in text.replace("// ", ""), file
        assert "${value" not in text and "{{" not in text, file  # gradio's templates


def status(address: str, **kwargs) -> int:
    try:
        return urllib.request.urlopen(urllib.request.Request(address, **kwargs), timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def served(tmp_path):
    pytest.importorskip("gradio", reason="the studio needs gradio: pip install -e '.[studio]'")
    photographs(tmp_path / "secret", ("outside.jpg",))
    studio = SSPromptStudio(photographs(tmp_path / "photos"))
    (tmp_path / "photos/images/link.jpg").symlink_to(tmp_path / "secret/outside.jpg")
    studios = [studio]

    def launch(**kwargs):
        return studio.launch(prevent_thread_lock=True, quiet=True, inbrowser=False, **kwargs)[1].rstrip("/")

    yield launch
    for one in studios:
        one.page.close()


def test_files_of_the_folder_are_not_served(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address = served()
    assert status(address) == 200
    photos = tmp_path / "photos"
    for path in (
        photos / "images/a.jpg",
        photos / "classes.json",
        photos / "images/link.jpg",
        photos / "images/../../secret/outside.jpg",
        tmp_path / "secret/outside.jpg",
        "photos/images/a.jpg",
        "/etc/passwd",
    ):
        for route in ("gradio_api/file=", "file="):
            assert status(f"{address}/{route}{urllib.parse.quote(str(path))}") in (403, 404), path


def test_the_password_is_asked_for_everywhere(served):
    address = served(password="secret")
    config = status(f"{address}/config")
    assert config == 401
    body = json.dumps({"data": {"who": "x", "event": {"do": "look"}}, "component_id": 1, "fn_name": "act"}).encode()
    headers = {"Content-Type": "application/json"}
    call = {"data": body, "headers": headers, "method": "POST"}
    assert status(f"{address}/gradio_api/component_server", **call) == 401
    wrong = urllib.parse.urlencode({"username": "me", "password": "wrong"}).encode()
    assert status(f"{address}/login", data=wrong) == 400
    right = urllib.parse.urlencode({"username": "me", "password": "secret"}).encode()
    assert status(f"{address}/login", data=right) == 200
