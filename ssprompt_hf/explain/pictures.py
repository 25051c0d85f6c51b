"""The charts of an explanation."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..plotting.charts import bar_chart, beside, moved_points, table_chart
from ..tuners import PromptConfig, SSPromptConfig
from ..utils.files import atomic_path
from .observation import STATES, Serving
from .prompts import Prompts

_MANY = 40  # bars from which on they are drawn thinner


def draw_prompts(prompts: dict[str, Prompts], config: PromptConfig, folder: Path) -> dict[str, str]:
    """
    Write `weights.png` and `movement.png`, as far as there is something to show.

    Args:
        prompts: by kind.
        config: of the adapter.
        folder: to write to.

    Returns:
        `weights`, `movement` -> file name.
    """
    mark = config.init_weight if isinstance(config, SSPromptConfig) else None
    weights = [
        _bars(f"weight w of the {group.kind} prompts (line: before training)", group, group.weights, config, 1.0, mark)
        for group in prompts.values()
        if group.weights is not None
    ]
    movement = []
    for group in prompts.values():
        if group.are_learned and group.are_points:
            movement.append(
                moved_points("positions of the points", group.before.cpu().numpy(), group.after.cpu().numpy())
            )
        elif group.are_learned:
            title = f"movement |z_hat - z| / |z| of the {group.kind} prompts"
            movement.append(_bars(title, group, group.movement(), config))
    return _save({"weights": weights, "movement": movement}, folder)


def _bars(title: str, group: Prompts, values, config: PromptConfig, top=None, mark=None) -> Image.Image:
    groups, group_names = None, ()
    if group.kind == "semantic" and config.thing_class_ids:
        things = set(config.thing_class_ids)
        groups, group_names = [int(index in things) for index in range(len(group.names))], ("stuff", "things")
    height = 20 if len(group.names) <= _MANY else 14
    return bar_chart(title, group.names, values.tolist(), groups, group_names, top, mark, height)


def draw_serving(
    serving: dict[str, Serving], prompt_names: dict[str, list[str]], names: list[str], folder: Path
) -> dict[str, str]:
    """
    Write `serving.png`: the shares of the prompts that serve any class, without and with the adapter.

    Args:
        serving, prompt_names: by state.
        names: of the classes.
        folder: to write to.

    Returns:
        `serving` -> file name.
    """
    tables = []
    for state, title in zip(STATES, ("zero-shot", "adapted")):
        shares = serving[state].class_shares()
        used = np.flatnonzero(shares.max(axis=1) >= 0.01)
        rows = [prompt_names[state][index] for index in used]
        tables.append(table_chart(f"{title}: share of each class", names, rows, shares[used]))
    return _save({"serving": tables}, folder)


def _save(pictures: dict[str, list[Image.Image]], folder: Path) -> dict[str, str]:
    files = {name: f"{name}.png" for name, parts in pictures.items() if parts}
    for name, file in files.items():
        with atomic_path(folder / file) as temporary:
            beside(pictures[name]).save(temporary)
    return files
