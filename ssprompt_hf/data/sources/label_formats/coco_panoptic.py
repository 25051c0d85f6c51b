"""COCO panoptic: a JSON file of segments, and a PNG of segment numbers for each image."""

import re
from typing import Any

from ....errors import LabelFormatError
from ..panoptic_files import SEGMENT_FEATURES, PanopticSegments, classes_of_categories, read_panoptic_json
from .categories import join_categories
from .labelled_folder import FolderView, LabelledFolder, image_feature, missing_images
from .split_names import split_of

NAME = "COCO panoptic"
LOOKS_FOR = "a JSON file whose annotations have segments_info, and a folder of PNGs"


def detect(folder: FolderView) -> str | None:
    """The JSON files, if there are any."""
    files = [path for path, _ in folder.documents.get("panoptic", [])]
    return ", ".join(folder.name_of(path) for path in files) or None


def read(folder: FolderView) -> LabelledFolder:
    """
    Segments of things are instances, groups (`iscrowd`) are not; pixels of no segment are ignored. Categories of one
    name are one class, whatever their numbers in each file.

    Raises:
        LabelFormatError, ClassListError: the JSON file is not of this form.
        NoImagesError: no image with its PNG is there.
    """
    documents = folder.documents["panoptic"]
    categories, indices, problems = join_categories([(path, data.get("categories", ())) for path, data in documents])
    classes = folder.classes
    if classes is None:
        try:
            classes = classes_of_categories(categories)
        except (KeyError, TypeError) as error:
            raise LabelFormatError(
                f"{documents[0][0]}: its categories are not as COCO writes them ({error!r})."
            ) from error
    else:
        by_name = {name: index for index, name in enumerate(classes.names)}
        given = [by_name.get(str(entry["name"]).strip()) for entry in categories]
        indices = [{number: given[position] for number, position in index_of.items()} for index_of in indices]
    splits: dict[str, list[dict[str, Any]]] = {}
    for (path, _), index_of in zip(documents, indices):
        segments, _, partners = read_panoptic_json(
            [path], classes, lambda entry, _, index_of=index_of: index_of[entry["id"]]
        )
        split = split_of(path, folder.path)
        plain = re.sub("^panoptic_", "", path.stem)
        near = (path.with_suffix(""), path.parent / f"{path.stem}_semseg", path.parent, folder.path / "masks")
        beside = (folder.path / plain, folder.path / "images" / plain, folder.path / "images", folder.path / split)
        missing = []
        for label_name, (image_name, image_id) in partners.items():
            label = folder.image(label_name, [place for place in near if place.is_dir()], split)
            image = folder.image(image_name, [place for place in beside if place.is_dir()], split)
            if label is None or image is None or image == label:
                missing.append(image_name)
                continue
            row = {"image": str(image.absolute()), "file_name": folder.name_of(image)}
            row |= {"label": str(label.absolute()), "segments": segments[label_name], "image_id": image_id}
            splits.setdefault(split, []).append(row)
        problems += missing_images(path.name, missing, len(partners))
    found = folder.sorted_splits(NAME, splits, problems)
    features = {"label": image_feature(), "segments": SEGMENT_FEATURES}
    return LabelledFolder(NAME, classes, PanopticSegments(classes), found, features, problems)
