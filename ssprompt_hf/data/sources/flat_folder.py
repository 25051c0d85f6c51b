"""Images and labels side by side in one folder: which file is which."""

from collections.abc import Sequence
from pathlib import Path

FLAT_LABEL_ENDINGS = ("_label", "_labels", "_mask", "_masks", "_gt", "_seg", "_segmentation", "_L", "-label", "-mask")
FLAT_INSTANCE_ENDINGS = ("_instance", "_instances", "-instance")
LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif")


def flat_files(files: Sequence[Path]) -> tuple[list[Path], dict[Path, Path], dict[Path, Path]]:
    """
    Tells images, labels and instance maps of one folder apart by their names.

    A label is called as its image with one of `FLAT_LABEL_ENDINGS`, such as `a_mask.png` for `a.jpg`; or as its image,
    in a format without loss where the image has another, such as `a.png` for `a.jpg`.

    Args:
        files: of one folder.

    Returns:
        the images, sorted; image -> label; image -> instance map. Images may lack either.
    """
    by_stem: dict[str, list[Path]] = {}
    for file in sorted(files):
        by_stem.setdefault(file.stem, []).append(file)
    partner: dict[Path, str] = {}
    roles: dict[str, dict[Path, Path]] = {"label": {}, "instance": {}}
    for role, endings in (("label", FLAT_LABEL_ENDINGS), ("instance", FLAT_INSTANCE_ENDINGS)):
        for stem, group in by_stem.items():
            ending = next((ending for ending in endings if stem.endswith(ending) and stem != ending), None)
            images = by_stem.get(stem[: -len(ending)], []) if ending else []
            for file in group if images else []:
                if file.suffix.lower() in LOSSLESS:
                    partner[file] = role
                    roles[role][images[0]] = file
    for group in by_stem.values():
        rest = [file for file in group if file not in partner]
        images = [file for file in rest if file.suffix.lower() not in LOSSLESS]
        labels = [file for file in rest if file.suffix.lower() in LOSSLESS]
        if len(images) == 1 and len(labels) == 1 and images[0] not in roles["label"]:
            partner[labels[0]] = "label"
            roles["label"][images[0]] = labels[0]
    images = [file for file in sorted(files) if file not in partner]
    return (
        images,
        roles["label"],
        {image: file for image, file in roles["instance"].items() if image in roles["label"]},
    )
