"""Does a model know what is not there? Scores of phrases on drawn scenes, and the threshold that they suggest.

    python benchmarks/phrases.py

Asked about are: the names of classes that are in an image, their synonyms, classes that are not in it, and things
that are never drawn. The threshold is where the balanced accuracy is largest: the mean, over these four groups, of the
share that is told rightly.
"""

import argparse

import numpy as np

from ssprompt_hf import SSPromptModel
from ssprompt_hf.data.street_scenes.source import STREET_CLASSES, STREET_SYNONYMS, StreetScenes

NEVER_DRAWN = (
    "a purple elephant", "a banana", "a keyboard", "a pizza", "a sofa", "a boat", "a giraffe", "a clock", "a laptop",
    "a cat",
)  # fmt: skip


def questions(label: np.ndarray) -> list[tuple[str, str]]:
    """(group, phrase) about a scene; classes of fewer than 100 pixels are left out."""
    counts = np.bincount(label.reshape(-1), minlength=256)
    asked = [("never drawn", phrase) for phrase in NEVER_DRAWN]
    for index, name in enumerate(STREET_CLASSES):
        if counts[index] >= 100:
            asked += [("present", name), *(("synonym", one) for one in STREET_SYNONYMS[name][:2])]
        elif counts[index] == 0:
            asked.append(("absent", name))
    return asked


def main(arguments: list[str] | None = None) -> None:
    """Prints shares told rightly at the model's own threshold and at the best one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="seem-nano")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num_images", type=int, default=10)
    options = parser.parse_args(arguments)
    model = SSPromptModel.from_pretrained(options.base_model, keep_prompt_encoders=True)
    scores: dict[str, list[float]] = {"present": [], "synonym": [], "absent": [], "never drawn": []}
    told: dict[str, list[bool]] = {group: [] for group in scores}
    for scene in StreetScenes(options.split, num_images=options.num_images):
        asked = questions(scene["label"])
        result = model.predict(scene["image"], text=[phrase for _, phrase in asked])
        found = {segment.label for segment in result.segments}
        for group, phrase in asked:
            scores[group].append(result.phrases[phrase])
            told[group].append((phrase in found) == (group in ("present", "synonym")))
    best = max(np.unique(np.concatenate(list(scores.values()))), key=lambda least: _accuracy(scores, least))
    for group in scores:
        print(f"{group:<12} {len(told[group]):4d} phrases, told rightly {100 * np.mean(told[group]):5.1f} %")
    print(f"largest balanced accuracy {100 * _accuracy(scores, best):.1f} % with scores above {best:.3f}")


def _accuracy(scores: dict[str, list[float]], least: float) -> float:
    shares = {group: np.mean(np.array(values) > least) for group, values in scores.items()}
    there, not_there = shares["present"] + shares["synonym"], shares["absent"] + shares["never drawn"]
    return (there + 2 - not_there) / 4


if __name__ == "__main__":
    main()
