"""Do clicks help? Mean IoU of objects in drawn scenes or photographs, click by click.

    python benchmarks/clicks.py                       # as `predict` answers
    python benchmarks/clicks.py --official            # as the official model answers, without our correction
    python benchmarks/clicks.py --connected --class_names car --rounds 3    # as the studio labels things
    python benchmarks/clicks.py --data_dir data/camvid --split train --min_area 1000

The first click lies in the middle of an object (the pixel farthest from its border), each further one in the middle of
the largest error: on the object where it is missed, beside it where too much is taken. Objects are all segments of at
least `--min_area` pixels, whether they are things or stuff; where labels tell no objects apart, connected parts of a
class. Of a folder, images are taken at even distances.
"""

import argparse
import time

import numpy as np
from scipy import ndimage

from ssprompt_hf import SSPromptModel
from ssprompt_hf.data.loading import load_segmentation_dataset


def middle(region: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The largest distance of a pixel of a region (H, W) from its border, and the x, y of that pixel."""
    distance = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return distance[y, x], (float(x), float(y))


def objects(scene: dict[str, np.ndarray], min_area: int, classes: list[int]) -> list[np.ndarray]:
    """bool (H, W): things one by one and each class of stuff, or connected parts of classes."""
    label = scene["label"].astype(np.int64)
    instance = scene.get("instance")
    if instance is None:
        parts = {value: ndimage.label(label == value)[0] for value in np.unique(label)}
        instance = sum(parts.values(), np.zeros_like(label))
    keys = label * 2**32 + instance
    keys[~np.isin(label, classes)] = -1
    return [keys == key for key in np.unique(keys) if key >= 0 and (keys == key).sum() >= min_area]


def click_through(
    model: SSPromptModel, image: np.ndarray, truth: np.ndarray, rounds: int, connected: bool, image_size: int | None
) -> list[float]:
    """IoU after each click on one object; of the connected parts that clicks lie on only, if `connected`."""
    encoded = model.encode_image(image, image_size=image_size)
    points, labels, scores = [], [], []
    found = np.zeros_like(truth)
    for _ in range(rounds):
        missed, excess = middle(truth & ~found), middle(found & ~truth)
        if max(missed[0], excess[0]) > 0:
            points.append(missed[1] if missed[0] >= excess[0] else excess[1])
            labels.append(int(missed[0] >= excess[0]))
        found = model.predict(encoded, points=points, labels=labels, connected=connected).segments[0].mask
        scores.append((found & truth).sum() / (found | truth).sum())
    return scores


def main(arguments: list[str] | None = None) -> list[float]:
    """Prints, and returns, the mean IoU after each click, in percent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="seem-lite")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num_images", type=int, default=6)
    parser.add_argument("--min_area", type=int, default=100, help="pixels of the smallest object, of 192x384")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--data_dir", help="a folder of photographs with labels, in place of drawn scenes")
    parser.add_argument("--class_names", nargs="+", help="objects of these classes only")
    parser.add_argument("--image_size", type=int, help="shorter side in pixels (default: the base model's)")
    parser.add_argument("--connected", action="store_true", help="without parts of a mask that no click lies on")
    parser.add_argument("--official", action="store_true", help="without making masks agree with the clicks")
    options = parser.parse_args(arguments)
    model = SSPromptModel.from_pretrained(options.base_model)
    if options.official:
        model.get_base_model().refines_clicks = False
    source = {"dataset": "street-scenes/clear"} if options.data_dir is None else {"data_dir": options.data_dir}
    scenes, scores, start = load_segmentation_dataset(**source, split=options.split), [], time.time()
    names = options.class_names or scenes.classes.names
    classes = [scenes.classes.names.index(name) for name in names]
    step = 1 if options.data_dir is None else max(1, len(scenes) // options.num_images)
    for scene in scenes.select(range(0, options.num_images * step, step)):
        for truth in objects(scene, options.min_area, classes):
            scores.append(
                click_through(model, scene["image"], truth, options.rounds, options.connected, options.image_size)
            )
    means = (100 * np.mean(scores, axis=0)).round(1).tolist()
    print(f"{len(scores)} objects in {options.num_images} images, {time.time() - start:.0f} s")
    print("mean IoU after 1, 2, ... clicks:", ", ".join(map(str, means)))
    for least in (50, 80):
        share = (100 * (100 * np.array(scores) > least).mean(axis=0)).round(1).tolist()
        print(f"objects with an IoU above {least} %: ", ", ".join(map(str, share)))
    return means


if __name__ == "__main__":
    main()
