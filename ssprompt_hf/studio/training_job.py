"""A training in the background, as `ssprompt-hf train` does it: with progress, to be cancelled and resumed."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.utils import logging

from ..adapters.files import read_adapter
from ..errors import SSPromptError
from ..models.registry import ADAPTER_WEIGHTS
from ..training.arguments import MAX_STEPS, SSPromptTrainingArguments
from ..training.checkpoints import is_finished, last_complete_checkpoint
from ..training.runs import ADAPTER, METRICS, train_adapter
from ..training.settings import DataArguments, PromptArguments
from ..utils.files import write_json
from ..utils.memory import is_out_of_memory
from ..utils.names import file_name
from .project import CLASSES, IMAGES, LABELS, OBJECTS, Project, check_labelled

logger = logging.get_logger(__name__)

IDLE, PREPARING, RUNNING, SCORING, DONE, CANCELLED, FAILED = (
    "idle",
    "preparing",
    "running",
    "scoring",
    "done",
    "cancelled",
    "failed",
)
BUSY = (PREPARING, RUNNING, SCORING)
SETTINGS, DATA = "studio.json", "data"


@dataclass
class TrainingSettings:
    """
    What a person chooses; all else is as `ssprompt-hf train` has it.

    Args:
        base_model: name, folder or Hub id.
        max_steps: of training.
        learning_rate: None for that of the method.
        seed: of the order of images.
    """

    base_model: str
    max_steps: int = MAX_STEPS
    learning_rate: float | None = None
    seed: int = 42


@dataclass
class Progress:
    """
    Args:
        state: one of the states above.
        step, max_steps: of training.
        losses: (step, mean loss since the one before).
        message: in words; the error of a training that failed.
        metrics: of `metrics.json`, when it is done.
        can_resume: whether a run was left that can go on.
    """

    state: str = IDLE
    step: int = 0
    max_steps: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    message: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    can_resume: bool = False

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.step / self.max_steps if self.max_steps else 0.0


class _CancelledError(Exception):
    """Leaves a training after its checkpoint was written."""


class _Watch(TrainerCallback):
    """Tells a job how far its training is, and stops it when the job is cancelled."""

    def __init__(self, job: "TrainingJob"):
        self.job = job

    def on_train_begin(self, args, state, control, **kwargs):
        """See `TrainerCallback`."""
        losses = [(entry["step"], entry["loss"]) for entry in state.log_history if "loss" in entry]  # of a resumed run
        self.job.tell(state=RUNNING, step=state.global_step, max_steps=state.max_steps, losses=losses)

    def on_step_end(self, args, state, control, **kwargs):
        """See `TrainerCallback`."""
        self.job.tell(step=state.global_step)
        if self.job.is_cancelled and state.global_step < state.max_steps:
            control.should_save = True
        return control

    def on_save(self, args, state, control, **kwargs):
        """See `TrainerCallback`."""
        if self.job.is_cancelled and state.global_step < state.max_steps:
            raise _CancelledError

    def on_log(self, args, state, control, logs=None, **kwargs):
        """See `TrainerCallback`."""
        if logs and "loss" in logs:
            self.job.tell(losses=[*self.job.progress.losses, (state.global_step, float(logs["loss"]))])

    def on_train_end(self, args, state, control, **kwargs):
        """See `TrainerCallback`."""
        self.job.tell(state=SCORING)


class TrainingJob:
    """
    At most one training of a project at a time, in a thread of its own.

    Args:
        project: what is learned from. A training sees the labels of the moment when it was started, whatever is
            labelled meanwhile.
        when_done: called with the folder of the finished adapter, a copy in the project.
    """

    def __init__(self, project: Project, when_done: Callable[[Path], None] = lambda adapter: None):
        self.project, self.when_done = project, when_done
        self.progress = Progress(can_resume=self._left_run() is not None)
        self.is_cancelled = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        metrics = self.project.runs.glob(f"*/{METRICS}")
        if (newest := max(metrics, default=None, key=lambda path: path.parent.name)) is not None:
            self.progress.metrics = json.loads(newest.read_text(encoding="utf-8"))

    def tell(self, **changes: Any) -> None:
        """Progress of the training; for its own thread."""
        for name, value in changes.items():
            setattr(self.progress, name, value)

    def start(self, settings: TrainingSettings) -> None:
        """
        Raises:
            SSPromptError: a training is running, nothing is labelled, or a class has no label.
        """
        check_labelled(self.project)
        self._begin(self._new_run(settings), settings, resume=False)

    def resume(self) -> None:
        """
        Go on with the run that was cancelled, or that a killed server has left.

        Raises:
            SSPromptError: there is none, or a training is running.
        """
        run = self._left_run()
        if run is None:
            raise SSPromptError("there is no training to go on with: start one")
        self._begin(run, TrainingSettings(**json.loads((run / SETTINGS).read_text(encoding="utf-8"))), resume=True)

    def cancel(self) -> None:
        """Stop after the step that is being made; a checkpoint is left to go on from."""
        if self.progress.state in (PREPARING, RUNNING):
            self.is_cancelled = True

    def wait(self, seconds: float | None = None) -> Progress:
        """Until the training has ended, or for so long."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self.progress

    def held_out(self) -> list[str]:
        """Photographs that the newest adapter has not learned from, those with labels first."""
        chosen: set[str] = set()
        if (self.project.folder / ADAPTER / ADAPTER_WEIGHTS).is_file():
            chosen = set(read_adapter(self.project.folder / ADAPTER).config.chosen_images or ())
        rest = [name for name in self.project.images if f"{IMAGES}/{name}" not in chosen]
        return sorted(rest, key=lambda name: not self.project.pixels_of_classes(name))

    # Runs

    def _left_run(self) -> Path | None:
        """The newest run, if it did not finish and has a checkpoint."""
        run = max(self.project.runs.glob("[0-9]*"), default=None, key=lambda path: path.name)
        if run is None or not (run / SETTINGS).is_file():
            return None
        checkpoint = last_complete_checkpoint(run)
        if checkpoint is None or is_finished(checkpoint, run / ADAPTER / ADAPTER_WEIGHTS):
            return None
        return run

    def _new_run(self, settings: TrainingSettings) -> Path:
        """A folder with the settings and the labels as they are now."""
        if self.progress.state in BUSY:
            raise SSPromptError("a training is running: wait for it, or cancel it")
        numbers = [int(path.name) for path in self.project.runs.glob("[0-9]*") if path.name.isdecimal()]
        run = self.project.runs / f"{max(numbers, default=0) + 1:04d}"
        data = run / DATA / self._data_name
        for name in self.project.labelled:
            label = Path(name).with_suffix(".png")
            for kind, file in ((IMAGES, name), (LABELS, label), (OBJECTS, label)):
                source, target = self.project.folder / kind / file, data / kind / file
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(source, target)
        shutil.copyfile(self.project.folder / CLASSES, data / CLASSES)
        write_json(run / SETTINGS, asdict(settings))
        return run

    @property
    def _data_name(self) -> str:
        """The name of the data set, which the adapter keeps."""
        return file_name(self.project.folder.name) or "photographs"

    def _begin(self, run: Path, settings: TrainingSettings, resume: bool) -> None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise SSPromptError("a training is running: wait for it, or cancel it")
            self.is_cancelled = False
            self.progress = Progress(PREPARING, max_steps=settings.max_steps)
            self._thread = threading.Thread(target=self._run, args=(run, settings, resume), daemon=True)
            self._thread.start()

    def _run(self, run: Path, settings: TrainingSettings, resume: bool) -> None:
        try:
            args = SSPromptTrainingArguments(
                output_dir=str(run),
                max_steps=settings.max_steps,
                learning_rate=settings.learning_rate,
                seed=settings.seed,
                logging_steps=max(1, settings.max_steps // 40),
                save_steps=max(1, settings.max_steps // 4),
                report_to="none",
                disable_tqdm=True,
            )
            data = DataArguments(base_model=settings.base_model, data_dir=str(run / DATA / self._data_name))
            metrics = train_adapter(data, PromptArguments(resume=resume), args, callbacks=[_Watch(self)])
            adapter = self.project.publish(run / ADAPTER)
            self.when_done(adapter)
            self.tell(state=DONE, step=self.progress.max_steps, metrics=metrics)
        except _CancelledError:
            self.tell(state=CANCELLED, can_resume=True, message=f"stopped after step {self.progress.step}")
        except Exception as error:  # a thread's error would be seen by nobody
            if not isinstance(error, SSPromptError):
                logger.exception("the training failed")
            message = "there is not enough memory" if is_out_of_memory(error) else str(error)
            self.tell(state=FAILED, message=message, can_resume=self._left_run() is not None)


def _link(source: Path, target: Path) -> None:
    """A second name of a file, which keeps its content when the first name gets another; a copy where there are no
    links."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
