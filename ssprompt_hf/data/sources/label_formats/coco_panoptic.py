"""COCO panoptic: a JSON file of segments, and a PNG of segment numbers for each image."""

import re
from typing import Any

from ..panoptic_files import SEGMENT_FEATURES, PanopticSegments, read_panoptic_json
from .labelled_folder import FolderView, LabelledFolder, image_feature, missing_images, split_of

NAME = "COCO panoptic"
LOOKS_FOR = "a JSON file whose annotations have segments_info, and a folder of PNGs"


def detect(folder: FolderView) -> str | None:
    """The JSON files, if there are any."""
    files = [path for path, _ in folder.documents.get("panoptic", [])]
    return ", ".join(folder.name_of(path) for path in files) or None


def read(folder: FolderView) -> LabelledFolder:
    """
    Segments of things are instances, groups (`iscrowd`) are not; pixels of no segment are ignored.

    Raises:
        LabelFormatError, ClassListError: the JSON file is not of this form.
        NoImagesError: no image with its PNG is there.
    """
    classes = folder.classes
    by_name = None if classes is None else {name: index for index, name in enumerate(classes.names)}
    splits: dict[str, list[dict[str, Any]]] = {}
    problems: list[str] = []
    for path, _ in folder.documents["panoptic"]:
        category = None if by_name is None else (lambda entry, _: by_name.get(entry["name"]))
        segments, classes, partners = read_panoptic_json([path], classes, category)
        split = split_of(path, folder.path)
        plain = re.sub("^panoptic_", "", path.stem)
        near = (path.with_suffix(""), path.parent / f"{path.stem}_semseg", path.parent, folder.path / "masks")
        beside = (folder.path / plain, folder.path / "images" / plain, folder.path / "images", folder.path / split)
        missing = []
        for label_name, image_name in partners.items():
            label = folder.image(label_name, [place for place in near if place.is_dir()])
            image = folder.image(image_name, [place for place in beside if place.is_dir()])
            if label is None or image is None or image == label:
                missing.append(image_name)
                continue
            row = {"image": str(image.absolute()), "file_name": folder.name_of(image)}
            row |= {"label": str(label.absolute()), "segments": segments[label_name]}
            splits.setdefault(split, []).append(row)
        problems += missing_images(path.name, missing, len(partners))
    found = folder.sorted_splits(NAME, splits, problems)
    features = {"label": image_feature(), "segments": SEGMENT_FEATURES}
    return LabelledFolder(NAME, classes, PanopticSegments(classes), found, features, problems)
