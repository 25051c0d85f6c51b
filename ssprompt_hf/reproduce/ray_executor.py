"""Workers on all machines of a Ray cluster."""

from typing import Any

from ..errors import SSPromptError
from .executors import DONE, LOST, MAX_LOST_AT_START, READY, Event, Executor, Outcome, Setup, Worker
from .jobs import Job


class RayExecutor(Executor):
    """
    Actors of Ray, each with a GPU of its own where the cluster has GPUs. The package must be installed on all
    machines, and the folders of the run must be there.

    Args:
        address: of the cluster, as `ray.init` takes it; by default that of `RAY_ADDRESS`, or a cluster of this machine
            alone, which is started.
        num_workers: by default one a GPU, or one without any.

    Raises:
        SSPromptError: Ray is not installed, the cluster cannot be reached, or a number below 1.
    """

    def __init__(self, address: str | None = None, num_workers: int | None = None):
        if num_workers is not None and num_workers < 1:
            raise SSPromptError(f"workers is {num_workers}; it must be at least 1")
        try:
            import ray
        except ImportError:
            raise SSPromptError(
                "executor is 'ray', which is not installed: pip install 'ssprompt-hf[ray]', or take processes"
            ) from None
        self.ray, self.num_workers = ray, num_workers
        self._is_mine = not ray.is_initialized()
        try:
            ray.init(address, ignore_reinit_error=True, log_to_driver=False, include_dashboard=None)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise SSPromptError(f"there is no Ray cluster at {address!r}: {error}") from error
        self._actors: dict[int, Any] = {}
        self._waiting: dict[Any, int] = {}
        self._ready: set[int] = set()
        self._events: list[Event] = []
        self._next = self._lost_at_start = 0

    def start(self, setup: Setup) -> str:
        gpus = int(self.ray.cluster_resources().get("GPU", 0))
        actor = self.ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=0)(Worker)
        self._make = lambda: actor.remote(setup)
        for _ in range(self.num_workers or max(1, gpus)):
            self._launch()
        self._events += self.wait()
        return self._device

    def _launch(self) -> None:
        worker, self._next = self._next, self._next + 1
        self._actors[worker] = self._make()
        self._waiting[self._actors[worker].get_device.remote()] = worker

    def submit(self, worker: int, job: Job) -> None:
        self._waiting[self._actors[worker].run.remote(job)] = worker

    def wait(self) -> list[Event]:
        if self._events:
            events, self._events = self._events, []
            return events
        [done], _ = self.ray.wait(list(self._waiting), num_returns=1)
        worker = self._waiting.pop(done)
        try:
            said = self.ray.get(done)
        except self.ray.exceptions.RayActorError as error:
            return [Event(worker, LOST, reason=self._replace(worker, error))]
        if isinstance(said, Outcome):
            return [Event(worker, DONE, said)]
        self._device, self._lost_at_start = said, 0
        self._ready.add(worker)
        return [Event(worker, READY)]

    def _replace(self, worker: int, error: Exception) -> str:
        del self._actors[worker]
        cause = getattr(error, "cause", None) or error
        reason = (str(error).strip().splitlines() or [""])[0]
        if worker not in self._ready:
            self._lost_at_start += 1
            if self._lost_at_start == MAX_LOST_AT_START:
                raise SSPromptError(f"workers end before they have begun: {cause}")
        self._ready.discard(worker)
        self._launch()
        return reason

    def close(self) -> None:
        for actor in self._actors.values():
            self.ray.kill(actor)
        self._actors.clear()
        if self._is_mine:
            self.ray.shutdown()
