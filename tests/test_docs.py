"""README and `docs/`: their code runs, their commands have the options that they name, and the API has a page."""

import contextlib
import importlib
import inspect
import io
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from ssprompt_hf import SSPromptModel
from ssprompt_hf.cli.main import build_parser
from ssprompt_hf.data import load_street_scenes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- not run: ([^>]+) -->\n+)?```(\w+)\n(.*?)```", re.DOTALL)
TESTED_ELSEWHERE = ("add_a_base_model.md",)  # by tests/models/test_toy_family.py
ADAPTERS = {
    ("demo", "fog", "night", "seed0", "seed1", "mine"): ["road", "car"],
    ("signs",): ["sign"],
    ("vehicles",): ["car"],
}


def blocks(page: Path, language: str) -> list[str]:
    return [code for reason, kind, code in BLOCK.findall(page.read_text()) if kind == language and not reason]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """The adapters that the pages speak of, untrained."""
    root = tmp_path_factory.mktemp("docs")
    for names, classes in ADAPTERS.items():
        model = SSPromptModel.from_pretrained("seem-lite", class_names=classes)
        for name in names:
            model.save_pretrained(root / "out" / name / "adapter")
    return root


@pytest.fixture
def user_folder(adapters, tmp_path, monkeypatch, hub):
    """A working directory with an image and adapters, and a Hub to push to."""
    (tmp_path / "out").symlink_to(adapters / "out")
    scene = load_street_scenes("street-scenes/clear", "test", num_images=1)[0]["image"]
    Image.fromarray(scene).resize((480, 240)).save(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    hub.patch_client(monkeypatch, tmp_path / "home", token=True)
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name not in TESTED_ELSEWHERE and blocks(page, "python")],
    ids=lambda page: page.stem,
)
def test_python_runs(page, user_folder):
    """Block after block, as a reader would, with the small model in place of the official one."""
    names = {"image": Image.open("street.jpg")}
    if "import SSPromptModel" not in page.read_text():
        names["SSPromptModel"] = SSPromptModel
        names["model"] = SSPromptModel.from_pretrained(adapter="out/fog/adapter")
    for code in blocks(page, "python"):
        code = code.replace('"seem-t"', '"seem-lite"').replace("me/ssprompt", "tester/ssprompt")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=lambda page: page.stem)
def test_commands_have_their_options(page):
    parser, count = build_parser(), 0
    for code in blocks(page, "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "ssprompt-hf" not in words[:2]:
                continue
            words = [word.replace("$seed", "0") for word in words if word != "..."]
            arguments = words[words.index("ssprompt-hf") + 1 :]
            with contextlib.redirect_stderr(io.StringIO()) as stderr:
                try:
                    parser.parse_args(arguments)
                except SystemExit:
                    pytest.fail(f"{line.strip()}: {stderr.getvalue().splitlines()[-1]}")
            count += 1
    assert count or "ssprompt-hf " not in "".join(blocks(page, "bash"))


def shown_in_the_reference() -> list:
    """The objects on the pages of the API reference: those named, and all public ones of the modules named."""
    pages = (ROOT / "docs" / "reference").glob("*.md")
    shown = []
    for path in (path for page in pages for path in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)):
        try:
            found = importlib.import_module(path)
            shown += [getattr(found, name) for name in getattr(found, "__all__", dir(found))]
        except ModuleNotFoundError:
            module, _, name = path.rpartition(".")
            shown.append(getattr(importlib.import_module(module), name))
    return shown


def test_every_public_name_has_a_page_and_a_docstring():
    shown, missing = shown_in_the_reference(), []
    for name in ("", ".data", ".explain", ".exporters", ".metrics", ".tuners", ".models.seem", ".models.sam3"):
        module = importlib.import_module(f"ssprompt_hf{name}")
        for public in (one for one in module.__all__ if not one.startswith("_")):
            value = getattr(module, public)
            if not any(value is one for one in shown):
                missing.append(f"{module.__name__}.{public} is on no page of docs/reference")
            if inspect.isclass(value) or inspect.isfunction(value):
                missing += [f"{what} has no docstring" for what in without_docstring(value)]
    assert not missing, "\n".join(missing)


def without_docstring(value) -> list[str]:
    """A class or function of ours, and public methods of the class that are not inherited descriptions."""
    name = f"{value.__module__}.{value.__qualname__}"
    found = [] if value.__module__.startswith("ssprompt_hf") and inspect.getdoc(value) else [name]
    if inspect.isclass(value):
        for key, member in vars(value).items():
            if not key.startswith("_") and inspect.isfunction(member) and not inspect.getdoc(getattr(value, key)):
                found.append(f"{name}.{key}")
    return found


def test_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200 and len(text.split()) <= 1600


def test_links_lead_to_files():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith("../../actions") or (page.parent / target).exists(), f"{page.name}: {target}"
