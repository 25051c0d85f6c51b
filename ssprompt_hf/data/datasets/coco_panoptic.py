"""COCO panoptic, and any data set in its format: the classes are the categories of the JSON file.

Format: https://cocodataset.org/#format-data. `task` decides how the segments are read; all tasks have all classes.
"""

from ..sources.panoptic_files import PanopticSegments
from .layouts import DatasetInfo, Files, Layout


def _layouts(task: str, split: str, condition: str | None) -> list[Layout]:
    layouts = []
    for name in (f"{split}2017", split):
        # the annotation archive holds its PNGs as a second archive, which is unpacked beside it or beside the images
        for folder, ending in ((f"annotations/panoptic_{name}", ".jpg"), (f"panoptic_{name}", ".jpg")):
            layouts.append(
                Layout(
                    f"panoptic_{name}",
                    Files((name,), ending),
                    {"label": Files((folder,), ".png")},
                    PanopticSegments,
                    None,
                    panoptic_json=((f"annotations/panoptic_{name}.json",), (f"panoptic_{name}.json",)),
                )
            )
    return layouts


INFO = DatasetInfo(
    name="coco_panoptic",
    title="COCO panoptic",
    url="https://cocodataset.org/#download (train2017.zip, val2017.zip, panoptic_annotations_trainval2017.zip)",
    licence="annotations CC BY 4.0; images under the terms of Flickr, each with its own licence",
    tree="""coco/
  {train,val}2017/<image>.jpg
  annotations/panoptic_{train,val}2017.json
  annotations/panoptic_{train,val}2017/<image>.png      or panoptic_{train,val}2017/<image>.png
The same without 2017 for other data sets in this format.""",
    tasks=("semantic", "instance", "panoptic"),
    splits=("train", "val"),
    layouts=_layouts,
    roots=("coco",),
)
