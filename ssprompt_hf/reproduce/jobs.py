"""What has to be done for some tables, cut into pieces that workers can take one after the other."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from .plans import Score, StepCost, Training, Work, work_name


@dataclass(frozen=True)
class Learn:
    """An adapter to be learned."""

    training: Training

    @property
    def shares(self) -> Hashable:
        """What jobs on the same images have in common; a worker that has done one of them does the next faster."""
        one = self.training
        return "train", one.base_model, one.domain, one.task != "semantic", one.seed


@dataclass(frozen=True)
class Evaluate:
    """Adapters of one base model, or the base model alone, to be scored in one pass over the images of a data set."""

    works: tuple[Score, ...]

    @property
    def shares(self) -> Hashable:
        """See [`Learn.shares`]."""
        one = self.works[0]
        return "eval", one.base_model, one.domain, one.task != "semantic"

    @property
    def needs(self) -> set[Training]:
        """The adapters that have to be there."""
        return {work.training for work in self.works if work.training is not None}


@dataclass(frozen=True)
class Measure:
    """A step of training whose time is to be measured: nothing else may run beside it."""

    work: StepCost

    @property
    def shares(self) -> Hashable:
        """See [`Learn.shares`]."""
        return "step", self.work.base_model


Job = Learn | Evaluate | Measure


def plan_jobs(works: Iterable[Work]) -> list[Job]:
    """
    The jobs for some cells, in an order in which those that share images are neighbours and adapters come before their
    evaluation. Measurements come last.
    """
    groups: dict[tuple, list[Score]] = {}
    steps = []
    for work in in_shared_order(works):
        if isinstance(work, StepCost):
            steps.append(Measure(work))
        else:
            groups.setdefault((work.base_model, work.domain, work.task), []).append(work)
    jobs: dict[Job, None] = {}
    for group in groups.values():
        jobs |= dict.fromkeys(Learn(work.training) for work in group if work.training is not None)
        jobs[Evaluate(tuple(group))] = None
    return [*jobs, *steps]


def finished_works(job: Job) -> tuple[Work, ...]:
    """The cells that are known when a job is done."""
    if isinstance(job, Learn):
        return ()
    return job.works if isinstance(job, Evaluate) else (job.work,)


def job_name(job: Job) -> str:
    """For people."""
    if isinstance(job, Learn):
        return f"the training of {work_name(job.training)}"
    if isinstance(job, Measure):
        return f"the measurement of {work_name(job.work)}"
    first = job.works[0]
    return f"the {first.task} evaluation of {len(job.works)} on {first.domain.title} ({first.base_model})"


def in_shared_order(works: Iterable[Work]) -> list[Work]:
    """Each work once; those that are scored on the same images are neighbours, and among them those that learn from
    the same."""

    works = list(dict.fromkeys(works))
    scores = [work for work in works if isinstance(work, Score)]
    base_models = list(dict.fromkeys(work.base_model for work in works))
    domains = list(dict.fromkeys(work.domain.name for work in scores))

    def key(work: Work) -> tuple:
        order = base_models.index(work.base_model)
        if isinstance(work, StepCost):
            return (order,)
        learned = (-1,)
        if (training := work.training) is not None:
            known = training.domain.name in domains
            learned = (domains.index(training.domain.name) if known else len(domains), training.seed)
        return (order, domains.index(work.domain.name), work.task, *learned)

    return sorted(works, key=key)
