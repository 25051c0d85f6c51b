"""ACDC: the Adverse Conditions Dataset, street scenes in fog, at night, in rain and in snow, with Cityscapes' classes.

Layout: Sakaridis et al., https://acdc.vision.ee.ethz.ch. Reference images in normal conditions (`*_ref`) are left out.
Its server scores semantic predictions that are called like the images and hold train ids: so write them those who
publish scores on its test set, for instance https://github.com/brdav/refign (`predict_step`, by authors of ACDC) and
https://github.com/lhoyer/DAFormer (`imgfile_prefix=labelTrainIds to_label_id=False`).
"""

from ..sources.label_files import IdMaps
from ..sources.panoptic_files import PanopticSegments, category_by_name
from .cityscapes import CLASSES, TRAIN_ID_CLASSES
from .layouts import DatasetInfo, Files, Layout

CONDITIONS = ("fog", "night", "rain", "snow")


def _layouts(task: str, split: str, condition: str) -> list[Layout]:
    conditions = CONDITIONS if condition == "all" else (condition,)

    def folders(top: str) -> tuple[str, ...]:
        return tuple(f"{top}/{name}/{split}" for name in conditions)

    images = Files(folders("rgb_anon"), "_rgb_anon.png")
    panoptic = Layout(
        "panoptic",
        images,
        {"label": Files(folders("gt_panoptic"), "_gt_panoptic.png")},
        PanopticSegments,
        CLASSES,
        panoptic_json=(
            tuple(f"gt_panoptic/{name}/{name}_{split}_gt_panoptic.json" for name in conditions),
            (f"gt_panoptic/{split}_gt_panoptic.json",),
        ),
        category=category_by_name,
    )
    if task != "semantic":
        return [panoptic]
    return [
        Layout(name, images, {"label": Files(folders("gt"), f"_gt_{name}.png")}, label_format, CLASSES)
        for name, label_format in (("labelTrainIds", lambda _: IdMaps(TRAIN_ID_CLASSES)), ("labelIds", IdMaps))
    ]


INFO = DatasetInfo(
    name="acdc",
    title="ACDC",
    url="https://acdc.vision.ee.ethz.ch (rgb_anon_trainvaltest.zip, gt_trainval.zip, gt_panoptic_trainval.zip)",
    licence="own terms: free for non-commercial use such as research, teaching and evaluation; no redistribution",
    tree="""acdc/
  rgb_anon/{fog,night,rain,snow}/{train,val}/<sequence>/<image>_rgb_anon.png
  gt/{fog,night,rain,snow}/{train,val}/<sequence>/<image>_gt_{labelTrainIds,labelIds}.png
  gt_panoptic/{fog,night,rain,snow}/{train,val}/<sequence>/<image>_gt_panoptic.png
  gt_panoptic/<condition>/<condition>_{train,val}_gt_panoptic.json, or gt_panoptic/{train,val}_gt_panoptic.json""",
    tasks=("semantic", "instance", "panoptic"),
    splits=("train", "val"),
    layouts=_layouts,
    conditions=(*CONDITIONS, "all"),
    roots=("acdc", "ACDC"),
    archives=("rgb_anon_trainvaltest", "gt_trainval", "gt_panoptic_trainval"),
    semantic_ids=tuple(TRAIN_ID_CLASSES.ids),
)
