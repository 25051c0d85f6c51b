"""Label sets of the drawn street scenes.

The renderer draws fine *parts* (a window, a lane marking, a car's wheel); a label set is a table from parts to
classes. Two sets exist: `base`, the eleven classes known from CamVid, and `custom`, the taxonomy of an imaginary user
who merges, splits and renames them.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

IGNORE_INDEX = 255


class Part(IntEnum):
    """Fine categories the renderer draws; never seen by users."""

    SKY = 0
    FACADE = 1
    WINDOW = 2
    DOOR = 3
    ROOF = 4
    ROAD = 5
    MARKING = 6
    PAVEMENT = 7
    KERB = 8
    FOLIAGE = 9
    BARE_TREE = 10
    TRUNK = 11
    HEDGE = 12
    GRASS = 13
    POLE = 14
    SIGN = 15
    TRAFFIC_LIGHT = 16
    FENCE = 17
    CAR = 18
    CAR_GLASS = 19
    CAR_DETAIL = 20
    PERSON = 21
    RIDER = 22
    BICYCLE = 23
    OTHER = 24  # bins, benches, the own bonnet: not labelled


@dataclass(frozen=True)
class LabelSet:
    """Classes of one taxonomy.

    Attributes:
        classes: class names; the position is the class id.
        things: ids of the countable classes.
        colors: one RGB colour per class, 0 to 255.
        parts: for each class the parts that belong to it; a part of no class is void.
    """

    classes: tuple[str, ...]
    things: tuple[int, ...]
    colors: tuple[tuple[int, int, int], ...]
    parts: tuple[tuple[Part, ...], ...]

    def lookup_table(self) -> np.ndarray:
        """uint8 array (number of parts,): class id of each part, 255 for void."""
        table = np.full(len(Part), IGNORE_INDEX, np.uint8)
        for class_id, parts in enumerate(self.parts):
            table[list(parts)] = class_id
        return table


BASE_LABEL_SET = LabelSet(
    classes=(
        "road",
        "pavement",
        "building",
        "sky",
        "vegetation",
        "pole",
        "sign",
        "fence",
        "car",
        "person",
        "rider",
    ),
    things=(6, 8, 9, 10),
    colors=(
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (70, 130, 180),
        (107, 142, 35),
        (153, 153, 153),
        (220, 220, 0),
        (190, 153, 153),
        (0, 0, 142),
        (220, 20, 60),
        (255, 0, 0),
    ),
    parts=(
        (Part.ROAD, Part.MARKING),
        (Part.PAVEMENT, Part.KERB),
        (Part.FACADE, Part.WINDOW, Part.DOOR, Part.ROOF),
        (Part.SKY,),
        (Part.FOLIAGE, Part.BARE_TREE, Part.TRUNK, Part.HEDGE, Part.GRASS),
        (Part.POLE,),
        (Part.SIGN, Part.TRAFFIC_LIGHT),
        (Part.FENCE,),
        (Part.CAR, Part.CAR_GLASS, Part.CAR_DETAIL),
        (Part.PERSON,),
        (Part.RIDER, Part.BICYCLE),
    ),
)

# A user's own taxonomy: facade/window, drivable surface/lane marking and greenery/lawn split a base class; urban
# furniture (pole, sign, fence) and vulnerable traveller (person, rider) merge some; all have names the base never saw.
CUSTOM_LABEL_SET = LabelSet(
    classes=(
        "drivable surface",
        "lane marking",
        "kerbside",
        "facade",
        "window",
        "firmament",
        "greenery",
        "lawn",
        "urban furniture",
        "motor vehicle",
        "vulnerable traveller",
    ),
    things=(9, 10),
    colors=(
        (90, 90, 110),
        (250, 250, 210),
        (200, 120, 200),
        (160, 90, 60),
        (90, 190, 220),
        (170, 210, 255),
        (20, 110, 40),
        (140, 220, 90),
        (240, 170, 30),
        (40, 50, 190),
        (230, 40, 60),
    ),
    parts=(
        (Part.ROAD,),
        (Part.MARKING,),
        (Part.PAVEMENT, Part.KERB),
        (Part.FACADE, Part.DOOR, Part.ROOF),
        (Part.WINDOW,),
        (Part.SKY,),
        (Part.FOLIAGE, Part.BARE_TREE, Part.TRUNK, Part.HEDGE),
        (Part.GRASS,),
        (Part.POLE, Part.SIGN, Part.TRAFFIC_LIGHT, Part.FENCE),
        (Part.CAR, Part.CAR_GLASS, Part.CAR_DETAIL),
        (Part.PERSON, Part.RIDER, Part.BICYCLE),
    ),
)

LABEL_SETS = {"base": BASE_LABEL_SET, "custom": CUSTOM_LABEL_SET}

STREET_CLASSES = BASE_LABEL_SET.classes
STREET_THINGS = BASE_LABEL_SET.things
STREET_COLORS = BASE_LABEL_SET.colors
CUSTOM_CLASSES = CUSTOM_LABEL_SET.classes
CUSTOM_THINGS = CUSTOM_LABEL_SET.things
CUSTOM_COLORS = CUSTOM_LABEL_SET.colors

# Names used at random for a class in pretraining; the first is the class name itself. The words of the custom names
# are kept out, so that the second label set stays unseen. CamVid's own spellings are in.
STREET_SYNONYMS: dict[str, tuple[str, ...]] = {
    "road": ("road", "Road", "street", "carriageway", "roadway", "asphalt", "tarmac"),
    "pavement": ("pavement", "Pavement", "sidewalk", "footpath", "footway", "walkway"),
    "building": ("building", "Building", "house", "buildings", "shop", "architecture"),
    "sky": ("sky", "Sky", "clouds", "heaven", "the sky"),
    "vegetation": ("vegetation", "Tree", "tree", "trees", "plants", "bush", "Vegetation"),
    "pole": ("pole", "Pole", "post", "lamp post", "mast", "column"),
    "sign": ("sign", "SignSymbol", "traffic sign", "road sign", "sign symbol", "traffic light"),
    "fence": ("fence", "Fence", "railing", "barrier", "fencing", "guard rail"),
    "car": ("car", "Car", "automobile", "van", "cars", "auto"),
    "person": ("person", "Pedestrian", "pedestrian", "people", "human", "walker"),
    "rider": ("rider", "Bicyclist", "bicyclist", "cyclist", "biker", "motorcyclist"),
}
