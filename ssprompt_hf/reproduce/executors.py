"""Workers that share the work of tables: what the scheduler asks of them; and those that are local processes."""

import abc
import contextlib
import os
import pickle
import signal
import time
import traceback
from collections.abc import Hashable
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any, NamedTuple

import torch
from transformers.utils import logging

from ..errors import SSPromptError
from .cells import CellRunner
from .jobs import Job, job_name

logger = logging.get_logger(__name__)

READY, DONE, LOST = "ready", "done", "lost"
MAX_LOST_AT_START = 3
"""How many workers in a row may end before they are ready."""


@dataclass(frozen=True)
class Setup:
    """
    What workers need to know.

    Args:
        folder: of the cells and adapters; the same for all workers.
        training: as of `CellRunner`.
        directory: the working directory, which relative paths of data sets begin at.
        threads: of each worker on the CPU. Results can depend on it in the last bit, so that all have as many as the
            process that asks.
    """

    folder: str
    training: dict[str, Any]
    directory: str
    threads: int


class Outcome(NamedTuple):
    """Of one job: the seconds that it took, and the error that it ended with."""

    seconds: float
    error: Exception | None


class Event(NamedTuple):
    """
    What happened to a worker.

    Args:
        worker: which.
        kind: `"ready"`: it waits for its first job; `"done"`: it has ended a job and waits for the next; `"lost"`: it
            has ended itself.
        outcome: of a job that is done.
        reason: why a worker was lost, if that is known.
    """

    worker: Hashable
    kind: str
    outcome: Outcome | None = None
    reason: str = ""


class Worker:
    """
    What runs in each worker.

    Raises:
        SSPromptError: the folders of the process that asks are not there.
    """

    def __init__(self, setup: Setup):
        for folder in (setup.directory, setup.folder):
            if not os.path.isdir(folder):
                raise SSPromptError(
                    f"a worker on {os.uname().nodename} does not find {folder!r}: all workers need the same folders, "
                    "on a file system that their machines share"
                )
        os.chdir(setup.directory)
        torch.set_num_threads(setup.threads)
        logging.disable_progress_bar()
        self.runner = CellRunner(setup.folder, setup.training)

    def get_device(self) -> str:
        """What it computes on."""
        return self.runner.device

    def run(self, job: Job) -> Outcome:
        """Do a job; its results are files."""
        start = time.perf_counter()
        try:
            self.runner.run(job)
        except Exception as error:
            return Outcome(time.perf_counter() - start, _told(error, job))
        return Outcome(time.perf_counter() - start, None)


def _told(error: Exception, job: Job) -> Exception:
    """An error that can leave its process; one of the user's as it is, others with where they come from."""
    if isinstance(error, (SSPromptError, OSError)):
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return SSPromptError(str(error))
        return error
    return RuntimeError(f"{job_name(job)} failed in a worker:\n{traceback.format_exc()}")


class Executor(abc.ABC):
    """
    Workers that are asked one job at a time. One that is lost is replaced, and the new one tells when it is ready.

    Use as a context manager, which ends the workers.
    """

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @abc.abstractmethod
    def start(self, setup: Setup) -> str:
        """
        Start the workers, and wait for the first.

        Returns:
            the device that it computes on.

        Raises:
            SSPromptError: they cannot be started.
        """

    @abc.abstractmethod
    def submit(self, worker: Hashable, job: Job) -> None:
        """Give a job to a worker that is ready or done."""

    @abc.abstractmethod
    def wait(self) -> list[Event]:
        """What has happened, at least one event."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the workers, whatever they do."""


class ProcessExecutor(Executor):
    """
    Processes of this machine, each with a GPU of its own where there are several.

    Args:
        num_workers: by default one a GPU, or one without any.

    Raises:
        SSPromptError: a number below 1.
    """

    def __init__(self, num_workers: int | None = None):
        if num_workers is not None and num_workers < 1:
            raise SSPromptError(f"workers is {num_workers}; it must be at least 1")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = torch.cuda.device_count()
        self.devices = visible.split(",")[:count] if visible else [str(index) for index in range(count)]
        self.num_workers = num_workers or max(1, count)
        self._context = get_context("spawn")
        self._workers: dict[int, tuple[Any, Any]] = {}
        self._ready: set[int] = set()
        self._events: list[Event] = []
        self._lost_at_start = 0

    def start(self, setup: Setup) -> str:
        cores = os.cpu_count() or 1
        if not self.devices and self.num_workers * setup.threads > cores:
            logger.warning(
                f"{self.num_workers} workers with {setup.threads} threads each share {cores} cores: with "
                f"OMP_NUM_THREADS={max(1, cores // self.num_workers)} they are faster"
            )
        self._setup = setup
        for worker in range(self.num_workers):
            self._launch(worker)
        self._events += self.wait()
        return self._device

    def _launch(self, worker: int) -> None:
        ours, theirs = self._context.Pipe()
        device = self.devices[worker % len(self.devices)] if self.devices else None
        process = self._context.Process(target=_serve, args=(theirs, self._setup, device))
        process.start()
        theirs.close()
        self._workers[worker] = process, ours

    def submit(self, worker: int, job: Job) -> None:
        with contextlib.suppress(OSError):  # it may have ended; `wait` will say so
            self._workers[worker][1].send(job)

    def wait(self) -> list[Event]:
        if self._events:
            events, self._events = self._events, []
            return events
        pipes = {pipe: worker for worker, (_, pipe) in self._workers.items()}
        events = []
        for pipe in connection.wait(list(pipes)):
            worker = pipes[pipe]
            try:
                said = pipe.recv()
            except (EOFError, OSError):
                events.append(Event(worker, LOST, reason=self._replace(worker)))
                continue
            if isinstance(said, Outcome):
                events.append(Event(worker, DONE, said))
            elif isinstance(said, Exception):
                raise said
            else:
                self._device, self._lost_at_start = said, 0
                self._ready.add(worker)
                events.append(Event(worker, READY))
        return events or self.wait()

    def _replace(self, worker: int) -> str:
        process, pipe = self._workers.pop(worker)
        pipe.close()
        process.join()
        code = process.exitcode
        reason = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        if worker not in self._ready:
            self._lost_at_start += 1
            if self._lost_at_start == MAX_LOST_AT_START:
                raise SSPromptError(f"workers end before they have begun ({reason}): try fewer --workers")
        self._ready.discard(worker)
        self._launch(worker)
        return reason

    def close(self) -> None:
        for process, _ in self._workers.values():
            process.terminate()
        for process, pipe in self._workers.values():
            process.join()
            pipe.close()
        self._workers.clear()


def _serve(pipe: Any, setup: Setup, device: str | None) -> None:
    """The life of a process: it ends when the one that has started it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        worker = Worker(setup)
    except SSPromptError as error:
        pipe.send(error)
        return
    pipe.send(worker.get_device())
    try:
        while True:
            pipe.send(worker.run(pipe.recv()))
    except (EOFError, OSError):
        return
