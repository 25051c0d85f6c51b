"""ADE20K, the SceneParse150 benchmark: 150 classes of scenes, of which 100 are things with instance labels.

Names (the first of each list of synonyms) and ids: `objectInfo150.txt`, colours: `color150.mat` of
https://github.com/CSAILVision/sceneparsing; things: `instancesegmentation/categoryMapping.txt` of
https://github.com/CSAILVision/placeschallenge; panoptic files: `datasets/prepare_ade20k_pan_seg.py` of
https://github.com/facebookresearch/Mask2Former.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..classes import IGNORE_INDEX, ClassInfo, SegmentationClasses
from ..sources.label_files import IdMaps, Maps, Where, read_rgb_map
from ..sources.panoptic_files import PanopticSegments
from .layouts import DatasetInfo, Files, Layout

# colour, * for a thing, name; line n is id n, and 0 in the label files is unlabelled
_TABLE = """
787878   wall
b47878   building
06e6e6   sky
503232   floor
04c803   tree
787850   ceiling
8c8c8c   road
cc05ff * bed
e6e6e6 * windowpane
04fa07   grass
e005ff * cabinet
ebff07   sidewalk
96053d * person
787846   earth
08ff33 * door
ff0652 * table
8fff8c   mountain
ccff04   plant
ff3307 * curtain
cc4603 * chair
0066c8 * car
3de6fa   water
ff0633 * painting
0b66ff * sofa
ff0747 * shelf
ff09e0   house
0907e6   sea
dcdcdc * mirror
ff095c   rug
7009ff   field
08ffd6 * armchair
07ffe0 * seat
ffb806 * fence
0aff47 * desk
ff290a   rock
07ffff * wardrobe
e0ff08 * lamp
6608ff * bathtub
ff3d06 * railing
ffc207 * cushion
ff7a08   base
00ff14 * box
ff0829 * column
ff0599 * signboard
0633ff * chest of drawers
eb0cff * counter
a09614   sand
00a3ff * sink
8c8c8c   skyscraper
fa0a0f * fireplace
14ff00 * refrigerator
1fff00   grandstand
ff1f00   path
ffe000 * stairs
99ff00   runway
0000ff * case
ff4700 * pool table
00ebff * pillow
00adff * screen door
1f00ff   stairway
0bc8c8   river
ff5200   bridge
00fff5 * bookcase
003dff   blind
00ff70 * coffee table
00ff85 * toilet
ff0000 * flower
ffa300 * book
ff6600   hill
c2ff00 * bench
008fff * countertop
33ff00 * stove
0052ff * palm
00ff29 * kitchen island
00ffad * computer
0a00ff * swivel chair
adff00 * boat
00ff99   bar
ff5c00 * arcade machine
ff00ff   hovel
ff00f5 * bus
ff0066 * towel
ffad00 * light
ff0014 * truck
ffb8b8   tower
001fff * chandelier
00ff3d * awning
0047ff * streetlight
ff00cc * booth
00ffc2 * television
00ff52 * airplane
000aff   dirt track
0070ff * apparel
3300ff * pole
00c2ff   land
007aff * bannister
00ffa3   escalator
ff9900 * ottoman
00ff0a * bottle
ff7000   buffet
8fff00   poster
5200ff   stage
a3ff00 * van
ffeb00 * ship
08b8aa * fountain
8500ff   conveyer belt
00ff5c   canopy
b800ff * washer
ff001f * plaything
00b8ff   swimming pool
00d6ff * stool
ff0070 * barrel
5cff00 * basket
00e0ff   waterfall
70e0ff   tent
46b8a0 * bag
a300ff * minibike
9900ff   cradle
47ff00 * oven
ff00a3 * ball
ffcc00 * food
ff008f * step
00ffeb   tank
85ff00 * trade name
ff00eb * microwave
f500ff * pot
ff007a * animal
fff500 * bicycle
0abed4   lake
d6ff00 * dishwasher
00ccff * screen
1400ff   blanket
ffff00 * sculpture
0099ff * hood
0029ff * sconce
00ffcc * vase
2900ff * traffic light
29ff00 * tray
ad00ff * ashcan
00f5ff * fan
4700ff   pier
7a00ff   crt screen
00ffb8 * plate
005cff * monitor
b8ff00 * bulletin board
0085ff   shower
ffd600 * radiator
19c2c2 * glass
66ff00 * clock
5c00ff * flag
"""


def _class(number: int, line: str) -> ClassInfo:
    color, thing, name = line[:6], line[7] == "*", line[9:]
    return ClassInfo(name, number, thing, tuple(bytes.fromhex(color)))


CLASSES = SegmentationClasses(
    tuple(_class(number, line) for number, line in enumerate(_TABLE.strip().split("\n"), start=1)),
    ignore_ids=(0,),
    ignore_color=(0, 0, 0),
)

INSTANCE_CLASSES = SegmentationClasses(
    tuple(
        ClassInfo(info.name, number, True, info.color)
        for number, info in enumerate((info for info in CLASSES.classes if info.thing), start=1)
    ),
    ignore_ids=(0,),
    ignore_color=(0, 0, 0),
)
"""The classes of the instance benchmark: the 100 things, with the ids of `annotations_instance`."""


@dataclass(frozen=True)
class InstanceMaps:
    """`annotations_instance`: the red channel holds the class id, the green one the number of the object."""

    classes: SegmentationClasses
    column: str = "label"
    has_instances: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def read(self, values: dict[str, Any], where: Where, instances: bool = True) -> Maps:
        channels = read_rgb_map(values[self.column], where(self.column))
        label = self.classes.encode(channels[..., 0], where(self.column))
        return label, np.where(label == IGNORE_INDEX, 0, channels[..., 1]).astype(np.int32)


@dataclass(frozen=True)
class SemanticAndInstanceMaps:
    """Both kinds of annotation of an image, put together as for the panoptic files: objects lie over stuff, and pixels
    of a thing that belong to no object are ignored."""

    classes: SegmentationClasses
    columns: tuple[str, ...] = ("label", "instance")
    has_instances: bool = True

    def read(self, values: dict[str, Any], where: Where, instances: bool = True) -> Maps:
        label, _ = IdMaps(self.classes).read(values, where)
        objects, instance = InstanceMaps(INSTANCE_CLASSES, "instance").read(values, where)
        table = np.arange(IGNORE_INDEX + 1, dtype=np.uint8)
        table[self.classes.thing_indices] = IGNORE_INDEX
        things = np.array(self.classes.thing_indices, np.uint8)
        is_object = instance > 0
        label = np.where(is_object, things[np.where(is_object, objects, 0)], table[label])
        return label, instance


def _category(category: dict[str, Any], classes: SegmentationClasses) -> int:
    return category["id"]  # the panoptic files number the classes from 0


def _layouts(task: str, split: str, condition: str | None) -> list[Layout]:
    folder = {"train": "training", "val": "validation"}[split]
    images = Files((f"images/{folder}",), ".jpg")
    semantic, instance = Files((f"annotations/{folder}",), ".png"), Files((f"annotations_instance/{folder}",), ".png")
    if task == "semantic":
        return [Layout("annotations", images, {"label": semantic}, IdMaps, CLASSES)]
    if task == "instance":
        return [Layout("annotations_instance", images, {"label": instance}, InstanceMaps, INSTANCE_CLASSES)]
    return [
        Layout(
            "panoptic",
            images,
            {"label": Files((f"ade20k_panoptic_{split}",), ".png")},
            PanopticSegments,
            CLASSES,
            panoptic_json=((f"ade20k_panoptic_{split}.json",),),
            category=_category,
        ),
        Layout(
            "annotations and annotations_instance",
            images,
            {"label": semantic, "instance": instance},
            SemanticAndInstanceMaps,
            CLASSES,
        ),
    ]


INFO = DatasetInfo(
    name="ade20k",
    title="ADE20K (SceneParse150)",
    url="http://sceneparsing.csail.mit.edu (ADEChallengeData2016.zip; annotations_instance.tar for instances)",
    licence="images: non-commercial research and education; annotations and class lists: BSD 3-Clause",
    tree="""ADEChallengeData2016/
  images/{training,validation}/<image>.jpg
  annotations/{training,validation}/<image>.png
  annotations_instance/{training,validation}/<image>.png              for instance and panoptic
  ade20k_panoptic_{train,val}/<image>.png, ade20k_panoptic_{train,val}.json
                                                  Mask2Former's; else put together from the two annotation folders""",
    tasks=("semantic", "instance", "panoptic"),
    splits=("train", "val"),
    layouts=_layouts,
    roots=("ADEChallengeData2016",),
)
