"""Running the cells of a table: each leaves a file, by which it is known to be done.

In the output folder,

    cells/<name>-<digest>.json          what one piece of work found, with its exact settings
    adapters/<name>-<digest>/           an adapter that was learned for it, and `training.json`

The digest is one of the settings: those of the data, of the method and of training, the task, the seed, and the
fingerprint of the base model. The same settings are not run again, whichever table asks; other settings make another
file. Files appear whole, so that a run that was killed goes on with the job it was in.
"""

import dataclasses
import gc
import hashlib
import json
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback
from transformers.utils import logging

from ..adapters.info import adapter_info
from ..data.classes import SegmentationClasses
from ..data.dataset import SegmentationDataset, check_disjoint
from ..errors import DownloadError, SSPromptError
from ..loading import load_base_model
from ..models.fingerprint import model_fingerprint
from ..training.arguments import SSPromptTrainingArguments, open_arguments
from ..training.data_choice import select_training_images
from ..training.evaluation_runs import prepare_evaluation
from ..training.evaluator import ADAPTED
from ..training.feature_cache import FeatureCache
from ..training.reports import in_percent
from ..training.runs import ADAPTER, prepare_training, unusual_arguments
from ..training.settings import RECIPES, PromptArguments
from ..tuners import PromptConfig
from ..tuners.base.config import current_versions
from ..utils.files import write_json
from .jobs import Job, Learn, Measure
from .plans import ROWS, Domain, Score, StepCost, Training, Work, work_name
from .shared_work import SharedWork
from .step_cost import measure_step

logger = logging.get_logger(__name__)

TRAINING = "training.json"
WITHOUT_EFFECT = (
    "output_dir",
    "run_name",
    "disable_tqdm",
    "report_to",
    "use_cpu",
    "dataloader_num_workers",
    "feature_cache",
    "feature_cache_dir",
)
"""Training arguments that change nothing in what is learned; so are those of logging and saving."""


class CellRunner:
    """
    Runs what a table needs and remembers it.

    Args:
        output_dir: folder for the cells and adapters of all tables.
        training: training arguments that differ from the defaults of the library and of the method.
        shared: images and features of another runner, whose training arguments differ in nothing they depend on.

    Raises:
        SSPromptError: a training argument that has no such value.
    """

    def __init__(
        self, output_dir: str | Path, training: dict[str, Any] | None = None, shared: SharedWork | None = None
    ):
        self.folder, self.training = Path(output_dir), training or {}
        args = self.arguments("semantic", 0)
        if args.world_size > 1:
            raise SSPromptError(
                f"{args.world_size} processes were started, but tables are made by one: start it without accelerate "
                "launch, or several with other --seeds and the same --output_dir"
            )
        cache = args.feature_cache_dir or str(self.folder / "feature_cache")
        self.shared = shared or SharedWork(args.feature_cache, cache, int(args.feature_cache_gb * 2**30))
        self._spills = args.feature_cache == "auto" and args.feature_cache_dir is None
        self.device = str(args.device)
        self._bases: dict[str, dict[str, Any]] = {}
        self._settings: dict[Work, dict[str, Any]] = {}

    # Settings

    def arguments(self, task: str, seed: int) -> SSPromptTrainingArguments:
        """Those that adapters for a task are learned with, and their evaluation."""
        own = {"disable_tqdm": True, "report_to": "none", "save_strategy": "no", "logging_strategy": "no"}
        own |= {"eval_strategy": "no", "output_dir": str(self.folder)}
        return SSPromptTrainingArguments(**(self.training | own | {"task": task, "seed": seed}))

    def _prompts(self, training: Training) -> PromptArguments:
        fields = {"recipe": "paper", **ROWS[training.method].prompts}
        if training.options:
            fields["prompt_options"] = json.dumps(dict(training.options))
        return PromptArguments(shots=training.shots, allow_fewer=True, **fields)

    def settings(self, work: Work) -> dict[str, Any]:
        """Everything that the result of `work` depends on, but the versions of software; ready for JSON."""
        if work not in self._settings:
            self._settings[work] = json.loads(json.dumps(self._work_settings(work)))
        return self._settings[work]

    def _work_settings(self, work: Work) -> dict[str, Any]:
        if isinstance(work, StepCost):
            settings = {**dataclasses.asdict(work), "device": self.device, "threads": torch.get_num_threads()}
            settings["training"] = self.common_settings()
            settings["training"].pop("shrinkage")  # which comes after the last step
        else:
            arguments = work.domain.arguments(work.base_model)
            data = dataclasses.asdict(arguments) | {"eval_split": arguments.evaluation_split}
            data = {name: value for name, value in data.items() if name not in ("base_model", "train_split")}
            settings = {"base_model": self.base(work.base_model), "task": work.task, "data": data}
            settings["adapter"] = work.training and self.training_settings(work.training)
        return settings

    def training_settings(self, training: Training) -> dict[str, Any]:
        """The same for an adapter."""
        data = dataclasses.asdict(training.domain.arguments(training.base_model))
        evaluation = ("base_model", "eval_split", "max_eval_images")
        data = {name: value for name, value in data.items() if name not in evaluation}
        prompts = self._prompts(training)
        config = prompts.config()
        own = set(config.__dataclass_fields__) - set(PromptConfig.__dataclass_fields__)
        method = {name: getattr(config, name) for name in sorted(own)}
        for name, off in (("deep_prompts", "none"), ("prompts_per_class", 1), ("class_masks", False)):
            if method.get(name) == off:  # which cells of earlier versions know nothing of
                del method[name]
        args = self.arguments(training.task, training.seed)
        added = [part for part in RECIPES[prompts.recipe] if prompts.adds(part, training.task)]
        return {
            "base_model": self.base(training.base_model),
            "data": data,
            "method": prompts.method,
            "prompts": method,
            **({"recipe": added} if added else {}),
            "shots": training.shots,
            "training": _training_settings(args) | open_arguments(args, config.training_defaults),
        }

    def base(self, base_model: str) -> dict[str, Any]:
        """
        Name and fingerprint; where there is one, the text encoder that it borrows, and the limit of what its image
        processor leaves as large as it is.

        Raises:
            DownloadError, UnknownNameError: it cannot be had.
        """
        if base_model not in self._bases:
            try:
                model, processor = load_base_model(base_model)
            except DownloadError as error:
                raise DownloadError(f"{error}. Another base model can be named with --base_models") from error
            self._bases[base_model] = {"name": base_model, "fingerprint": model_fingerprint(model)}
            if model.borrowed_text_encoder is not None:
                self._bases[base_model]["text_encoder"] = model.borrowed_text_encoder
            limit = getattr(processor, "max_shortest_edge", None)
            if limit is not None:
                self._bases[base_model] |= {"max_shortest_edge": limit, "enlargement": processor.enlargement}
        return self._bases[base_model]

    def common_settings(self) -> dict[str, Any]:
        """The training arguments that all cells have in common."""
        return _training_settings(self.arguments("semantic", 0))

    def known_bases(self) -> dict[str, dict[str, Any]]:
        """Name and fingerprint of the base models that have been loaded."""
        return dict(self._bases)

    def take_bases(self, bases: dict[str, dict[str, Any]]) -> None:
        """What another process knows of base models that have not been loaded here: enough to find their cells."""
        self._bases = bases | self._bases

    # Files

    def path(self, work: Work) -> Path:
        """The file of a piece of work."""
        return self.folder / "cells" / f"{work_name(work)}-{_digest(self.settings(work))}.json"

    def adapter_folder(self, training: Training) -> Path:
        """The folder of an adapter and of what is known of its training."""
        return self.folder / "adapters" / f"{work_name(training)}-{_digest(self.training_settings(training))}"

    def finished(self, work: Work) -> dict[str, Any] | None:
        """What is known of work that was done before with the same settings, else None."""
        return _read(self.path(work), self.settings(work))

    def learned(self, training: Training) -> dict[str, Any] | None:
        """What is known of an adapter that was learned before with the same settings, else None."""
        settings = json.loads(json.dumps(self.training_settings(training)))
        record = _read(self.adapter_folder(training) / TRAINING, settings)
        return None if record is None else record["training"]

    # Running

    def run(self, job: Job) -> None:
        """
        Do what a job asks for, as far as it has not been done before, and write what came out.

        Raises:
            SSPromptError: a setting, a file or a name is wrong; subclasses say which.
        """
        if isinstance(job, Learn):
            self._learn(job.training)
        elif isinstance(job, Measure):
            if self.finished(job.work) is None:
                self._write(job.work, {"cost": self._measure(job.work)})
        else:
            works = [work for work in job.works if self.finished(work) is None]
            if works:
                self._score(works)
        gc.collect()

    def _write(self, work: Work, record: dict[str, Any]) -> None:
        versions = current_versions() | {"python": platform.python_version()}
        own = {"settings": self.settings(work), "versions": versions, "device": self.device}
        write_json(self.path(work), own | record)

    def _measure(self, work: StepCost) -> dict[str, Any]:
        args = self.arguments("semantic", 0)
        return measure_step(work.base_model, work.method, work.cached, work.setting, args)

    def _score(self, works: Sequence[Score]) -> None:
        """Adapters of one base model, and the base model without one, in one pass over images that they have in
        common."""
        first = works[0]
        learned = [{} if work.training is None else self._learn(work.training) for work in works]
        folders = [work.training and self.adapter_folder(work.training) / ADAPTER for work in works]
        data = first.domain.arguments(first.base_model)
        images = self.images("eval", first.domain, first.base_model, first.task)
        cache = self.shared.cache("eval", (first.base_model, first.domain))
        start = time.perf_counter()
        names = [f"cell_{number}" for number in range(len(works))]
        adapters = {name: folder and str(folder) for name, folder in zip(names, folders)}
        args, scores = self.arguments(first.task, 0), {}
        for trainer, own in prepare_evaluation(data, adapters, args, first.task, images, cache):
            trainer.remove_callback(PrinterCallback)
            scores |= trainer.evaluate_by_class(adapters=own)
        seconds = round(time.perf_counter() - start, 2)
        for name, work, folder, record in zip(names, works, folders, learned):
            record = record | {
                "scores": in_percent(scores[name][ADAPTED]),
                "evaluation_images": len(images),
                "evaluation_seconds": seconds,
                "evaluated_together": len(works),
            }
            if folder is not None:
                record["adapter"] = folder.relative_to(self.folder).as_posix()
                record["class_weights"] = _class_weights(folder, images.classes)
            self._write(work, record)

    def _learn(self, training: Training) -> dict[str, Any]:
        """Learn an adapter, unless it lies there; what is known of its training."""
        record, folder = self.learned(training), self.adapter_folder(training)
        if record is not None:
            return record
        data, prompts = training.domain.arguments(training.base_model), self._prompts(training)
        args = self.arguments(training.task, training.seed)
        images = self.images("train", training.domain, training.base_model, training.task)
        cache = self.shared.cache("train", (training.base_model, training.domain, training.seed))
        selection = select_training_images(images, prompts, training.seed)
        trainer = prepare_training(data, prompts, args, images, selection, feature_cache=cache)
        trainer.remove_callback(PrinterCallback)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        trainer.model.eval()
        trainer.model.save_pretrained(folder / ADAPTER)
        record = {
            "training_seconds": round(seconds, 2),
            "steps": trainer.state.global_step,
            "kept_share": round(trainer.kept_share, 4),
            "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            "training_images": len(trainer.train_dataset),
            "shots": selection.to_dict(),
        }
        settings = self.training_settings(training)
        write_json(folder / TRAINING, {"settings": settings, "versions": current_versions(), "training": record})
        return record

    def close(self) -> None:
        """Remove files that stood in for memory, those of workers, too."""
        if self._spills:
            FeatureCache("auto", self.folder / "feature_cache").remove(whole_directory=True)

    def images(self, use: str, domain: Domain, base_model: str, task: str) -> SegmentationDataset:
        """Those to learn from (`use` is `"train"`) or to be scored on (`"eval"`)."""
        data = domain.arguments(base_model)
        load = {"train": lambda: data.load(data.train_split, task), "eval": lambda: data.load_evaluation(task)}[use]
        return self.shared.images(use, (domain, task != "semantic"), load)

    def check_data(self, works: Iterable[Work]) -> None:
        """
        Open the data of all works and read the first image of each, so that what is missing, misplaced or in another
        form is told before anything is downloaded or runs.

        Raises:
            DatasetError: what is wrong with a data set; the subclass and the message say which file.
        """
        seen = set()
        for work in works:
            if isinstance(work, Score):
                uses = {"eval": work.domain}
                if work.training is not None:
                    uses["train"] = work.training.domain
                if (*uses.values(), work.task) in seen:
                    continue
                seen.add((*uses.values(), work.task))
                images = [self.images(use, domain, work.base_model, work.task) for use, domain in uses.items()]
                for one in images:
                    one[0]
                if len(images) == 2:
                    check_disjoint(*reversed(images))


def _class_weights(adapter: Path, classes: SegmentationClasses) -> list[dict[str, Any]]:
    weights = adapter_info(adapter)["semantic_weights"] or []
    things = classes.thing_indices
    kinds = ("background", "foreground") if things else (None,) * 2  # a class list may not say what is a thing
    return [
        {"name": name, "kind": kinds[index in things], "weight": weight}
        for index, (name, weight) in enumerate(zip(classes.names, weights))
    ]


def _training_settings(args: SSPromptTrainingArguments) -> dict[str, Any]:
    """Training arguments that matter and are not the defaults of transformers."""
    settings = unusual_arguments(args)
    ignored = (*WITHOUT_EFFECT, *(name for name in settings if name.startswith(("logging_", "save_", "eval_"))))
    return {name: value for name, value in sorted(settings.items()) if name not in ignored} | {"seed": args.seed}


def _read(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """A record that holds `settings`; None if there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning(f"{path} is damaged ({error}); it is made anew")
        return None
    return record if isinstance(record, dict) and record.get("settings") == settings else None


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
