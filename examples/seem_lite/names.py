"""What the classes of a training step are called: synonyms, and the coarser and finer classes of other label sets."""

from dataclasses import dataclass

import torch

from ssprompt_hf.data.street_scenes.classes import BASE_LABEL_SET, IGNORE_INDEX, Part
from ssprompt_hf.data.street_scenes.source import STREET_CLASSES, STREET_SYNONYMS, STREET_THINGS

# As other label sets (Cityscapes, BDD100K, Mapillary Vistas, ADE20K) call what is drawn. No word of the street scenes'
# second label set is among them: it stands for what a base model has never read.
OTHER_LABEL_SETS = {
    "road": ("route", "Road", "highway", "driveway", "road, route", "alley", "avenue", "crosswalk"),
    "pavement": ("sidewalk, pavement", "Sidewalk", "pedestrian area", "path", "walkway", "sidewalks"),
    "building": ("building, edifice", "edifice", "skyscraper", "wall", "Building", "houses", "hovel", "tower"),
    "sky": ("Sky", "skies", "cloud", "blue sky"),
    "vegetation": ("vegetation", "plant", "plant, flora", "Vegetation", "nature", "foliage", "hedge", "palm"),
    "pole": ("pole", "Column_Pole", "utility pole", "streetlight", "street light", "polegroup", "pillar", "lamp"),
    "sign": ("signboard", "traffic signs", "Sign", "billboard", "traffic sign (front)", "signs", "banner"),
    "fence": ("fence, fencing", "rail", "gate", "guard rail", "Fence", "wall or fence", "bannister"),
    "car": ("car, auto", "truck", "bus", "SUVPickupTruck", "Truck_Bus", "caravan", "taxi", "train", "lorry"),
    "person": ("person, individual", "Child", "man", "woman", "pedestrians", "walkers", "somebody", "Person"),
    "rider": (
        "riders",
        "MotorcycleScooter",
        "Bicyclist",
        "cyclists",
        "other rider",
        "person on a bicycle",
        "motorcycle",
    ),
}
NAMES = {name: (*STREET_SYNONYMS[name], *OTHER_LABEL_SETS[name]) for name in STREET_CLASSES}

# A class, the parts that become one of their own, their names, and those of what is left.
SPLITS = (
    ("sign", (Part.TRAFFIC_LIGHT,), ("traffic light", "traffic signal", "stoplight", "TrafficLight", "lights"),
     ("traffic sign", "sign", "signboard", "road sign", "SignSymbol")),
    ("rider", (Part.BICYCLE,), ("bicycle", "bike", "bicycles", "two-wheeler", "cycle"),
     ("rider", "bicyclist", "cyclist", "biker")),
    ("vegetation", (Part.GRASS,), ("terrain", "grass", "earth", "field", "meadow"),
     ("tree", "trees", "vegetation", "plant", "bush")),
    ("vegetation", (Part.TRUNK, Part.BARE_TREE), ("trunk", "bare tree", "branches"), ("leaves", "foliage", "plants")),
    ("pavement", (Part.KERB,), ("curb", "curb stone", "edge"), ("sidewalk", "pavement", "footpath")),
    ("building", (Part.DOOR,), ("door", "doors", "entrance"), ("building", "house", "buildings")),
    ("car", (Part.CAR_GLASS,), ("windscreen", "glass", "pane"), ("car", "car body", "automobile")),
)  # fmt: skip
# Classes that become one, and its names.
MERGES = (
    (("person", "rider"), ("human", "people", "humans")),
    (("road", "pavement"), ("flat", "ground", "floor")),
    (("building", "fence"), ("construction", "structure")),
    (("pole", "sign"), ("object", "objects")),
)
SPLIT_SHARE, MERGE_SHARE = 0.15, 0.06


@dataclass
class StepClasses:
    """
    The classes of one training step.

    Attributes:
        names: one a class.
        of_part: int64 `(parts,)`, the class of each drawn part, 255 if it has none.
        things: bool `(classes,)`, which are countable.
    """

    names: list[str]
    of_part: torch.Tensor
    things: torch.Tensor


def _one_of(names: tuple[str, ...], generator: torch.Generator) -> str:
    return names[int(torch.randint(len(names), (), generator=generator))]


def _happens(share: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < share


def base_classes(generator: torch.Generator | None = None) -> StepClasses:
    """The base classes, each called by one of its names; without a generator by the first."""
    names = list(STREET_CLASSES)
    if generator is not None:
        # half of the time a plain name: these are asked for most
        names = [
            _one_of(STREET_SYNONYMS[name] if _happens(0.5, generator) else NAMES[name], generator) for name in names
        ]
    things = torch.zeros(len(names), dtype=torch.bool)
    things[list(STREET_THINGS)] = True
    return StepClasses(names, torch.from_numpy(BASE_LABEL_SET.lookup_table()).long(), things)


def draw_classes(generator: torch.Generator) -> StepClasses:
    """Classes of a step: the base classes, some of them split or merged now and then."""
    classes = base_classes(generator)
    names, of_part, things = classes.names, classes.of_part, classes.things.tolist()
    merged = set()
    for group, its_names in MERGES:
        if not _happens(MERGE_SHARE, generator):
            continue
        first, *others = (STREET_CLASSES.index(name) for name in group)
        names[first] = _one_of(its_names, generator)
        for other in others:
            of_part[of_part == other] = first
        merged.update(group)
    for name, parts, part_names, rest_names in SPLITS:
        if name in merged or not _happens(SPLIT_SHARE, generator):
            continue
        merged.add(name)
        index = STREET_CLASSES.index(name)
        of_part[list(parts)] = len(names)
        names[index] = _one_of(rest_names, generator)
        names.append(_one_of(part_names, generator))
        things.append(things[index])
    used = sorted(set(of_part.tolist()) - {IGNORE_INDEX})
    renumbered = torch.full((256,), IGNORE_INDEX)
    renumbered[used] = torch.arange(len(used))
    return StepClasses(
        [names[index] for index in used], renumbered[of_part], torch.tensor([things[index] for index in used])
    )
