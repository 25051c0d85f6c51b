"""BDD100K, semantic segmentation: 19 classes of street scenes, those of Cityscapes.

Classes and layout: `bdd100k/label/label.py` and `doc/source/format.rst` of https://github.com/bdd100k/bdd100k
(Yu et al., 2020). The masks hold Cityscapes' train ids, the colour maps Cityscapes' colours.
"""

from ..sources.label_files import ColorMaps, IdMaps
from .cityscapes import TRAIN_ID_CLASSES
from .layouts import DatasetInfo, Files, Layout

CLASSES = TRAIN_ID_CLASSES


def _layouts(task: str, split: str, condition: str | None) -> list[Layout]:
    images = Files((f"images/10k/{split}",), ".jpg")
    return [
        Layout(name, images, {"label": Files((f"labels/sem_seg/{name}/{split}",), ".png")}, label_format, CLASSES)
        for name, label_format in (("masks", IdMaps), ("colormaps", ColorMaps))
    ]


INFO = DatasetInfo(
    name="bdd100k",
    title="BDD100K semantic segmentation",
    url="https://bdd-data.berkeley.edu (10K images and segmentation labels, after login)",
    licence="own terms: free for education, research and not-for-profit use; members of BDD and BAIR commercially too",
    tree="""bdd100k/
  images/10k/{train,val}/<image>.jpg
  labels/sem_seg/masks/{train,val}/<image>.png
  labels/sem_seg/colormaps/{train,val}/<image>.png      in place of masks""",
    tasks=("semantic",),
    splits=("train", "val"),
    layouts=_layouts,
    roots=("bdd100k",),
)
