"""What each table shows: its rows, its columns, and the work behind every cell."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import SSPromptError
from ..models.registry import BASE_MODELS
from .applicability import leave_out_inapplicable
from .plans import ROWS, Cell, Choices, Plan, Score, StepCost, Training
from .presets import Domain, Preset
from .step_cost import MEASURED

COMPARED = ("zero_shot", "coop", "locn", "ssprompt")
# The title says which of spatial embeddings, spatial weights, semantic embeddings and semantic weights are learned.
ABLATION = {
    "zero_shot": "none",
    "spaprompt_fixed": "spatial e",
    "spaprompt": "spatial e, w",
    "semprompt_fixed": "semantic e",
    "semprompt": "semantic e, w",
    "ssprompt_fixed": "spatial e, semantic e",
    "ssprompt": "spatial e, w, semantic e, w",
}
SHOTS = (16, 12, 8, 4)
GRID_SIZES = (2, 5, 7, 10, 14)
METRICS = {"semantic": ("mean_iou", "mIoU"), "instance": ("coco_ap", "AP"), "panoptic": ("pq", "PQ")}
EMBEDDED_FEW = ("night", "taxonomy", "both")
"""The three kinds of shift: appearance, taxonomy, and both. Longer tables look at these alone."""


def plan_table(name: str, preset: Preset, choices: Choices) -> Plan:
    """
    What a table consists of.

    Args:
        name: one of `TABLES`.
        preset: where it runs.
        choices: the user's.

    Raises:
        SSPromptError: no such table, method or column; or a table that makes no sense for the preset: the message
            says why.
    """
    if name not in TABLES:
        raise SSPromptError(f"table is {name!r}; it must be one of {', '.join(TABLES)}")
    if not choices.seeds or min(choices.seeds) < 0 or len(set(choices.seeds)) < len(choices.seeds):
        raise SSPromptError(f"seeds are {list(choices.seeds)}; give one or more different numbers of 0 or more")
    if choices.shots < 1:
        raise SSPromptError(f"shots is {choices.shots}; it must be at least 1")
    unknown = [method for method in choices.methods or () if method not in ROWS]
    if unknown:
        raise SSPromptError(f"methods holds {unknown[0]!r}; it must be one of {', '.join(ROWS)}")
    plan = TABLES[name](preset, choices)
    leave_out_inapplicable(plan)
    plan.notes += preset.notes
    return plan


def _domains(plan: Plan, preset: Preset, choices: Choices, own: Sequence[str], task: str = "semantic") -> list[Domain]:
    """The data sets of a table's columns; those whose folder was not given are left out, with a note."""
    unknown = [name for name in choices.columns or () if name not in preset.domains]
    if unknown:
        raise SSPromptError(f"columns holds {unknown[0]!r}; preset {preset.name} has {', '.join(preset.domains)}")
    wanted = [preset.domains[name] for name in choices.columns or own if name in preset.domains]
    wanted = [domain for domain in wanted if task in domain.tasks]
    missing = list(dict.fromkeys(domain.folder for domain in wanted if domain.data is None))
    if missing and len(missing) == len({domain.folder for domain in wanted}):
        folders = " ".join(f"{folder}=FOLDER" for folder in missing)
        raise SSPromptError(f"{plan.title} needs data: give --data_dir {folders}, all of them or some")
    if missing:
        plan.notes.append(f"Left out, as no folder was given (--data_dir NAME=FOLDER): {', '.join(missing)}.")
    return [domain for domain in wanted if domain.data is not None]


def _names(preset: Preset, **own: Sequence[str]) -> Sequence[str]:
    """The columns that a table has for a preset, by default all."""
    return own.get(preset.name, tuple(preset.domains))


def base_title(base_model: str) -> str:
    """As the paper writes it: SEEM-T, SEEM-L; other models by their name or the name of their folder."""
    known = BASE_MODELS.get(base_model)
    return (known and known.title) or os.path.basename(os.path.normpath(base_model))


def _prefix(preset: Preset, base_model: str) -> str:
    return f"{base_title(base_model)}, " if len(preset.base_models) > 1 else ""


def _score_cells(
    row: str,
    column: str,
    choices: Choices,
    base_model: str,
    domain: Domain,
    method: str,
    task: str = "semantic",
    source: Domain | None = None,
    values: Callable[[dict], dict] | None = None,
    **training: Any,
) -> list[Cell]:
    """A cell a seed for a method that is trained on `source` (by default on `domain`) and scored on `domain`; one cell
    if it is not trained."""
    metric = METRICS[task][0]
    values = values or (lambda record: {row: record["scores"][metric]})
    if method == "zero_shot":
        return [Cell(row, column, None, Score(base_model, domain, task), values)]
    training = {"shots": choices.shots} | training
    return [
        Cell(
            row,
            column,
            seed,
            Score(
                base_model, domain, task, Training(method, base_model, source or domain, task, seed=seed, **training)
            ),
            values,
        )
        for seed in choices.seeds
    ]


def _compare(
    plan: Plan, preset: Preset, choices: Choices, domains: Sequence[Domain], titles: Mapping[str, str]
) -> Plan:
    """Methods in rows, data sets in columns; every row is compared with SSPrompt's of the same base model."""
    plan.columns = [domain.title for domain in domains]
    for base_model in preset.base_models:
        prefix = _prefix(preset, base_model)
        for method, title in titles.items():
            row = prefix + title
            plan.rows.append(row)
            if method != "ssprompt" and "ssprompt" in titles:
                plan.references[row] = prefix + titles["ssprompt"]
            for domain in domains:
                plan.cells += _score_cells(row, domain.title, choices, base_model, domain, method)
    return plan


def _titles(choices: Choices, own: Sequence[str]) -> dict[str, str]:
    return {method: ROWS[method].title for method in choices.methods or own}


def _table_2(preset: Preset, choices: Choices) -> Plan:
    plan = Plan("2", "Table 2: methods on common data sets", "mIoU, %")
    common = tuple(name for name, domain in preset.domains.items() if domain.folder != "acdc")
    domains = _domains(plan, preset, choices, common)
    return _compare(plan, preset, choices, domains, _titles(choices, COMPARED))


def _table_3(preset: Preset, choices: Choices) -> Plan:
    if preset.name == "camvid":
        raise SSPromptError(
            "table 3 compares weather conditions (ACDC), which CamVid does not tell apart: use --preset embedded, or "
            "--preset full with --data_dir acdc=FOLDER"
        )
    plan = Plan("3", "Table 3: methods in adverse conditions, each learned in its own", "mIoU, %", with_mean=True)
    domains = _domains(plan, preset, choices, ("fog", "night", "rain", "snow"))
    return _compare(plan, preset, choices, domains, _titles(choices, COMPARED))


def _table_4(preset: Preset, choices: Choices) -> Plan:
    if preset.name == "camvid":
        raise SSPromptError(
            "table 4 compares semantic, instance and panoptic segmentation, and CamVid's labels do not tell objects "
            "of a class apart: use --preset embedded, or --preset full with --data_dir cityscapes=FOLDER"
        )
    plan = Plan("4", "Table 4: semantic, instance and panoptic segmentation", "mIoU, AP (COCO) and PQ, %")
    own = _names(preset, full=("cityscapes", "ade20k"), embedded=("fog", "both"))
    domains = [domain for domain in _domains(plan, preset, choices, own) if "panoptic" in domain.tasks]
    if not domains:
        raise SSPromptError("table 4 needs columns with instance labels: choose others with --columns")
    titles = _titles(choices, COMPARED)
    for domain in domains:
        for task, (_, short) in METRICS.items():
            plan.columns.append(f"{domain.title} {short}")
            for base_model in preset.base_models:
                prefix = _prefix(preset, base_model)
                for method, title in titles.items():
                    cells = _score_cells(
                        prefix + title, plan.columns[-1], choices, base_model, domain, method, task=task
                    )
                    plan.cells += cells
    for base_model in preset.base_models:
        prefix = _prefix(preset, base_model)
        plan.rows += [prefix + title for title in titles.values()]
        if "ssprompt" in titles:
            others = [title for method, title in titles.items() if method != "ssprompt"]
            plan.references |= {prefix + title: prefix + titles["ssprompt"] for title in others}
    plan.notes.append("Every number is of an adapter that was trained for its own task.")
    return plan


def _table_5(preset: Preset, choices: Choices) -> Plan:
    plan = Plan("5", "Table 5: embeddings e and weights w of spatial and semantic prompts, learned or not", "mIoU, %")
    domains = _domains(plan, preset, choices, _names(preset, full=("cityscapes",), embedded=EMBEDDED_FEW))
    plan.notes.append("An embedding without a learned weight is averaged with the default prompt: w = 0.5.")
    titles = ABLATION if choices.methods is None else _titles(choices, ())
    return _compare(plan, _first_base(preset), choices, domains, titles)


def _table_6(preset: Preset, choices: Choices) -> Plan:
    plan = Plan("6", "Table 6: number of training images of each class", "mIoU, %")
    domains = _domains(plan, preset, choices, _names(preset, full=("cityscapes",), embedded=EMBEDDED_FEW))
    base_model = preset.base_models[0]
    plan.columns = [domain.title for domain in domains]
    for method in choices.methods or ("ssprompt",):
        prefix = f"{ROWS[method].title}, " if choices.methods else ""
        for shots in SHOTS if method != "zero_shot" else (0,):
            plan.rows.append(f"{prefix}{shots} shots")
            for domain in domains:
                place = plan.rows[-1], domain.title, choices
                plan.cells += _score_cells(*place, base_model, domain, method, shots=shots)
    return plan


def _table_7(preset: Preset, choices: Choices) -> Plan:
    plan = Plan("7", "Table 7: cost of a training step", "ms an image and GB", show_ratios=True)
    setting, base_model = preset.step, preset.base_models[0]
    plan.columns = ["ms/image", "GB", "ms/image, cached", "GB, cached"]
    for method in choices.methods or ("coop", "locn", "ssprompt"):
        if method not in MEASURED:
            raise SSPromptError(f"methods holds {method!r}; table 7 measures coop, locn and ssprompt")
        row = ROWS[method].title
        plan.rows.append(row)
        if method != "ssprompt":
            plan.references[row] = ROWS["ssprompt"].title
        for cached in (False, True):
            for repeat in choices.seeds:
                work = StepCost(base_model, method, cached, repeat, setting)
                for key, column in (("ms", "ms/image"), ("gb", "GB")):
                    column += ", cached" * cached
                    plan.cells.append(Cell(row, column, repeat, work, _cost(row, key)))
    plan.notes += [
        f"{base_title(base_model)} with random weights, on which cost does not depend; images of "
        f"{setting.height}x{setting.width} pixels, {setting.classes} classes, one image a step. Seeds repeat it.",
        "GB are the peak of the whole process, libraries and weights included; on a GPU, of its memory. The paper "
        "does not say, in the text known to us, on what it measured: ratios can be compared.",
        "Cached: with this package's feature cache, which the paper does not have.",
    ]
    return plan


def _cost(row: str, key: str) -> Callable[[dict], dict]:
    return lambda record: {row: record["cost"][key]}


def _table_8(preset: Preset, choices: Choices) -> Plan:
    plan = Plan("8", "Table 8: spatial prompts as coordinates (VSPL) and as embeddings", "mIoU, %")
    domains = _domains(plan, preset, choices, _names(preset, full=("cityscapes",), embedded=EMBEDDED_FEW))
    titles = _titles(choices, ("zero_shot", "vspl", "spaprompt", "ssprompt"))
    plan.notes.append(
        "VSPL's prompts are points in the image, from a regular grid on; those of the others are the base model's "
        "object queries. `--methods vspl spaprompt_grid ssprompt_grid` compares with embeddings of the same grid."
    )
    return _compare(plan, _first_base(preset), choices, domains, titles)


def _table_9(preset: Preset, choices: Choices) -> Plan:
    if len(preset.with_sam) < 2:
        raise SSPromptError(
            "table 9 compares methods on SAM, and none comes with the package: name one, for instance --base_models "
            "sam-vit-b, which is downloaded"
        )
    plan = Plan("9", "Table 9: methods on SAM", "mIoU, %")
    domains = _domains(plan, preset, choices, _names(preset, full=("cityscapes",), embedded=EMBEDDED_FEW))
    plan.notes.append(
        "SAM knows no words. Its zero-shot asks the same about every class; CoOp and LOCN learn words in front of the "
        "text encoder of a CLIP, whose embeddings a fixed projection maps to prompt tokens. This is our reading: the "
        "paper's text, as far as it is known to us, does not say how SAM was prompted."
    )
    return _compare(plan, replace(preset, base_models=preset.with_sam), choices, domains, _titles(choices, COMPARED))


def _table_prompts(preset: Preset, choices: Choices) -> Plan:
    plan = Plan("prompts", "Number of spatial prompts of SSPrompt", "mIoU, %")
    domains = _domains(plan, preset, choices, _names(preset, full=("cityscapes",), embedded=EMBEDDED_FEW))
    base_model = preset.base_models[0]
    plan.columns = [domain.title for domain in domains]
    rows: list[tuple[str, str, dict]] = [("zero-shot", "zero_shot", {})]
    rows += [
        (f"{size**2} (grid of {size}x{size})", "ssprompt_grid", {"options": (("point_grid_size", size),)})
        for size in GRID_SIZES
    ]
    rows += [("the base model's object queries", "ssprompt", {})]
    for row, method, training in rows:
        plan.rows.append(row)
        for domain in domains:
            plan.cells += _score_cells(row, domain.title, choices, base_model, domain, method, **training)
    plan.notes.append("The paper has 100 and shows no other number.")
    return plan


def _table_transfer(preset: Preset, choices: Choices) -> Plan:
    plan = Plan("transfer", "Learned on one data set (rows), scored on others (columns)", "mIoU, %")
    own = _names(preset, full=("cityscapes", "bdd100k", "mapillary_vistas", "fog", "night", "rain", "snow"))
    domains = _domains(plan, preset, choices, own)
    groups = [domain.classes for domain in domains]
    domains = [domain for domain in domains if groups.count(domain.classes) > 1]
    if not domains:
        raise SSPromptError(
            f"table transfer needs two data sets with the same classes, and preset {preset.name} has "
            f"{', '.join(domain.title for domain in preset.domains.values() if domain.data is not None)}: "
            "use --preset embedded, or full with, for instance, --data_dir cityscapes=FOLDER bdd100k=FOLDER"
        )
    base_model = preset.base_models[0]
    plan.columns = [domain.title for domain in domains]
    plan.rows.append("zero-shot")
    for domain in domains:
        plan.cells += _score_cells("zero-shot", domain.title, choices, base_model, domain, "zero_shot")
    methods = [method for method in choices.methods or ("ssprompt",) if method != "zero_shot"]
    for method in methods:
        for source in domains:
            row = f"{ROWS[method].title}, from {source.title}"
            plan.rows.append(row)
            plan.references[row] = "zero-shot"
            for domain in domains:
                if domain.classes == source.classes:
                    place = row, domain.title, choices
                    plan.cells += _score_cells(*place, base_model, domain, method, source=source)
    plan.notes.append("Only data sets with the same classes have a number: a semantic prompt belongs to its class.")
    return plan


def _figure_3(preset: Preset, choices: Choices) -> Plan:
    plan = Plan("figure-3", "Figure 3b: learned weights w of the semantic prompts", "w, 0 to 1")
    domains = _domains(
        plan, preset, choices, _names(preset, full=("cityscapes",), embedded=("fog", "taxonomy", "both"))
    )
    base_model = preset.base_models[0]
    plan.columns = [domain.title for domain in domains]
    plan.rows = ["foreground, mean", "background, mean"]
    for domain in domains:
        place = "weights", domain.title, choices
        plan.cells += _score_cells(*place, base_model, domain, "ssprompt", values=_weights)
    plan.references = {"foreground, mean": "background, mean"}
    plan.notes.append(
        "z_hat = w z + (1 - w) e: a large w keeps the default prompt, a small one what was learned. Foreground are "
        "the countable classes, where the class list says which these are."
    )
    return plan


def _weights(record: dict[str, Any]) -> dict[str, float]:
    """Means of the foreground (things) and the background (stuff), then the classes of each; classes alone where the
    class list does not say which are things."""
    groups: dict[str | None, dict[str, float]] = {}
    for one in sorted(record["class_weights"], key=lambda one: one["kind"] or "", reverse=True):
        groups.setdefault(one["kind"], {})[one["name"]] = one["weight"]
    means = {f"{kind}, mean": sum(group.values()) / len(group) for kind, group in groups.items() if kind}
    return means | {
        f"{name} ({kind})" if kind else name: weight
        for kind, group in groups.items()
        for name, weight in group.items()
    }


def _first_base(preset: Preset) -> Preset:
    """Studies are made with one base model, the first."""
    return replace(preset, base_models=preset.base_models[:1])


TABLES: dict[str, Callable[[Preset, Choices], Plan]] = {
    "2": _table_2,
    "3": _table_3,
    "4": _table_4,
    "5": _table_5,
    "6": _table_6,
    "7": _table_7,
    "8": _table_8,
    "9": _table_9,
    "prompts": _table_prompts,
    "transfer": _table_transfer,
    "figure-3": _figure_3,
}
"""Name -> what plans it."""
