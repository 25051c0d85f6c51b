"""What can only be measured or tested on a GPU, one after the other, each with a time limit.

    python benchmarks/on_gpu.py --output_dir out/gpu
    python benchmarks/on_gpu.py --only lora-sam3 tests

Writes what each printed to `<name>.txt`, numbers to `<name>.json`. A part that fails or takes too long does not stop
the others; the exit status says whether one did.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
MINUTE = 60


def parts(output: Path) -> dict[str, tuple[int, list[str]]]:
    """Name -> time limit in seconds and command."""

    def script(name: str, *options: str) -> list[str]:
        return [sys.executable, str(HERE / name), *options]

    full = ["--height", "512", "--width", "1024"]
    return {
        "tests": (3 * MINUTE, [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(HERE.parent / "tests")]),
        "lora-sam3": (
            4 * MINUTE,
            script("lora.py", "--model", "sam3", "--device", "cuda", "--batch_size", "1", *full)
            + ["--output", str(output / "lora-sam3.json")],
        ),
        "lora-seem-t": (
            2 * MINUTE,
            script("lora.py", "--model", "seem-t", "--device", "cuda", *full)
            + ["--output", str(output / "lora-seem-t.json")],
        ),
        "forward": (
            2 * MINUTE,
            script("seem_forward.py", "--device", "cuda", "--output", str(output / "forward.json")),
        ),
        "step": (2 * MINUTE, script("train_step.py", "--model", "seem-t", "--cuda", "--kept", *full)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("out/gpu"))
    parser.add_argument("--only", nargs="+", choices=parts(Path()), help="these parts only")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was run", file=sys.stderr)
        return 1
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, (limit, command) in parts(options.output_dir).items():
        if options.only is not None and name not in options.only:
            continue
        path, start = options.output_dir / f"{name}.txt", time.perf_counter()
        with open(path, "w") as file:
            try:
                done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=limit)
                status = "done" if done.returncode == 0 else f"failed ({done.returncode})"
            except subprocess.TimeoutExpired:
                status = f"stopped after {limit} s"
        if status != "done":
            failed.append(name)
        print(f"--- {name}: {status}, {time.perf_counter() - start:.0f} s\n{path.read_text()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
