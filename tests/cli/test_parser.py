"""The parser: one table of commands, options from dataclasses, --help that tells the truth and needs no torch."""

import argparse
import dataclasses
import errno
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ssprompt_hf.cli import datasets, train
from ssprompt_hf.cli.main import COMMANDS, build_parser, main
from ssprompt_hf.cli.options import LazyParser, add_fields, build, check_folder
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.models.registry import family

ROOM = Path(train.__file__).parent


def help_of(command, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.replace("street-\n", "street-").split()).replace("street- ", "street-")


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOM.parents[1])


# Imports


@pytest.mark.parametrize("command", ["", "info", "predict", "convert", "datasets"])
def test_help_imports_no_torch(command):
    code = (
        "import sys; from ssprompt_hf.cli.main import main\n"
        f"try: main({[*command.split(), '--help']})\n"
        "except SystemExit as stopped: assert stopped.code == 0\n"
        "assert not {'torch', 'transformers', 'peft'} & sys.modules.keys()"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", sorted(path.stem for path in ROOM.glob("*.py") if path.stem != "__init__"))
def test_each_module_can_be_the_first(module):
    code = f"import sys, ssprompt_hf.cli.{module}; assert 'torch' not in sys.modules"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_as_a_module():
    done = run_python("-m", "ssprompt_hf.cli.main", "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: ssprompt-hf ") and not done.stderr
    done = run_python("-m", "ssprompt_hf.cli.main", "nonsense")
    assert done.returncode == 2 and "invalid choice: 'nonsense'" in done.stderr


# The table


def test_the_table_of_commands(capsys):
    rest = {path.stem for path in ROOM.glob("*.py")} - {"__init__", "main", "options"}
    assert COMMANDS.keys() == rest
    text = help_of("", capsys)
    for name, module in COMMANDS.items():
        assert module.__name__ == f"ssprompt_hf.cli.{name}" and f"{name} {module.HELP}" in text


# Options


@dataclass
class Settings:
    size: int = field(default=3, metadata={"help": "of it, 100 %"})
    name: str | None = field(default=None, metadata={"help": "of it (default: its own)"})
    secret: bool = True
    made: int = field(default=0, init=False)


def parsed(words: list[str], **options) -> argparse.Namespace:
    parser = LazyParser(prog="it")
    parser.fill = lambda parser: add_fields(parser, "settings", Settings, **options)
    return parser.parse_args(words)


def test_fields_as_options():
    assert build(Settings, parsed([])) == Settings()
    assert build(Settings, parsed(["--size", "4", "--secret", "False"])) == Settings(4, None, False)
    assert build(Settings, parsed([], defaults={"size": 5})) == Settings(5)
    assert vars(parsed(["--name", "x"], only_given=True)) == {"name": "x"}
    with pytest.raises(SystemExit):
        parsed(["--size", "4"], without=("size",))


def test_help_of_fields(capsys):
    with pytest.raises(SystemExit):
        parsed(["--help"], defaults={"name": "x"}, unlisted=("secret",))
    text = " ".join(capsys.readouterr().out.split())
    assert "usage: it [OPTION VALUE ...]" in text
    assert "settings: --size SIZE of it, 100 % (default: 3) --name NAME of it (default: x)" in text
    assert "secret" not in text


def test_a_parser_is_filled_once():
    parser, filled = LazyParser(), []
    parser.fill = filled.append
    parser.parse_args([])
    parser.parse_args([])
    assert filled == [parser]


def test_folders_to_write_to(tmp_path):
    (tmp_path / "file").touch()
    for folder in (None, tmp_path, str(tmp_path / "new" / "folder")):
        check_folder("--out", folder)
    with pytest.raises(SSPromptError, match=r"--out is '.*file', which is a file: give a folder"):
        check_folder("--out", tmp_path / "file")
    with pytest.raises(SSPromptError, match=r"--out is '.*', which is below .*/file, a file: give a folder"):
        check_folder("--out", tmp_path / "file" / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Errors


def raise_from_datasets(monkeypatch, error: Exception):
    def fail(options):
        raise error

    monkeypatch.setattr(datasets, "run", fail)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SSPromptError("a mistake"), "a mistake"),
        (
            PermissionError(errno.EACCES, "Permission denied", "out/metrics.json"),
            "out/metrics.json: Permission denied",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (
            ImportError("You need to install `bitsandbytes`:\n`pip install bitsandbytes`"),
            "You need to install `bitsandbytes`: `pip install bitsandbytes`",
        ),
    ],
)
def test_errors_of_users_and_machines(error, message, capsys, monkeypatch):
    raise_from_datasets(monkeypatch, error)
    assert main(["datasets"]) == 2
    assert capsys.readouterr().err == f"ssprompt-hf datasets: error: {message}\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), TypeError("a bug"), RuntimeError("a bug"), OSError("a bug")])
def test_bugs_are_not_hidden(error, monkeypatch):
    raise_from_datasets(monkeypatch, error)
    with pytest.raises(type(error), match="a bug"):
        main(["datasets"])


@pytest.mark.parametrize(("words", "hint"), [((), ""), (("go on",), "; go on")])
def test_interrupted(words, hint, capsys, monkeypatch):
    raise_from_datasets(monkeypatch, KeyboardInterrupt(*words))
    assert main(["datasets"]) == 130
    assert capsys.readouterr().err == f"ssprompt-hf datasets: interrupted{hint}\n"


# Help of the commands


def test_help_of_training(capsys):
    text = help_of("train", capsys)
    assert "cityscapes, ... (see ssprompt-hf datasets), street-scenes/fog, a folder, or a Hub id --" in text
    assert "number of training steps (default: 200, or as --num_train_epochs says if given)" in text
    assert "The batch size per device for training (default: 4)" in text
    assert "--shots SHOTS choose images so that each class is seen in so many (default: all images)" in text
    assert "folder to write to (default: out)" in text


def test_help_of_the_demo_shows_its_own_defaults(capsys):
    text = help_of("demo", capsys)
    assert "or a Hub id (default: street-scenes/fog/custom)" in text
    assert "each class is seen in so many (default: 16)" in text
    assert "split to evaluate on (default: test)" in text and "folder to write to (default: out/demo)" in text


def test_help_of_evaluation_leaves_out_what_is_for_training(capsys):
    text = help_of("evaluate", capsys)
    assert "folder to write to (default: out/evaluation)" in text and "--per_device_eval_batch_size" in text
    assert "semantic, instance or panoptic (default: the adapter's, or semantic)" in text
    for name in ("learning_rate", "max_steps", "optim", "save_steps", "shrinkage", "semantic_loss", "train_split"):
        assert f"--{name}" not in text
    for name in ("adapter", "dataset", "eval_split", "bf16", "use_cpu"):
        assert f"--{name} " in text


def test_evaluation_takes_all_arguments_of_training():
    from ssprompt_hf.training.arguments import SSPromptTrainingArguments

    words = ["--learning_rate", "0.5", "--train_split", "x", "--shrinkage", "0", "--warmup_steps", "3"]
    options = build_parser().parse_args(["evaluate", *words])
    assert (options.learning_rate, options.train_split, options.shrinkage) == (0.5, "x", 0)
    names = {field.name for field in dataclasses.fields(SSPromptTrainingArguments) if field.init}
    assert names <= vars(options).keys()


def test_what_costs_much_has_a_dry_run(capsys):
    for command in COMMANDS:
        assert ("--dry_run" in help_of(command, capsys)) == (command in ("train", "reproduce"))


def test_help_of_predict_names_the_tasks(capsys):
    assert "--task {semantic,instance,panoptic} default: the adapter's, or semantic" in help_of("predict", capsys)


def test_help_of_convert_tells_what_the_family_knows(capsys):
    text = help_of("convert", capsys)
    seem = family("seem")
    names = [line.split()[0] for line in convert_epilog().splitlines()[1:]]
    assert names == list(seem.convertible_names())
    assert "seem-t" in names and not {"seem-lite", "seem-nano"} & set(names)
    assert f"tokenizer to save with the model (default: {seem.TOKENIZER_REPO}); 'none' for none" in text


def convert_epilog() -> str:
    parser = argparse.ArgumentParser()
    COMMANDS["convert"].fill(parser)
    return parser.epilog


@pytest.mark.parametrize(
    ("words", "tokenizer"), [([], None), (["--tokenizer", "none"], "none"), (["--tokenizer", "a/b"], "a/b")]
)
def test_convert_passes_its_options_on(words, tokenizer, capsys, monkeypatch):
    class Family:
        TOKENIZER_REPO = "the/default"

        @staticmethod
        def convert_checkpoint(checkpoint, name, output, tokenizer):
            return f"{checkpoint} {name} {output} {tokenizer}"

    monkeypatch.setattr(COMMANDS["convert"], "family", {"seem": Family}.__getitem__)
    assert main(["convert", "a.pt", "--name", "seem-t", *words]) == 0
    expected = {None: "the/default", "none": None}.get(tokenizer, tokenizer)
    assert capsys.readouterr().out == f"a.pt seem-t None {expected}\n"
