"""One image while a person labels it: clicks, boxes, scribbles, phrases and the brush become masks, masks labels."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from ..errors import SSPromptError
from ..segmentation.files import bounding_box
from ..segmentation.prompted import PromptedResult
from ..segmentation.results import SegmentationResult
from .masks import stroke_mask, whole_objects
from .project import MAX_OBJECTS, NONE, Labels, Project

MAX_UNDO, UNDO_BYTES = 100, 500_000_000
"""Strokes that can be taken back; fewer, but ten at least, of large images."""

Point = tuple[float, float]
"""x, y in pixels of the image."""

Ask = Callable[..., PromptedResult]
"""`points`, `labels`, `boxes`, `scribbles`, `scribble_labels`, `text` -> the base model's answer about the image."""


@dataclass(frozen=True)
class CurrentObject:
    """
    The object that is being labelled.

    Args:
        class_id: of its class.
        number: in the map of objects; 0 for stuff.
        under: the labels without it.
        points, labels: its clicks, 1 on it and 0 beside it.
        box: left, top, right, bottom.
        scribbles, scribble_labels: lines on it and beside it.
        answer: bool `(H, W)`, the model's mask; None before it was asked.
        added, removed: bool `(H, W)`, what the brush has added and taken away; None without.
    """

    class_id: int
    number: int
    under: Labels
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None
    scribbles: tuple[tuple[Point, ...], ...] = ()
    scribble_labels: tuple[int, ...] = ()
    answer: np.ndarray | None = field(default=None, compare=False)
    added: np.ndarray | None = field(default=None, compare=False)
    removed: np.ndarray | None = field(default=None, compare=False)

    @property
    def prompts(self) -> dict:
        """Arguments of `SSPromptModel.predict`."""
        found: dict = {}
        if self.points:
            found |= {"points": [list(self.points)], "labels": [list(self.labels)]}
            if self.number:  # a thing is one object, and the mask may have others that look alike
                found |= {"connected": True}
        if self.box is not None:
            found |= {"boxes": [self.box]}
        if self.scribbles:
            lines = [[list(line) for line in self.scribbles]]
            found |= {"scribbles": lines, "scribble_labels": [list(self.scribble_labels)]}
        return found

    @property
    def mask(self) -> np.ndarray:
        """bool `(H, W)`: the answer with the brush's corrections."""
        mask = np.zeros(self.under.classes.shape, bool) if self.answer is None else self.answer
        if self.added is not None:
            mask = mask | self.added
        return mask if self.removed is None else mask & ~self.removed


class _Step(NamedTuple):
    """The part of the labels that a stroke has changed, as it was, and the object of that time."""

    top: int
    left: int
    classes: np.ndarray
    objects: np.ndarray
    current: CurrentObject | None


class Annotation:
    """
    The labels of one image, which are on disk after every stroke.

    Args:
        project: the folder.
        name: of the photograph.
        who: labels it; the image is locked for others with every stroke.
        ask: the base model.
        takes: the kinds of prompts that it takes.

    Attributes:
        class_id: of the class that is labelled with, or None.
        labels: as they are on disk.
        current: the object that further clicks and strokes belong to, or None.
        note: what the last stroke has brought, for people; may be empty.
    """

    def __init__(self, project: Project, name: str, who: str, ask: Ask, takes: tuple[str, ...] = ("points", "boxes")):
        self.project, self.name, self.who, self.ask, self.takes = project, name, who, ask, takes
        self.class_id: int | None = None
        self.current: CurrentObject | None = None
        self.note = ""
        self._done: list[_Step] = []
        self._undone: list[_Step] = []
        self.reload()

    def reload(self) -> None:
        """Read the labels again, which somebody else may have changed; what could be undone is forgotten then."""
        labels = self.project.read_labels(self.name)
        if hasattr(self, "labels") and _same(labels, self.labels):
            return
        self.labels, self.current = labels, None
        self._done.clear()
        self._undone.clear()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.labels.classes.shape

    # Objects

    def choose_class(self, class_id: int) -> None:
        """Label with another class; the object before is finished."""
        self.project.class_of(class_id)
        self.class_id, self.current = class_id, None

    def finish_object(self) -> None:
        """What comes next belongs to another object."""
        self.current = None

    def pick(self, x: float, y: float) -> None:
        """Choose what is at a pixel, its class and, of a thing, the object, to correct it with the brush."""
        row, column = self._pixel(x, y)
        class_id, number = int(self.labels.classes[row, column]), int(self.labels.objects[row, column])
        if class_id == NONE:
            raise SSPromptError("there is no label here: choose a class and click on the object")
        self.class_id = class_id
        mask = self.labels.classes == class_id
        if number:
            mask &= self.labels.objects == number
        under = self._painted(self.labels, mask, NONE, 0)
        self.current = CurrentObject(class_id, number, under, answer=mask)

    def _begin(self) -> CurrentObject:
        if self.current is not None:
            return self.current
        if self.class_id is None:
            raise SSPromptError("choose a class first, or add one")
        return CurrentObject(self.class_id, self._new_number(self.class_id), self.labels)

    def _new_number(self, class_id: int, labels: Labels | None = None) -> int:
        if not self.project.class_of(class_id).thing:
            return 0
        number = int((labels or self.labels).objects.max(initial=0)) + 1
        if number > MAX_OBJECTS:
            raise SSPromptError(f"{self.name} has {MAX_OBJECTS} objects, and instance maps hold no more")
        return number

    # The model's prompts

    def click(self, x: float, y: float, on_it: bool = True) -> None:
        """A click on the current object, or beside it; the first one begins an object."""
        self._check_taken("points", "clicks")
        self._pixel(x, y)
        current = self._begin()
        if not on_it and not current.prompts and current.answer is None:
            raise SSPromptError("click on the object first, then beside it")
        self._answer(replace(current, points=(*current.points, (x, y)), labels=(*current.labels, int(on_it))))

    def box(self, left: float, top: float, right: float, bottom: float) -> None:
        """A box around an object, or on it where the base model has it so. Where boxes are examples, all that is like
        them is labelled, an object each."""
        self._check_taken("boxes", "boxes")
        height, width = self.size
        left, right = sorted((_inside(left, width), _inside(right, width)))
        top, bottom = sorted((_inside(top, height), _inside(bottom, height)))
        self.current = None
        self._answer(replace(self._begin(), box=(left, top, right, bottom)))

    def scribble(self, line: list[Point], on_it: bool = True) -> None:
        """A line on the current object, or beside it. Base models that take no scribbles get three clicks on it."""
        height, width = self.size
        line = [(_inside(x, width), _inside(y, height)) for x, y in line]
        current = self._begin()
        if not on_it and not current.prompts and current.answer is None:
            raise SSPromptError("mark the object first, then what is beside it")
        if "scribbles" in self.takes:
            lines = (*current.scribbles, tuple(line))
            self._answer(replace(current, scribbles=lines, scribble_labels=(*current.scribble_labels, int(on_it))))
            return
        self._check_taken("points", "scribbles")
        points = [line[round(share * (len(line) - 1))] for share in (0.1, 0.5, 0.9)]
        points = list(dict.fromkeys(points))
        labels = (*current.labels, *[int(on_it)] * len(points))
        self._answer(replace(current, points=(*current.points, *points), labels=labels))

    def phrase(self, text: str) -> None:
        """All that a phrase finds, an object each of the chosen class. What is not there is told in `note`."""
        self._check_taken("text", "phrases")
        self.current = None
        begun = self._begin()
        result = self.ask(text=text.strip())
        if not result.segments:
            score = max(result.phrases.values(), default=0.0)
            self.note = f"no {text.strip()!r} in this image (score {score:.2f})"
            return
        self._paint_all([one.mask for one in result.segments], begun.class_id)

    def _check_taken(self, kind: str, words: str) -> None:
        if kind not in self.takes:
            taken = ", ".join(self.takes) or "none"
            raise SSPromptError(f"the base model takes no {words} (it takes: {taken}): use the brush")

    def _answer(self, asked: CurrentObject) -> None:
        """Ask about an object and paint what comes."""
        result = self.ask(**asked.prompts)
        masks = [one.mask for one in result.segments]
        if any(one.object_index is None for one in result.segments) or not masks:  # boxes are examples
            if masks:
                self._paint_all(masks, asked.class_id)
            else:
                self.note = "the model finds nothing there"
            return
        self.note = "" if masks[0].any() else "the model finds nothing there: click again, or use the brush"
        self._show(replace(asked, answer=masks[0]))

    def _paint_all(self, masks: list[np.ndarray], class_id: int) -> None:
        labels = self.labels
        for mask in masks:
            labels = self._painted(labels, mask, class_id, self._new_number(class_id, labels))
        self.note = f"{len(masks)} found"
        self._put(labels, None)

    # The brush, and other strokes

    def brush(self, line: list[Point], radius: float, erase: bool = False) -> None:
        """
        Add to the current object, or take away from it, what lies under the brush. Without an object, painting begins
        one and erasing takes whatever label is there.

        Args:
            line: x, y of the middle of the brush.
            radius: in pixels.
        """
        stroke = stroke_mask(line, radius, self.size)
        current = self.current
        if erase and (current is None or not (current.mask & stroke).any()):
            self.current = None
            self._put(self._painted(self.labels, stroke, NONE, 0), None)
            return
        current = self._begin()
        none = np.zeros_like(stroke)
        added, removed = (none if one is None else one for one in (current.added, current.removed))
        if erase:
            self._show(replace(current, added=added & ~stroke, removed=removed | stroke))
        else:
            self._show(replace(current, added=added | stroke, removed=removed & ~stroke))

    def fill_rest(self) -> None:
        """Give all pixels without label the chosen class."""
        self.current = None
        class_id = self._begin().class_id
        # what was not labelled is one region, whatever it shows: of a thing it is a group that nobody told apart
        self._put(self._painted(self.labels, self.labels.classes == NONE, class_id, 0), None)

    def delete_object(self) -> None:
        """Take the current object away; what was under it comes back."""
        if self.current is None:
            raise SSPromptError("no object is chosen: pick one first")
        self._put(self.current.under, None)

    def clear(self) -> None:
        """Forget all labels of the image (which can be undone)."""
        self._put(Labels.empty(*self.size), None)

    def take_prediction(self, result: SegmentationResult, ids: dict[int, int], only_empty: bool = True) -> None:
        """
        Start from a prediction.

        Args:
            result: of the image; its segments are the objects of things.
            ids: class id of each of the result's class indices; others are left out.
            only_empty: keep the labels that are there.
        """
        table = np.full(NONE + 1, NONE, np.uint8)
        table[list(ids)] = list(ids.values())
        classes = table[result.class_indices]
        things = [info.id for info in self.project.classes if info.thing]
        segments = np.zeros_like(result.segments_map) if result.task == "semantic" else result.segments_map
        objects = whole_objects(classes, segments, things)
        if only_empty:
            objects = np.where(objects, objects + int(self.labels.objects.max(initial=0)), 0)
        objects = np.minimum(objects, MAX_OBJECTS).astype(np.uint16)
        if only_empty:
            kept = self.labels.classes != NONE
            classes = np.where(kept, self.labels.classes, classes)
            objects = np.where(kept, self.labels.objects, objects)
        self._put(Labels(classes, objects), None)

    def _show(self, current: CurrentObject) -> None:
        self._put(self._painted(current.under, current.mask, current.class_id, current.number), current)

    @staticmethod
    def _painted(labels: Labels, mask: np.ndarray, class_id: int, number: int) -> Labels:
        return Labels(
            np.where(mask, np.uint8(class_id), labels.classes), np.where(mask, np.uint16(number), labels.objects)
        )

    # History

    def _put(self, labels: Labels, current: CurrentObject | None) -> None:
        """Let `labels` be those of the image: on disk first, then here."""
        step = self._step(labels)
        self._save(labels)
        self._done.append(step)
        # a step of an object of its own holds six bytes a pixel: labels and masks
        del self._done[: -max(10, min(MAX_UNDO, UNDO_BYTES // (6 * labels.classes.size)))]
        self._undone.clear()
        self.labels, self.current = labels, current

    def _save(self, labels: Labels) -> None:
        self.project.locks.take(self.name, self.who)
        self.project.write_labels(self.name, labels)

    def _step(self, after: Labels) -> _Step:
        changed = (after.classes != self.labels.classes) | (after.objects != self.labels.objects)
        left, top, right, bottom = bounding_box(changed) or (0, 0, 0, 0)
        part = np.s_[top:bottom, left:right]
        return _Step(top, left, self.labels.classes[part].copy(), self.labels.objects[part].copy(), self.current)

    @property
    def can_undo(self) -> bool:
        """Whether there is a stroke to take back."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is a stroke to make again."""
        return bool(self._undone)

    def undo(self) -> None:
        """Take the last stroke back, on disk, too."""
        self._go(self._done, self._undone, "there is nothing to undo")

    def redo(self) -> None:
        """Make the last stroke that was undone again."""
        self._go(self._undone, self._done, "there is nothing to redo")

    def _go(self, source: list[_Step], target: list[_Step], empty: str) -> None:
        if not source:
            raise SSPromptError(empty)
        step = source[-1]
        height, width = step.classes.shape
        part = np.s_[step.top : step.top + height, step.left : step.left + width]
        classes, objects = self.labels.classes.copy(), self.labels.objects.copy()
        classes[part], objects[part] = step.classes, step.objects
        labels = Labels(classes, objects)
        back = self._step(labels)
        self._save(labels)
        source.pop()
        target.append(back)
        self.labels, self.current, self.note = labels, step.current, ""

    def _pixel(self, x: float, y: float) -> tuple[int, int]:
        height, width = self.size
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            raise SSPromptError(f"({x:g}, {y:g}) is outside the image of {width}x{height} pixels")
        return min(height - 1, max(0, round(y))), min(width - 1, max(0, round(x)))


def _inside(value: float, length: int) -> float:
    return min(max(float(value), 0.0), length - 1.0)


def _same(first: Labels, second: Labels) -> bool:
    return np.array_equal(first.classes, second.classes) and np.array_equal(first.objects, second.objects)
