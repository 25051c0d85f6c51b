"""What some tables would take, before anything is downloaded, learned or written."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data.dataset import SegmentationDataset
from ..errors import DownloadError, UnknownNameError
from ..loading import NAMES, base_model_facts, is_on_disk
from ..models.registry import BASE_MODELS
from ..training.arguments import SSPromptTrainingArguments
from ..training.plan import GIB
from .cells import CellRunner
from .jobs import Evaluate, Learn, Measure, in_shared_order, plan_jobs
from .plans import Domain, Plan, StepCost, Training, Work
from .rates import Rates, assumed_seconds, measure_rates

MEASURING_SECONDS = 60.0
"""For the measurements of all base models together."""
ADAPTER_BYTES = 4e5
"""Of a file, about: 288 kB for SEEM-T with 19 classes, more with more classes."""


@dataclass
class _Base:
    """
    A base model.

    Args:
        facts: of `base_model_facts`, for the first image that it is shown; None if even these cannot be had.
        on_disk: whether nothing has to be downloaded.
        missing: why it cannot be had; "" if it can.
    """

    facts: dict[str, Any] | None
    on_disk: bool
    missing: str

    @property
    def weight_bytes(self) -> int:
        """In float32."""
        return 4 * self.facts["parameters"]["total"]


def describe_work(plans: Sequence[Plan], runner: CellRunner, seconds: float = MEASURING_SECONDS) -> str:
    """
    Cells, trainings, evaluations, downloads, disk, memory, and a rough time, as text for a terminal. Nothing is
    downloaded or written but what `huggingface_hub` keeps of configurations.

    Args:
        plans: of the tables.
        runner: knows what has been done, and opens the data.
        seconds: for measuring, on random weights; base models for which that would not do are not measured.

    Raises:
        SSPromptError: the name of a base model is none, or data cannot be read.
    """
    works = in_shared_order(cell.work for plan in plans for cell in plan.cells)
    images = _Images(runner)
    first_of = {work.base_model: work for work in reversed(works)}
    bases = {work.base_model: _look_up(work, images) for work in first_of.values()}
    possible = [work for work in works if _is_possible(work, bases[work.base_model])]
    on_disk = [work for work in possible if bases[work.base_model].on_disk]
    done = [work for work in on_disk if runner.finished(work) is not None]
    jobs = [
        job
        for job in plan_jobs(work for work in possible if work not in set(done))
        if not (isinstance(job, Learn) and _is_learned(job.training, runner, bases))
    ]
    trainings = [job.training for job in jobs if isinstance(job, Learn)]
    evaluations = [job for job in jobs if isinstance(job, Evaluate)]
    measured = [job for job in jobs if isinstance(job, Measure)]
    lines = [f"tables       {', '.join(plan.name for plan in plans)}: {len(works)} cells, {len(done)} of them done"]
    lines += [
        f"             left out: {name}, which cannot be had. {b.missing}" for name, b in bases.items() if b.missing
    ]
    lines += _data_lines(trainings, evaluations, images)
    passes = sum(len(images.of(job.works[0], "eval")) for job in evaluations)
    scored = sum(len(job.works) * len(images.of(job.works[0], "eval")) for job in evaluations)
    lines.append(f"trainings    {len(trainings)}" + f", and {len(measured)} measurements of a step" * bool(measured))
    lines.append(
        f"evaluations  {scored:,} of an image, in {len(evaluations)} passes over data sets: the frozen part of a base "
        f"model runs for {passes:,} images"
    )
    used = {work.base_model for job in jobs for work in _works_of(job)}
    downloads = [name for name in used if not bases[name].on_disk and not bases[name].missing]
    for name in downloads:
        lines.append(f"download     {name}: about {bases[name].weight_bytes / GIB:.2f} GiB")
    args = runner.arguments("semantic", 0)
    cached = max((_cached_bytes(training, bases, images, args) for training in trainings), default=0)
    limit = args.feature_cache_gb * GIB
    kept = min(cached, limit)
    disk = ADAPTER_BYTES * len(trainings) + sum(bases[name].weight_bytes for name in downloads)
    disk += {"disk": kept, "auto": cached - kept}.get(args.feature_cache, 0)
    lines.append(
        f"disk         about {disk / GIB:.2f} GiB, {len(trainings)} adapters of {ADAPTER_BYTES / 1e6} MB among it"
    )
    held = max((bases[name].weight_bytes for name in used), default=0)
    held += kept * (args.feature_cache in ("auto", "memory"))
    lines.append(
        f"memory       about {held / GIB:.2f} GiB beside PyTorch and images that are kept; features of the largest "
        f"choice of training images take {cached / GIB:.2f} GiB (feature_cache {args.feature_cache}, limit "
        f"{limit / GIB:.1f} GiB)"
    )
    lines += _time_lines(jobs, bases, images, runner, seconds)
    return "\n".join([*lines, f"output       {runner.folder.absolute()}; nothing was learned or written"])


def _is_possible(work: Work, base: _Base) -> bool:
    """The cost of a step is measured on random weights."""
    return base.facts is not None and (isinstance(work, StepCost) or not base.missing)


def _is_learned(training: Training, runner: CellRunner, bases: dict[str, _Base]) -> bool:
    """The adapter lies there, of another table perhaps."""
    return bases[training.base_model].on_disk and runner.learned(training) is not None


class _Images:
    """The data sets of works, opened once each."""

    def __init__(self, runner: CellRunner):
        self.runner = runner
        self._found: dict[tuple, SegmentationDataset] = {}
        self._sizes: dict[Domain, tuple[int, int]] = {}

    def of(self, work: Work | Training, use: str) -> SegmentationDataset:
        """What a work is scored on (`"eval"`), or a training chooses from (`"train"`)."""
        key = use, work.domain, work.task
        if key not in self._found:
            self._found[key] = self.runner.images(use, work.domain, work.base_model, work.task)
        return self._found[key]

    def size(self, work: Work) -> tuple[int, int]:
        """(height, width) of the first one."""
        if isinstance(work, StepCost):
            return work.setting.height, work.setting.width
        if work.domain not in self._sizes:
            self._sizes[work.domain] = self.of(work, "eval").read_label(0).shape
        return self._sizes[work.domain]

    def chosen(self, training: Training) -> int:
        """How many images a training learns from, at most: each class needs its own."""
        images = self.of(training, "train")
        return min(len(images), training.shots * len(images.classes))


def _works_of(job: Learn | Evaluate | Measure) -> Sequence[Work | Training]:
    if isinstance(job, Evaluate):
        return job.works
    return [job.training if isinstance(job, Learn) else job.work]


def _look_up(work: Work, images: _Images) -> _Base:
    name, on_disk, missing = work.base_model, False, ""
    try:
        on_disk = is_on_disk(name)
    except UnknownNameError as error:
        if name not in BASE_MODELS:
            raise
        missing = str(error)
    shorter_side = None if isinstance(work, StepCost) else work.domain.arguments(name).image_size
    try:
        facts = base_model_facts(name, images.size(work), shorter_side, {NAMES, "spatial"})
    except DownloadError as error:
        return _Base(None, False, str(error))
    return _Base(facts, on_disk, missing)


def _data_lines(trainings: Sequence[Training], evaluations: Sequence[Evaluate], images: _Images) -> list[str]:
    found: dict[str, dict[str, int]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for training in trainings:
        found.setdefault(training.domain.title, {})["to choose from"] = len(images.of(training, "train"))
    for job in evaluations:
        title = job.works[0].domain.title
        found.setdefault(title, {})["to be scored on"] = len(images.of(job.works[0], "eval"))
        sizes[title] = images.size(job.works[0])
    lines = []
    for title, counts in found.items():
        told = ", ".join(f"{count:,} images {use}" for use, count in counts.items())
        size = f"; the first is {sizes[title][0]}x{sizes[title][1]} pixels" if title in sizes else ""
        lines.append(f"data         {title}: {told}{size}")
    return lines


def _cached_bytes(
    training: Training, bases: dict[str, _Base], images: _Images, args: SSPromptTrainingArguments
) -> float:
    """Of the features of all images that a training learns from, in the smallest stage that serves every method."""
    facts = bases[training.base_model].facts
    half = 2 if args.feature_cache_dtype == "float16" else 1
    views = images.chosen(training) * (2 if args.random_flip else 1)
    return facts["cached_bytes"][facts["stages"]["spatial"][0]] / half * views


def _time_lines(
    jobs: Sequence[Learn | Evaluate | Measure],
    bases: dict[str, _Base],
    images: _Images,
    runner: CellRunner,
    seconds: float,
) -> list[str]:
    """Measurements, and what they come to."""
    start, lines, total = time.perf_counter(), [], 0.0
    args = runner.arguments("semantic", 0)
    for name in dict.fromkeys(work.base_model for job in jobs for work in _works_of(job)):
        own = [job for job in jobs if not isinstance(job, Measure) and _works_of(job)[0].base_model == name]
        first = next((job.works[0] for job in own if isinstance(job, Evaluate)), None)
        if first is None:
            continue
        # two evaluations, and two steps of training with what they keep of the image
        if 6 * assumed_seconds(bases[name].facts, args.device.type) > seconds - (time.perf_counter() - start):
            lines.append(
                f"time         {name} was not measured: that would take longer than a minute on {args.device.type}"
            )
            continue
        shorter_side = first.domain.arguments(name).image_size
        rates = measure_rates(name, images.of(first, "eval"), shorter_side, first.task, runner.training)
        needed = _needed_seconds(own, rates, bases, images, args)
        total += needed
        lines.append(
            f"time         {name} about {_duration(needed)} for one process on {args.device.type}: an image takes "
            f"{rates.reading:.2f} s to read, {rates.frozen:.2f} s in the frozen part, {rates.adapter:.2f} s an "
            f"adapter, {rates.step:.2f} s in a step of training"
        )
    if total:
        lines.append(
            f"             {_duration(total)} in all, of these; measured on random weights in "
            f"{time.perf_counter() - start:.0f} s"
        )
    return lines


def _needed_seconds(
    jobs: Sequence[Learn | Evaluate],
    rates: Rates,
    bases: dict[str, _Base],
    images: _Images,
    args: SSPromptTrainingArguments,
) -> float:
    """For the jobs of one base model, one after the other."""
    total, counted, filled = 0.0, set(), set()
    for job in jobs:
        if isinstance(job, Evaluate):
            count = len(images.of(job.works[0], "eval"))
            total += count * (rates.reading + rates.frozen + len(job.works) * rates.adapter)
            continue
        training = job.training
        if training.domain not in counted:  # the statistics of its labels are kept
            counted.add(training.domain)
            total += len(images.of(training, "train")) * rates.label
        chosen, batch = images.chosen(training), args.train_batch_size * args.gradient_accumulation_steps
        steps = args.max_steps if args.max_steps > 0 else -(-chosen // batch) * args.num_train_epochs
        views = min(chosen * (2 if args.random_flip else 1), steps * batch)
        fits = _cached_bytes(training, bases, images, args) <= args.feature_cache_gb * GIB
        if args.feature_cache == "none" or not (fits or args.feature_cache == "auto"):
            views = steps * batch
        elif job.shares in filled:
            views = 0
        filled.add(job.shares)
        total += steps * batch * rates.step + views * (rates.reading + rates.frozen)
    return total


def _duration(seconds: float) -> str:
    """For people, to two digits or so."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
