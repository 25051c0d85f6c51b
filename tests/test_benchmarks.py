"""Every benchmark starts: what it imports is there, and its options can be told."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
# measuring.py holds what the others share
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "measuring")


@pytest.mark.parametrize("name", SCRIPTS)
def test_benchmark_starts(name, monkeypatch, capsys):
    if name == "export":
        pytest.importorskip("onnxruntime", reason="it compares with onnxruntime, of the extra `export`")
    path = FOLDER / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.syspath_prepend(str(FOLDER))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0 and "usage:" in capsys.readouterr().out
