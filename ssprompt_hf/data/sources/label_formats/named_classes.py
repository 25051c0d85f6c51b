"""Classes of tools that write names and no ids."""

from collections.abc import Iterable

from ...classes import IGNORE_INDEX, ClassInfo, SegmentationClasses
from .labelled_folder import BACKGROUND_NAMES, FolderView


def named_classes(folder: FolderView, names: Iterable[str]) -> tuple[SegmentationClasses, dict[str, int]]:
    """
    The class list of such a data set: things, with ids from 1 on; one called background has id 0 and is stuff.

    Args:
        names: those that occur; or all, in their order, as a list.

    Returns:
        the classes in the order of the class file of the folder, if there is one that has them all, else of `names`,
        or of the alphabet where they have no order; and name -> class index.

    Raises:
        ClassListError: no name at all.
    """
    ordered = list(names) if isinstance(names, list) else sorted(names)
    for file in ("labels.txt", "classes.txt"):
        path = folder.path / file
        if path.is_file():
            listed = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
            listed = list(dict.fromkeys(line for line in listed if line and line != "__ignore__"))
            if set(ordered) <= set(listed):
                ordered = listed
                break
    infos = []
    for name in ordered:
        is_background = name.lower() in BACKGROUND_NAMES
        infos.append(ClassInfo(name, 0 if is_background else len(infos) + 1, thing=not is_background))
    classes = SegmentationClasses(tuple(infos), (IGNORE_INDEX,) if len(infos) < IGNORE_INDEX else ())
    return classes, {name: index for index, name in enumerate(classes.names)}
