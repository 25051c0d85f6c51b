"""Which worker does which job, and what becomes of the jobs of workers that are lost."""

import time
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

from transformers.utils import logging

from ..errors import SSPromptError
from .cells import CellRunner
from .executors import DONE, LOST, Executor
from .jobs import Evaluate, Job, Learn, Measure, job_name

logger = logging.get_logger(__name__)

MAX_LOST = 3
"""Workers that a job may take with it."""


def run_jobs(jobs: Sequence[Job], runner: CellRunner, executor: Executor | None = None) -> Iterator[tuple[Job, float]]:
    """
    Do jobs, in their order or, with an executor whose workers have been started, beside each other: adapters before
    their evaluation, measurements alone and last. A worker gets what shares images with its last job, if it can.

    Args:
        jobs: as `plan_jobs` has them.
        runner: does them without an executor.
        executor: the workers.

    Yields:
        a job that is done, and the seconds that it took.

    Raises:
        SSPromptError: as `CellRunner.run`; or a job has been begun three times by workers that were lost.
    """
    if executor is None:
        for job in jobs:
            start = time.perf_counter()
            runner.run(job)
            yield job, time.perf_counter() - start
        return
    waiting, running = list(jobs), {}
    idle: dict[Hashable, Hashable] = {}  # a worker -> what it has images of
    lost = Counter()
    while waiting or running:
        for worker in list(idle):
            job = _next_job(waiting, running, idle[worker])
            if job is not None:
                waiting.remove(job)
                running[worker] = job
                del idle[worker]
                executor.submit(worker, job)
        for event in executor.wait():
            job = running.pop(event.worker, None)
            if event.kind == LOST:
                idle.pop(event.worker, None)
                if job is not None:
                    lost[job] += 1
                    _tell_lost(job, lost[job], event.reason)
                    waiting.insert(0, job)
                continue
            idle[event.worker] = job and job.shares
            if event.kind == DONE:
                if event.outcome.error is not None:
                    raise event.outcome.error
                yield job, event.outcome.seconds


def _next_job(waiting: Sequence[Job], running: dict, known: Hashable) -> Job | None:
    """For a worker that has images of `known`; None if there is nothing that it can do by now."""
    if any(isinstance(job, Measure) for job in running.values()):
        return None
    to_learn = {job.training for job in (*waiting, *running.values()) if isinstance(job, Learn)}
    ready = [
        job for job in waiting if isinstance(job, Learn) or (isinstance(job, Evaluate) and not job.needs & to_learn)
    ]
    if ready:
        return next((job for job in ready if job.shares == known), ready[0])
    alone = not running and all(isinstance(job, Measure) for job in waiting)
    return waiting[0] if waiting and alone else None


def _tell_lost(job: Job, times: int, reason: str) -> None:
    because = f" ({reason})" if reason else ""
    if times == MAX_LOST:
        raise SSPromptError(
            f"{job_name(job)} was begun {times} times by workers that were lost{because}: if memory is short, try "
            "fewer --workers"
        )
    logger.warning(f"the worker of {job_name(job)} was lost{because}; another one begins it anew")
