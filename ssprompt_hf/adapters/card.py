"""Model cards of adapters."""

from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import ModelCardData

from ..data.classes import hex_color
from ..models.interface import KINDS
from ..models.registry import ADAPTER_WEIGHTS, BASE_MODELS
from ..plotting.tables import markdown_table
from ..tuners import PromptConfig, SSPromptConfig
from ..utils.files import atomic_path
from ..utils.text import printable
from .files import CARD

TEMPLATE = Path(__file__).with_name("adapter_card.md")


NO_AUTO_CLASSES = """
The `AutoModel...` classes of transformers cannot load it: they would look for `{}` on the Hub, which is a name of
this library.
"""


def _number(value: Any) -> str:
    """Two decimals for percentages and the like, nothing lost on whole numbers and small ones."""
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4g}"
    return str(value)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def metrics_table(metrics: dict[str, Any] | None) -> str:
    """
    A Markdown table of metrics: `{"mean_iou": 61.2}` as rows, `{"zero-shot": {"mean_iou": 40.1}, ...}` as one row a
    setting. Lists (per-class values) are left out.
    """
    metrics = metrics or {}
    parts = []
    nested = {name: value for name, value in metrics.items() if isinstance(value, dict)}
    nested = {name: {k: v for k, v in value.items() if _is_scalar(v)} for name, value in nested.items()}
    columns = list(dict.fromkeys(key for value in nested.values() for key in value))
    if columns:
        rows = [[name, *(_number(value.get(key, "")) for key in columns)] for name, value in nested.items() if value]
        parts.append(markdown_table(["", *columns], rows))
    flat = [[name, _number(value)] for name, value in metrics.items() if _is_scalar(value)]
    if flat:
        parts.append(markdown_table(["metric", "value"], flat))
    return "\n\n".join(parts) or "Not evaluated yet."


def _training(config: PromptConfig) -> str:
    facts = {
        "task": config.task,
        "dataset": config.dataset,
        "shots": config.shots,
        "seed": config.seed,
        "shorter image side": None if config.image_size is None else f"{config.image_size} pixels",
    }
    if isinstance(config, SSPromptConfig):
        for kind in KINDS:
            parts = config.learned_parts(kind)
            learned = " and ".join(name for name, on in zip(("embeddings", "weights"), parts) if on)
            facts[f"{kind} prompts"] = f"{learned} learned" if learned else "default"
        facts["spatial source"] = config.spatial_source.replace("_", " ")
        if config.prompts_per_class > 1:
            facts["prompts per class"] = config.prompts_per_class
        if config.has_deep_prompts:
            facts["deep prompts"] = config.deep_prompts
        if config.class_masks:
            facts["class masks"] = "learned"
        facts["weights"] = "between 0 and 1" if config.weight_range == "unit" else "free"
    facts |= {name.replace("_", " "): _number(value) for name, value in (config.training or {}).items()}
    if config.made_from:
        facts["made from the adapters"] = ", ".join(str(source.get("adapter")) for source in config.made_from)
    lines = [f"- {name}: {printable(value)}" for name, value in facts.items() if value is not None]
    if config.chosen_images:
        lines.append(f"- {len(config.chosen_images)} training images, listed in `adapter_config.json`")
    return "\n".join(lines)


def _classes(config: PromptConfig) -> str:
    if not config.class_names:
        return "None: the adapter takes the base model's."
    things, header, rows = config.thing_class_ids, ["id", "name"], []
    header += [] if things is None else ["kind"]
    header += [] if config.colors is None else ["colour"]
    for index, name in enumerate(config.class_names):
        row = [index if config.class_ids is None else config.class_ids[index], name]
        row += [] if things is None else ["thing" if index in things else "stuff"]
        row += [] if config.colors is None else [hex_color(config.colors[index])]
        rows.append(row)
    return markdown_table(header, rows)


def render_adapter_card(
    config: PromptConfig, parameters: int, num_bytes: int, adapter: str = "FOLDER_OR_HUB_ID"
) -> str:
    """
    The README.md of an adapter.

    Args:
        config: the adapter's configuration, with `metrics` and all that is known of the training.
        parameters: number of learned numbers.
        num_bytes: size of the adapter's weights file.
        adapter: what to pass as `adapter` in the example.

    Returns:
        Markdown with a YAML header that the Hub reads.
    """
    base_model = config.base_model_name_or_path or "BASE_MODEL"
    card = BASE_MODELS.get(base_model)
    base_repo = base_model if card is None else None if card.embedded else card.repo_id
    metadata = ModelCardData(
        library_name="peft",
        pipeline_tag="image-segmentation",
        # Only what is a repository can be linked; a folder of somebody's disk is nobody's business.
        base_model=base_repo
        if base_repo and base_repo.count("/") == 1 and not base_repo.startswith(("/", "."))
        else None,
        tags=["ssprompt-hf", config.method_name.lower(), f"{config.task}-segmentation", "prompt-learning"],
    )
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        metadata=metadata.to_yaml().strip(),
        title=printable(f"{config.method_name} adapter" + (f" for {config.dataset}" if config.dataset else "")),
        kinds=config.learned,
        method=config.method_name,
        paper=config.paper,
        base_model=printable(base_model),
        parameters=f"{parameters:,}",
        size=f"{num_bytes / 1000:.0f} kB",
        adapter=adapter,
        auto_classes=NO_AUTO_CLASSES.format(base_model) if card is not None else "",
        metrics=metrics_table(config.metrics),
        training=_training(config),
        classes=_classes(config),
        fingerprint=config.base_model_fingerprint or "unknown",
        versions=", ".join(f"{name} {version}" for name, version in (config.versions or {}).items())
        or "unknown versions",
    )


def write_card(folder: Path, config: PromptConfig, parameters: int, adapter: str) -> None:
    """
    Write the card of the adapter in `folder`.

    Args:
        folder: with the adapter's weights.
        config, parameters, adapter: see [`render_adapter_card`].
    """
    weights = folder / ADAPTER_WEIGHTS
    num_bytes = weights.stat().st_size if weights.is_file() else 0
    with atomic_path(folder / CARD) as temporary:
        temporary.write_text(render_adapter_card(config, parameters, num_bytes, adapter), encoding="utf-8")
