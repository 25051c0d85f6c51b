"""What a checkpoint tells of the run that wrote it, and whether another run may go on from it."""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import rotate_checkpoints
from transformers.utils import logging

from ..errors import SSPromptError
from ..utils.files import file_digest, give_usual_modes, sync, told_when_full, write_json
from .examples import preprocessing_text

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.get_logger(__name__)

SETTINGS, STATE = "training_settings.json", "trainer_state.json"
MANIFEST = "manifest.json"
"""SHA-256 of every file of a checkpoint; the last file that is written."""
FINISHED = "finished.json"
"""In the newest checkpoint of a run that has gone to its end. Files keep what they say when they are copied, and times
do not."""
DECISIVE = (
    "task",
    "semantic_loss",
    "loss_resolution",
    "auxiliary_loss",
    "random_flip",
    "seed",
    "data_seed",
    "optim",
    "optim_args",
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "bf16",
    "fp16",
)
"""Arguments that a run keeps to its end: another value would be ignored, or tell a lie about the first steps. Its
length is none of them, nor the number of processes as long as a step has as many images."""


PREPROCESSING = "preprocessing"
OTHERS = {"training_images": "other training images", PREPROCESSING: "another image size or image processor"}


def decisive_settings(trainer: "Trainer") -> dict[str, Any]:
    """What must not change when the run of an `SSPromptTrainer` goes on, ready for JSON."""
    args = trainer.args
    values = {name: getattr(args, name) for name in DECISIVE}
    values["batch_size"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    values["prototypes"] = bool(args.prototypes)
    for name, text in (
        ("training_images", "\n".join(trainer.train_dataset.file_names)),
        (PREPROCESSING, preprocessing_text(trainer.image_processor)),
    ):
        values[name] = hashlib.sha256(text.encode()).hexdigest()
    return json.loads(json.dumps(values, default=str))


def write_settings(folder: str | os.PathLike, settings: dict[str, Any]) -> None:
    """Leave `settings` in a checkpoint, and that it will have a manifest."""
    write_json(Path(folder, SETTINGS), settings | {"has_manifest": True})


def check_settings(folder: str | os.PathLike, settings: dict[str, Any]) -> None:
    """
    Raises:
        SSPromptError: the checkpoint in `folder` was written with other settings.
    """
    known = _known_settings(Path(folder))
    if not known:  # of another program
        return
    # what earlier versions did not write
    known = {"prototypes": False, PREPROCESSING: settings[PREPROCESSING]} | known
    changed = [name for name, value in settings.items() if known.get(name) != value]
    if changed:
        texts = [OTHERS.get(name, f"{name} {known.get(name)!r}") for name in changed]
        raise SSPromptError(
            f"{folder} was written with {', '.join(texts)}, and a run keeps these to its end: resume with the same, "
            "or start anew in another output_dir"
        )


def _known_settings(folder: Path) -> dict[str, Any]:
    try:
        known = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise SSPromptError(_damaged(folder, [f"{SETTINGS} is not what was written"]))
    return known


# Whole checkpoints


@contextmanager
def whole_checkpoint(trainer: "Trainer", run_dir: str) -> Iterator[None]:
    """
    Around the writing of a checkpoint: at the end it gets its manifest, and only then older ones make room. What could
    not be written to its end is removed.

    Args:
        trainer: at the step whose checkpoint is written.
        run_dir: the folder of the checkpoints.

    Raises:
        StorageError: the disk is full.
    """
    args, folder = trainer.args, Path(run_dir, f"checkpoint-{trainer.state.global_step}")
    was_there = folder.exists()
    limit, args.save_total_limit = args.save_total_limit, None
    try:
        with told_when_full(folder):
            yield
            trainer.accelerator.wait_for_everyone()  # each process has written its random state
            if args.should_save:
                _write_manifest(folder)
    except BaseException:
        if args.should_save and not was_there:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        args.save_total_limit = limit
    if args.should_save:
        rotate_checkpoints(
            output_dir=run_dir,
            save_total_limit=limit,
            best_model_checkpoint=trainer.state.best_model_checkpoint,
            use_mtime=True,
        )


def _write_manifest(folder: Path) -> None:
    give_usual_modes(folder)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for path in files.values():
        sync(path)
    digests = {name: file_digest(path) for name, path in files.items() if name not in (MANIFEST, FINISHED)}
    write_json(folder / MANIFEST, {"sha256": digests})


def checked_checkpoint(checkpoint: str | bool | None, output_dir: str) -> str | None:
    """
    The checkpoint to go on from, after a look at its files.

    Args:
        checkpoint: its folder; True for the newest in `output_dir`; None or False for none.
        output_dir: of the run.

    Raises:
        SSPromptError: there is none, or files are missing or not what was written.
    """
    if checkpoint is True:
        checkpoint = last_complete_checkpoint(output_dir)
        if checkpoint is None:
            raise SSPromptError(f"there is no whole checkpoint in {output_dir} to go on from: start anew")
    if not checkpoint:
        return None
    check_files(Path(checkpoint))
    return str(checkpoint)


def check_files(folder: Path) -> None:
    """
    See that a checkpoint is what was written.

    Raises:
        SSPromptError: files are missing or damaged; the message names them.
    """
    if not (folder / MANIFEST).is_file():
        if _known_settings(folder).get("has_manifest"):
            raise SSPromptError(_damaged(folder, [f"{MANIFEST} is missing"]))
        _check_without_manifest(folder)
        return
    try:
        digests = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        wrong = [
            f"{name} is not what was written" if (folder / name).is_file() else f"{name} is missing"
            for name, digest in digests.items()
            if not (folder / name).is_file() or file_digest(folder / name) != digest
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        wrong = [f"{MANIFEST} is not what was written"]
    if wrong:
        raise SSPromptError(_damaged(folder, wrong))


def _check_without_manifest(folder: Path) -> None:
    """What can be said of a checkpoint of an earlier version: what is there, and the checksums in PyTorch's files."""
    logger.warning(f"{folder} is of an earlier version, which wrote no {MANIFEST}: not all damage to it would be seen")
    patterns = {"optimizer.pt": "optimizer*", "scheduler.pt": "scheduler.pt", "rng_state.pth": "rng_state*.pth"}
    parts = {name: sorted(folder.glob(pattern)) for name, pattern in patterns.items()}
    missing = [f"{name} is missing" for name, files in parts.items() if not files]
    wrong = missing if len(missing) < len(parts) else []  # all are where only the model was to be saved
    for path in (file for files in parts.values() for file in files if file.is_file()):
        try:
            with zipfile.ZipFile(path) as archive:
                is_whole = archive.testzip() is None
        except (zipfile.BadZipFile, OSError, EOFError):
            is_whole = False
        wrong += [] if is_whole else [f"{path.name} is truncated or damaged"]
    if wrong:
        raise SSPromptError(_damaged(folder, wrong))


def _damaged(folder: Path, wrong: list[str]) -> str:
    return (
        f"{folder} is damaged: {', '.join(wrong)}. Remove it to go on from the checkpoint before it, or start anew in "
        "another output_dir"
    )


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """
    The newest checkpoint that was written to its end, or None.

    Its manifest is the last file of a checkpoint, and the trainer's state of one of an earlier version; a process
    killed while writing leaves it missing or cut off.
    """
    folders = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        try:
            if not (folder / MANIFEST).is_file() and _known_settings(folder).get("has_manifest"):
                raise FileNotFoundError(folder / MANIFEST)
            folders.append((_step(folder), str(folder)))
        except (OSError, ValueError, KeyError, TypeError):
            logger.warning(f"{folder} was not written to its end and is left alone")
    return max(folders)[1] if folders else None


def _step(folder: Path) -> int:
    """Of a checkpoint. Its name tells it where the manifest can tell whether the trainer's state is damaged."""
    number = folder.name.removeprefix("checkpoint-")
    if (folder / MANIFEST).is_file() and number.isdecimal():
        return int(number)
    return int(json.loads((folder / STATE).read_text(encoding="utf-8"))["global_step"])


# Whole runs


def mark_finished(output_dir: str | os.PathLike) -> None:
    """Note that the run whose newest checkpoint lies in `output_dir` has gone to its end."""
    checkpoint = last_complete_checkpoint(output_dir)
    if checkpoint is not None:
        write_json(Path(checkpoint, FINISHED), {"finished": True})


def is_finished(checkpoint: str | os.PathLike, weights: Path) -> bool:
    """
    Whether the run that wrote a checkpoint, its newest, has gone to its end.

    Args:
        checkpoint: its folder.
        weights: of the adapter that the run leaves at its end.
    """
    folder = Path(checkpoint)
    if not weights.is_file():
        return False
    if (folder / MANIFEST).is_file():
        return (folder / FINISHED).is_file()
    # of an earlier version: an older adapter is that of a run before the one that left the checkpoint
    return weights.stat().st_mtime_ns >= (folder / STATE).stat().st_mtime_ns
