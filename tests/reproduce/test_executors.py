"""Tables that several workers share, some of which are killed: the numbers are those of one process."""

import importlib.util
import json
import os
import signal

import pytest
from tiny_training import save_tiny_base

from ssprompt_hf.cli.main import main
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.reproduce.executors import DONE, LOST, READY, Event, Executor, Outcome, ProcessExecutor, Worker
from ssprompt_hf.reproduce.jobs import Evaluate, Learn, Measure, plan_jobs
from ssprompt_hf.reproduce.plans import Choices
from ssprompt_hf.reproduce.presets import make_preset
from ssprompt_hf.reproduce.scheduling import run_jobs
from ssprompt_hf.reproduce.tables import plan_table

QUICK = ["--shots", "1", "--max_steps", "1", "--per_device_train_batch_size", "2", "--use_cpu", "--image_size", "32"]
SCENES = ["--preset", "embedded", "--dataset_options", '{"num_images": 2, "size": [32, 64]}']
TABLES = ["--table", "2", "transfer", "--figure", "3", "--columns", "taxonomy", "both", "--seeds", "0"]
METHODS = ["--methods", "zero_shot", "ssprompt"]
FILES = ("table-2", "table-transfer", "figure-3")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    base = save_tiny_base(tmp_path_factory.mktemp("base"))
    return ["reproduce", *SCENES, *TABLES, *METHODS, *QUICK, "--base_models", base]


@pytest.fixture(scope="module")
def alone(command, tmp_path_factory):
    """What one process finds."""
    folder = tmp_path_factory.mktemp("alone")
    assert main([*command, "--output_dir", str(folder)]) == 0
    return found(folder)


def found(folder) -> dict:
    """The tables, without times and places."""

    def stripped(value):
        if isinstance(value, dict):
            kept = {key: one for key, one in value.items() if not key.endswith("_seconds") and key != "command"}
            return {key: stripped(one) for key, one in kept.items()}
        return [stripped(one) for one in value] if isinstance(value, list) else value

    return {name: stripped(json.loads((folder / "embedded" / name / "results.json").read_text())) for name in FILES}


def test_processes_of_which_one_is_killed(command, alone, tmp_path, monkeypatch, capsys):
    submit, killed = ProcessExecutor.submit, []

    def submit_and_kill(self, worker, job):
        submit(self, worker, job)
        if isinstance(job, Evaluate) and not killed:
            killed.append(self._workers[worker][0])
            os.kill(killed[0].pid, signal.SIGKILL)

    monkeypatch.setattr(ProcessExecutor, "submit", submit_and_kill)
    assert main([*command, "--output_dir", str(tmp_path), "--executor", "processes", "--workers", "2"]) == 0
    assert killed and killed[0].exitcode == -signal.SIGKILL
    assert found(tmp_path) == alone and all(table["complete"] for table in alone.values())
    assert "] SSPrompt, own classes in fog" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install ray")
def test_actors_of_ray_of_which_one_is_killed(command, alone, tmp_path, monkeypatch):
    import ray

    from ssprompt_hf.reproduce.ray_executor import RayExecutor

    submit, killed = RayExecutor.submit, []

    def submit_and_kill(self, worker, job):
        submit(self, worker, job)
        if isinstance(job, Evaluate) and not killed:
            killed.append(worker)
            ray.kill(self._actors[worker])

    monkeypatch.setattr(RayExecutor, "submit", submit_and_kill)
    assert main([*command, "--output_dir", str(tmp_path), "--executor", "ray", "--workers", "2"]) == 0
    assert killed and found(tmp_path) == alone


class Scripted(Executor):
    """Workers that do nothing; those of some jobs are lost."""

    def __init__(self, num_workers: int, fatal=(), error: Exception | None = None):
        self.events = [Event(worker, READY) for worker in range(num_workers)]
        self.fatal, self.error, self.log = list(fatal), error, []

    def start(self, setup):
        return "cpu"

    def submit(self, worker, job):
        self.log.append((worker, job))
        if job in self.fatal:
            self.fatal.remove(job)
            self.events += [Event(worker, LOST, reason="signal SIGKILL"), Event(worker + 10, READY)]
        else:
            self.events.append(Event(worker, DONE, Outcome(0.0, self.error)))

    def wait(self):
        return [self.events.pop(0)]

    def close(self):
        pass


@pytest.fixture
def jobs():
    preset = make_preset("embedded")
    choices = Choices(seeds=(0, 1), methods=("zero_shot", "coop", "ssprompt"), columns=("fog", "both"))
    cost = plan_table("7", preset, Choices(seeds=(0,), methods=("ssprompt",)))
    return plan_jobs(cell.work for plan in (cost, plan_table("2", preset, choices)) for cell in plan.cells)


def test_adapters_come_before_their_evaluation_and_measurements_last(jobs):
    assert [type(job) for job in jobs] == [Learn] * 4 + [Evaluate] + [Learn] * 4 + [Evaluate] + [Measure] * 2
    assert [len(job.works) for job in jobs if isinstance(job, Evaluate)] == [5, 5]
    executor = Scripted(3)
    done = [job for job, _ in run_jobs(jobs, None, executor)]
    assert sorted(map(str, done)) == sorted(map(str, jobs)) and {worker for worker, _ in executor.log} == {0, 1, 2}
    for job in done:
        if isinstance(job, Evaluate):
            assert job.needs <= {one.training for one in done[: done.index(job)] if isinstance(one, Learn)}
    assert all(isinstance(job, Measure) for job in done[-2:])


def test_what_a_lost_worker_had_begun_is_begun_anew(jobs):
    executor = Scripted(2, fatal=[jobs[0], jobs[4], jobs[4], jobs[-1]])
    assert {job for job, _ in run_jobs(jobs, None, executor)} == set(jobs)
    assert len(executor.log) == len(jobs) + 4
    with pytest.raises(
        SSPromptError, match=r"the training of seem-lite-fog-.* was begun 3 times by workers that were"
    ):
        list(run_jobs(jobs, None, Scripted(2, fatal=[jobs[0]] * 3)))


def test_errors_of_workers_are_those_of_one_process(jobs, tmp_path):
    with pytest.raises(SSPromptError, match="a damaged label"):
        list(run_jobs(jobs, None, Scripted(2, error=SSPromptError("a damaged label"))))
    from ssprompt_hf.reproduce.executors import Setup

    with pytest.raises(SSPromptError, match="does not find '/nowhere': all workers need the same folders"):
        Worker(Setup("/nowhere", {}, str(tmp_path), 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "workers is 2, but there is no --executor"),
        (["--executor", "processes", "--workers", "0"], "workers is 0; it must be at least 1"),
        (["--executor", "processes", "--address", "auto"], "which only --executor ray has a use for"),
    ],
)
def test_mistakes(options, message, tmp_path, capsys):
    assert main(["reproduce", "--table", "2", *options, "--output_dir", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
