"""The prompts of an adapter before and after learning: weights and movement, from its files alone."""

from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import AdapterError
from ..model import SSPromptModel
from ..tuners import PromptLayer, SSPromptLayer, VSPLLayer
from ..tuners.text.layer import TextPromptLayer
from ..tuners.vspl.layer import grid_coordinates

KINDS = ("semantic", "spatial")
OWN_PROMPTS = "Zero-shot segmentation uses the base model's own spatial prompts in their place."


@dataclass
class Prompts:
    """
    The N prompts of one kind.

    Args:
        kind: `"semantic"` (one a class) or `"spatial"`.
        names: N texts.
        before: what they are without the adapter, float `(N, D)`: the default prompts `z`, or, for points, x and y
            (shares of the image) of the regular grid. None if the adapter says nothing of this kind.
        after: what the adapter makes of them, `(N, D)`.
        weights: the learned `w` `(N,)`; None if they are not learned.
        scale: the usual size of their numbers, where `before` is zeros and cannot tell; see `PromptSlot`.
        are_points: whether the prompts are positions in the image, of which a length and a direction tell nothing.
        notes: what does not apply to this method, and why; sentences.
    """

    kind: str
    names: list[str]
    before: torch.Tensor | None = None
    after: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    scale: float | None = None
    are_points: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def are_learned(self) -> bool:
        """Whether the adapter changes them."""
        return self.after is not None and not torch.equal(self.before, self.after)

    def movement(self) -> torch.Tensor:
        """How far each prompt moved, `(N,)`: `|z_hat - z| / |z|`, or, where `z` is zeros, in units of a vector of the
        usual size; for points, the distance as a share of the image's sides."""
        distance = (self.after - self.before).norm(dim=-1)
        if self.are_points:
            return distance
        if self.scale is not None:
            return distance / (self.scale * self.before.shape[-1] ** 0.5)
        return distance / self.before.norm(dim=-1)

    def cosines(self) -> torch.Tensor | None:
        """Cosine of each prompt with what it was, `(N,)`; None for points, and for what was zeros."""
        if self.are_points or self.scale is not None:
            return None
        return torch.cosine_similarity(self.before, self.after, dim=-1)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: `notes`, and by prompt `weights`, `movement` and `cosine`, as far as there are any."""
        facts: dict[str, Any] = {"learned": self.are_learned, "notes": self.notes, "names": self.names}
        if self.weights is not None:
            facts["weights"] = self.weights.tolist()
        if self.are_learned:
            facts["movement"] = self.movement().tolist()
            if self.are_points:
                facts |= {"points_before": self.before.tolist(), "points_after": self.after.tolist()}
            elif (cosines := self.cosines()) is not None:
                facts["cosine"] = cosines.tolist()
        return facts


@torch.no_grad()
def read_prompts(model: SSPromptModel) -> dict[str, Prompts]:
    """
    The prompts of the active adapter, by kind (`KINDS`).

    Raises:
        AdapterError: the adapter names no classes.
    """
    config = model.peft_config[model.active_adapter]
    if config.class_names is None:
        raise AdapterError(
            "the adapter names no classes, so there is nothing to explain by class: train one with data"
        )
    return {"semantic": _semantic(model), "spatial": _spatial(model)}


def _layers(model: SSPromptModel, classes: bool) -> list[PromptLayer]:
    layers = (module for module in model.modules() if isinstance(module, PromptLayer))
    return [layer for layer in layers if layer.holds_classes == classes and layer.has_adapter(model.active_adapter)]


def _semantic(model: SSPromptModel) -> Prompts:
    name, config = model.active_adapter, model.peft_config[model.active_adapter]
    layer = _layers(model, classes=True)[0]
    rows = len(config.class_names)  # without those that a base model keeps fixed
    before, after = (
        model.get_base_model().prompt_vectors(prompt.narrow(layer.slot.row_dim, 0, rows).float())
        for prompt in (layer.default_prompt(name), layer.adapter_prompt(name))
    )
    prompts = Prompts("semantic", list(config.class_names), before, after)
    if isinstance(layer, SSPromptLayer):
        _add_weights(prompts, layer, model)
        if config.prompts_per_class > 1:
            prompts.notes.append(f"Each class has {config.prompts_per_class} prompts; what is said is of their mean.")
    elif isinstance(layer, TextPromptLayer):
        prompts.notes.append(
            f"{config.method_name} learns words in front of the text encoder, which makes class embeddings of them: "
            "there are no weights. Before: what the base model's own sentences give."
        )
    else:
        prompts.notes.append(f"{config.method_name} leaves the semantic prompts as they are.")
    return prompts


def _spatial(model: SSPromptModel) -> Prompts:
    name, config = model.active_adapter, model.peft_config[model.active_adapter]
    layers = _layers(model, classes=False)
    notes = [_deep_note(layer, name) for layer in layers if layer.slot.is_deep]
    notes += [_class_masks_note(layer, name, config.class_names) for layer in layers if layer.slot.is_masks]
    layers = [layer for layer in layers if not layer.slot.is_deep and not layer.slot.is_masks]
    if not layers:
        return Prompts("spatial", [], notes=[f"{config.method_name} leaves the spatial prompts as they are.", *notes])
    layer = layers[0]
    if isinstance(layer, VSPLLayer):
        after = layer.adapter_prompt(name).float()
        before = grid_coordinates(config.point_grid_size).to(after)
        note = (
            "VSPL learns positions in the image, not embeddings: there are no weights, and movement is the distance "
            f"from the regular grid. {OWN_PROMPTS}"
        )
        return Prompts("spatial", _numbered("point", after), before, after, are_points=True, notes=[note])
    before, after = (_rows(prompt.float()) for prompt in (layer.default_prompt(name), layer.adapter_prompt(name)))
    on_grid = config.spatial_source == "point_grid"
    names = _numbered("point" if on_grid else layer.slot.title, after)
    prompts = Prompts("spatial", names, before, after, notes=notes)
    prompts.scale = layer.slot.scale
    _add_weights(prompts, layer, model)
    if on_grid:
        prompts.notes.append(
            "The spatial prompts are the tokens of a regular grid of points (row by row from the top left). "
            + OWN_PROMPTS
        )
    return prompts


def _deep_note(layer: PromptLayer, name: str) -> str:
    offsets = layer.adapter_prompt(name)
    return (
        f"Deep prompts are added to the states of {offsets.shape[1]} queries after {len(offsets)} layer(s) of the "
        f"decoder: vectors of a mean length of {offsets.norm(dim=-1).mean():.2f}."
    )


def _class_masks_note(layer: PromptLayer, name: str, class_names: list[str]) -> str:
    shares = layer.adapter_prompt(name)[:, -1].tolist()
    shown = ", ".join(f"{class_name} {share:.2f}" for class_name, share in zip(class_names, shares))
    return f"Each class has a mask of its own besides those of the queries. Its share of the class's score: {shown}."


def _rows(prompt: torch.Tensor) -> torch.Tensor:
    """`(N, D)`, also of `(levels, N, D)`, where a point has a token at each level."""
    return prompt if prompt.ndim == 2 else prompt.transpose(0, 1).flatten(1)


def _numbered(word: str, rows: torch.Tensor) -> list[str]:
    return [f"{word} {index}" for index in range(len(rows))]


def _add_weights(prompts: Prompts, layer: SSPromptLayer, model: SSPromptModel) -> None:
    name, config = model.active_adapter, model.peft_config[model.active_adapter]
    weights = layer.prompt_weights(name)
    if weights is None:
        prompts.notes.append(f"{config.method_name} leaves the {prompts.kind} prompts as they are.")
    elif isinstance(weights, torch.Tensor):
        # where each token or each of several prompts of a class has a weight, their mean
        prompts.weights = weights.float() if weights.ndim == 1 else weights.float().mean(dim=1)
    else:
        prompts.notes.append(f"The {prompts.kind} weights are not learned: w is {weights:g} for every prompt.")
