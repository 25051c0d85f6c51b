"""An explanation as text: a report in Markdown, and a summary for the terminal."""

from pathlib import Path
from typing import Any

from ..plotting.tables import iou_table, markdown_table

HOW_TO_GIVE_DATA = """Give the command labelled images with the adapter's own classes, in one of these ways:

- `--dataset cityscapes --data_dir DIR`: a data set known by name (`ssprompt-hf datasets` lists them);
- `--data_dir DIR`: a folder with images, labels and a class file;
- `--dataset street-scenes/fog`: drawn scenes, with nothing to download (`/custom` for the other class list).

Images of `--eval_split` (by default `val`) are looked at; `--max_eval_images 50` takes the first 50 only."""


INTRODUCTION = """The base model {prompts}. The adapter replaces some of these prompts and touches nothing else.
*Zero-shot* is the base model with this class list and without the adapter; *adapted* is with it."""

WEIGHTS = """Every prompt is `z_hat = w * z + (1 - w) * e`: the base model's prompt `z` and the learned embedding `e`.
With `w` near 1 the adapter trusts what the base model knew, near 0 what it learned."""


def render_report(explanation: dict[str, Any]) -> str:
    """
    The report.

    Args:
        explanation: what `explain_adapter` returns.
    """
    parts = [_head(explanation)]
    has_data = "scores" in explanation
    if has_data:
        parts.append(_scores(explanation))
    parts += [_weights(explanation), _movement(explanation), _words(explanation)]
    if has_data:
        parts += [_serving(explanation)] * _have_parts(explanation)
        parts += [_examples(explanation), _failures(explanation)]
    else:
        parts.append(
            "## What needs images\n\nWhich prompts serve which class, which classes gained and lost, and where the "
            f"adapter fails can only be told from labelled images, and {explanation['data']['missing']}. "
            + HOW_TO_GIVE_DATA
        )
    return "\n\n".join(parts) + "\n"


def render_summary(explanation: dict[str, Any], count: int = 3) -> str:
    """
    A few lines for the terminal.

    Args:
        explanation: what `explain_adapter` returns.
        count: how many classes of each kind are named.
    """
    lines = [
        f"{explanation['method']} adapter {explanation['adapter']}: {explanation['parameters']:,} learned numbers"
    ]
    for kind, group in explanation["prompts"].items():
        if "weights" in group:
            order = sorted(zip(group["weights"], group["names"]))
            ends = [f"{name} {weight:.2f}" for weight, name in (order[0], order[-1])]
            lines.append(f"{kind} weights w: lowest {ends[0]}, highest {ends[1]}")
        if group["learned"]:
            moved = sorted(zip(group["movement"], group["names"]), reverse=True)[:count]
            lines.append(f"{kind} prompts that moved most: " + ", ".join(f"{n} {_percent(m)}" for m, n in moved))
    if "scores" in explanation:
        before, after = (explanation["scores"][state]["mean_iou"] for state in ("zero_shot", "adapted"))
        data = explanation["data"]
        lines.append(
            f"mean IoU on {data['images']} images of {data['dataset']}: {100 * before:.1f} zero-shot, "
            f"{100 * after:.1f} adapted"
        )
        for kind in ("gained", "lost"):
            shown = [x for x in explanation["examples"] if x["kind"] == kind][:count]
            changes = ", ".join(f"{x['class']} {100 * x['gain']:+.1f}" for x in shown)
            lines.append(f"{kind} most: {changes or 'no class'}")
        if confusions := explanation["confusions"]["adapted"]:
            worst = confusions[0]
            lines.append(
                f"largest confusion: {_percent(worst['adapted'])} of {worst['truth']} is taken for "
                f"{worst['predicted']} ({_percent(worst['zero_shot'])} before)"
            )
    else:
        lines.append(f"no images: {explanation['data']['missing']}; add --dataset NAME or --data_dir DIR")
    if "missing" in explanation["words"]:
        lines.append(f"no words: {explanation['words']['missing']}")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _picture(explanation: dict[str, Any], name: str, text: str) -> str:
    return f"![{text}]({explanation['pictures'][name]})"


def _head(explanation: dict[str, Any]) -> str:
    trained = explanation["trained_on"] or "unknown data"
    if explanation["shots"]:
        trained += f", {explanation['shots']} shots"
    facts = [
        f"method: {explanation['method']} on {explanation['base_model']}, task {explanation['task']}",
        f"trained on: {trained}",
        f"learned: {explanation['parameters']:,} numbers, {explanation['bytes'] / 1000:.0f} kB",
        f"classes: {', '.join(explanation['class_names'])}",
    ]
    return "\n".join(
        [
            f"# What the adapter `{Path(explanation['adapter']).name}` has learned",
            "",
            INTRODUCTION.format(prompts=explanation["prompts_explained"]),
            "",
            *(f"- {fact}" for fact in facts),
        ]
    )


def _scores(explanation: dict[str, Any]) -> str:
    data, scores = explanation["data"], explanation["scores"]
    table = iou_table(scores["adapted"], scores["zero_shot"], explanation["method"])
    return (
        f"## Does it help?\n\nOn {data['images']} images of {data['dataset']}, split {data['split']}:\n\n"
        f"```\n{table}\n```"
    )


def _notes(group: dict[str, Any]) -> list[str]:
    return [f"{note}\n" for note in group["notes"]]


def _weights(explanation: dict[str, Any]) -> str:
    lines = ["## Learned weights", ""]
    groups = explanation["prompts"]
    weighted = [group for group in groups.values() if "weights" in group]
    if weighted:
        lines += [
            WEIGHTS,
            "",
            _picture(explanation, "weights", "learned weights"),
            "",
        ]
    for kind, group in groups.items():
        lines += _notes(group)
        if "weights" not in group:
            continue
        values = group["weights"]
        line = f"The {kind} weights run from {min(values):.2f} to {max(values):.2f}, mean {_mean(values):.2f}"
        things = set(explanation["thing_class_ids"] or ())
        if kind == "semantic" and 0 < len(things) < len(values):
            split = [[v for i, v in enumerate(values) if (i in things) == thing] for thing in (True, False)]
            line += f"; {_mean(split[0]):.2f} for things (countable), {_mean(split[1]):.2f} for stuff"
        lines += [line + ".", ""]
    return "\n".join(lines).rstrip()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _movement(explanation: dict[str, Any], count: int = 20) -> str:
    lines = ["## How far the prompts moved", ""]
    groups = explanation["prompts"]
    if not any(group["learned"] for group in groups.values()):
        return "\n".join([*lines, "No prompt moved: the adapter answers as the base model does."])
    if any(group["learned"] and "cosine" in group for group in groups.values()):
        lines += [
            "Movement is the length of `z_hat - z` as a share of that of `z`; the cosine tells how much of the "
            "direction is left (1: all of it).",
            "",
        ]
    lines += [_picture(explanation, "movement", "movement of the prompts"), ""]
    for kind, group in groups.items():
        if not group["learned"]:
            lines += [f"The {kind} prompts did not move.", ""]
            continue
        order = sorted(range(len(group["names"])), key=lambda i: -group["movement"][i])[:count]
        roles = explanation.get("roles") if kind == "spatial" and _have_parts(explanation) else None
        header = [f"{kind} prompt", "movement"] + ["cosine"] * ("cosine" in group) + ["w"] * ("weights" in group)
        header += ["serves most"] * (roles is not None)
        rows = []
        for index in order:
            row = [group["names"][index], _percent(group["movement"][index])]
            row += [f"{group[key][index]:.2f}" for key in ("cosine", "weights") if key in group]
            row += [_role(roles, index)] if roles else []
            rows.append(row)
        if len(order) < len(group["names"]):
            lines += [f"The {len(order)} of {len(group['names'])} {kind} prompts that moved most:", ""]
        lines += [markdown_table(header, rows), ""]
    return "\n".join(lines).rstrip()


def _role(roles: dict[str, list], index: int) -> str:
    role = roles["adapted"][index]
    return "nothing" if role["class"] is None else f"{role['class']} ({_percent(role['share'])} of all pixels)"


def _words(explanation: dict[str, Any], count: int = 3) -> str:
    words = explanation["words"]
    head = "## Words nearest to each class"
    if "missing" in words:
        return f"{head}\n\nLeft out: {words['missing']}."
    names, moved = explanation["class_names"], explanation["prompts"]["semantic"]["learned"]

    def shown(near: list) -> str:
        return ", ".join(f"{word} {cosine:.2f}" for word, cosine in near[:count])

    rows = [
        [name, shown(words["before"][index]), *([shown(words["after"][index])] if moved else [])]
        for index, name in enumerate(names)
    ]
    text = (
        f"Of {words['vocabulary']} words embedded by the base model's own text encoder, those with the largest cosine "
        "to the class's semantic prompt. Before learning that is the class's own name. Lower cosines after it mean "
        "that the class now lies where no word of the list does (`--words FILE` adds words). How much sense the "
        "neighbours make depends on how many words the base model was trained with."
    )
    if not moved:
        text += " The method leaves the semantic prompts as they are, so there is no after."
    return "\n\n".join([head, text, markdown_table(["class", "before", "after"][: 2 + moved], rows)])


def _have_parts(explanation: dict[str, Any]) -> bool:
    """Whether single spatial prompts have parts in the class maps; not where a map is the word of them all."""
    return bool(explanation.get("roles", {}).get("adapted"))


def _serving(explanation: dict[str, Any]) -> str:
    names = explanation["prompt_names"]

    def shown(state: str, name: str) -> str:
        found = explanation["serving"][state][name]
        parts = (f"{names[state][x['prompt']]}: {_percent(x['share'])}, {_percent(x['correct'])} right" for x in found)
        return "<br>".join(parts) or "never given"

    rows = [[name, shown("zero_shot", name), shown("adapted", name)] for name in explanation["class_names"]]
    return "\n\n".join(
        [
            "## Which spatial prompts serve which class",
            "A pixel's class is decided by a sum over the spatial prompts: how sure each is of the class, times its "
            "mask there. The table names the prompts with the largest part in the pixels that are given each class, "
            "and how much of that part is right. The picture shows all prompts with 1 % or more of any class, "
            "`serving.csv` everything.",
            markdown_table(["class", "zero-shot", "adapted"], rows),
            _picture(explanation, "serving", "share of the prompts in each class"),
        ]
    )


def _examples(explanation: dict[str, Any]) -> str:
    lines = ["## Classes that gained and lost most", ""]
    for kind, verb in (("gained", "improved"), ("lost", "suffered")):
        shown = [example for example in explanation["examples"] if example["kind"] == kind]
        if not shown:
            lines += [f"No class {kind}.", ""]
        for example in shown:
            lines += [
                f"**{example['class']}**: IoU {_percent(example['zero_shot'])} to {_percent(example['adapted'])} "
                f"({100 * example['gain']:+.1f}). The image in which it {verb} most ({example['file_name']}):",
                "",
                f"![{example['class']} {kind}]({example['picture']})",
                "",
            ]
    return "\n".join(lines).rstrip()


def _failures(explanation: dict[str, Any]) -> str:
    lines = ["## Where it fails", "", "### Classes taken for others", ""]
    for state, title in (("adapted", "The largest confusions with the adapter"), ("zero_shot", "Without it")):
        rows = [
            [x["truth"], x["predicted"], _percent(x["zero_shot"]), _percent(x["adapted"]), _percent(x["pixels"])]
            for x in explanation["confusions"][state]
        ]
        header = [
            "truth",
            "taken for",
            "of the truth, zero-shot",
            "adapted",
            f"of all pixels, {state.replace('_', '-')}",
        ]
        lines += [f"{title}:", "", markdown_table(header, rows) if rows else "None.", ""]
    lines += ["### The worst images", "", "By mean IoU over the classes in the image, with the adapter:", ""]
    for example in explanation["worst"]:
        lines += [
            f"{example['file_name']}: {_percent(example['adapted'])} ({_percent(example['zero_shot'])} zero-shot)",
            "",
            f"![failure]({example['picture']})",
            "",
        ]
    return "\n".join(lines).rstrip()
