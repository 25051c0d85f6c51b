"""
Random faults against the library: killed trainings, damaged adapters, base models, checkpoints, images and labels, and
a Hub that fails. What each came to is counted; everything but a right result or a clear refusal is a fault of ours.

    make campaign MINUTES=10 SEED=0
    python tests/campaign/run.py --case adapter_config 17     # one case again, with what it printed

Every case is a process of its own, forked from one that has loaded the library, in a folder of its own. The same seed
gives the same cases in the same order; a longer campaign goes on where a shorter one stopped.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import torch
from cases import CASES
from judging import Damage, Prepared, Refused, half_written, prepare
from transformers.utils import logging

from ssprompt_hf.errors import SSPromptError

GOOD = ("passed", "refused clearly")
BAD = ("raw traceback", "hang", "silent damage", "half-written file", "work lost")
MEMORY = 6 << 30
"""Bytes of address space that a case may take more than the process it is forked from: a file of a kilobyte must not
ask for more."""


@dataclass
class Outcome:
    kind: str
    seed: int
    result: str
    detail: str


def run_in_child(kind: str, seed: int, folder: Path, prepared: Prepared, report: Path) -> None:
    """Does one case, in the forked process; never returns."""
    os.setpgid(0, 0)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    output = os.open(folder.parent / f"{folder.name}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    rng = random.Random(f"{kind} {seed}")
    torch.manual_seed(seed)
    try:
        result, detail = "passed", CASES[kind](rng, folder, prepared)
        if found := half_written(folder):
            result, detail = "half-written file", f"{detail}; {found}"
    except Damage as error:
        result, detail = error.result, str(error)
    except (SSPromptError, Refused) as error:
        result, detail = "refused clearly", f"{type(error).__name__}: {error}"
        if found := half_written(folder):
            result, detail = "half-written file", f"{detail}; {found}"
    except BaseException as error:
        import traceback

        traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        result = "raw traceback"
        detail = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
    report.write_text(json.dumps([result, detail]))
    os._exit(0)


def run_case(kind: str, seed: int, prepared: Prepared, limit: float, show: bool = False) -> Outcome:
    """One case in a process of its own, with an end to its time."""
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch:
        folder, report = Path(scratch, "case"), Path(scratch, "report.json")
        folder.mkdir()
        child = os.fork()
        if not child:
            try:
                run_in_child(kind, seed, folder, prepared, report)
            finally:
                os._exit(1)
        end = time.monotonic() + limit
        status = None
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.01)
        else:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        if show:
            print(Path(scratch, "case.log").read_text(errors="replace"))
        if status is None or (not report.is_file() and time.monotonic() >= end):
            return Outcome(kind, seed, "hang", f"not done after {limit:.0f} s")
        if not report.is_file():
            return Outcome(kind, seed, "raw traceback", f"the process ended with {os.waitstatus_to_exitcode(status)}")
        return Outcome(kind, seed, *json.loads(report.read_text()))


def table(outcomes: list[Outcome]) -> str:
    """A line for each kind, a column for each result."""
    counts = Counter((outcome.kind, outcome.result) for outcome in outcomes)
    lines = [["", *GOOD, *BAD]]
    lines += [[kind, *(str(counts[kind, result]) for result in (*GOOD, *BAD))] for kind in CASES]
    lines += [["all", *(str(sum(counts[kind, result] for kind in CASES)) for result in (*GOOD, *BAD))]]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=90, help="seconds of a case, then it hangs")
    parser.add_argument("--kinds", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--case", nargs=2, metavar=("KIND", "SEED"), help="one case, with its output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="campaign-") as home:
        # caches of the campaign stay out of the user's; read before any process uses them
        os.environ["HF_HOME"] = home
        prepared = prepare(Path(home))
        if options.case:
            kind, seed = options.case
            outcome = run_case(kind, int(seed), prepared, options.limit, show=True)
            print(f"{outcome.result}: {outcome.detail}")
            return outcome.result not in GOOD
        end, outcomes = time.monotonic() + 60 * options.minutes, []
        number = options.seed * 1_000_000
        while time.monotonic() < end:
            kind = options.kinds[number % len(options.kinds)]
            outcome = run_case(kind, number, prepared, options.limit)
            outcomes.append(outcome)
            if outcome.result in BAD:
                print(f"{outcome.result}: {kind} {number}: {outcome.detail}", flush=True)
            number += 1
    shutil.rmtree(home, ignore_errors=True)
    print(table(outcomes))
    return int(any(outcome.result in BAD for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
