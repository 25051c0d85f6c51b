"""What one person sees and does on the page, as plain values; the page itself only draws them."""

import base64
import io
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..data.classes import hex_color
from ..errors import SSPromptError
from ..utils.memory import is_out_of_memory
from .annotation import Annotation
from .assistant import Assistant
from .project import NONE, Project, thumbnail
from .suggest import Suggestions

MAX_SIDE = 1600
"""Longer side in pixels of the picture that is shown; labels have the size of the photograph."""

COLOR_ALPHA = 150
BORDER, CURRENT_BORDER = 253, 254
MAX_THUMBNAILS = 24
"""Of one request."""

OPEN_IMAGES = 8
"""Images whose history a person keeps while looking at others."""


def data_url(content: bytes, kind: str) -> str:
    """`content` as an address that a page can show without asking for a file."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def rgb_color(text: str) -> tuple[int, int, int]:
    """Of `#rrggbb`; raises SSPromptError for anything else."""
    try:
        value = bytes.fromhex(text.removeprefix("#"))
        red, green, blue = value
    except (ValueError, AttributeError):
        raise SSPromptError(f"the colour is {text!r}; it must be like #3d85f2") from None
    return red, green, blue


class Session:
    """
    Args:
        project, assistant, suggestions: shared by all.
        who: a name that nobody else has.
        can_write: whether labels and classes may be changed.
        can_name: whether classes may be; False where an adapter brings them.
    """

    def __init__(
        self,
        project: Project,
        assistant: Assistant,
        suggestions: Suggestions,
        who: str,
        can_write: bool = True,
        can_name: bool = True,
    ):
        self.project, self.assistant, self.suggestions = project, assistant, suggestions
        self.who, self.can_write, self.can_name = who, can_write, can_write and can_name
        self.class_id: int | None = None
        self._open: dict[str, Annotation] = {}
        self._lock = threading.RLock()

    @property
    def annotation(self) -> Annotation | None:
        """Of the image that is shown."""
        return next(reversed(self._open.values()), None)

    def act(self, event: dict[str, Any]) -> dict[str, Any]:
        """
        Do what a person has done on the page.

        Args:
            event: `do`, the name of an action, and its arguments.

        Returns:
            `view`, with `error` in words if it could not be done; nothing has changed then.
        """
        with self._lock:
            error, shown = "", self.annotation
            try:
                action = self._actions().get(event.get("do"))
                if action is None:
                    raise SSPromptError(f"the page asked for {event.get('do')!r}, which there is not: load it again")
                if self.annotation is not None and action != self._peek:
                    self.annotation.note = ""
                action(**{name: value for name, value in event.items() if name != "do"})
            except SSPromptError as problem:
                error = str(problem)
            except (
                TypeError,
                ValueError,
                ArithmeticError,
                LookupError,
                AttributeError,
            ) as problem:  # arguments that no page of ours sends
                error = f"{event.get('do')}: {problem}"
            except (MemoryError, RuntimeError) as problem:
                if not is_out_of_memory(problem):
                    raise
                error = "there is not enough memory for this image: use a smaller one"
            is_new = self.annotation is not shown or event.get("do") == "look"
            return self.view(with_image=is_new) | {"error": error}

    def _actions(self) -> dict[str, Any]:
        looking = {"look": self._look, "peek": self._peek, "open": self.open, "next": self.open_next}
        looking["choose"] = self.choose
        if not self.can_write:
            return looking
        one = self.annotation
        strokes = {}
        if one is not None:
            strokes = {
                "click": one.click,
                "box": one.box,
                "scribble": one.scribble,
                "phrase": one.phrase,
                "brush": one.brush,
                "pick": self._pick,
                "finish": one.finish_object,
                "fill": one.fill_rest,
                "delete": one.delete_object,
                "clear": one.clear,
                "undo": one.undo,
                "redo": one.redo,
                "predict": self.take_prediction,
            }
        classes = {"add_class": self.add_class, "change_class": self.change_class, "remove_class": self.remove_class}
        return looking | strokes | (classes if self.can_name else {})

    # Images

    def _look(self) -> None:
        """The page was opened or loaded again."""
        self.project.refresh()
        if self.annotation is not None and self.annotation.name not in self.project.images:
            self._open.pop(self.annotation.name)
        if self.annotation is None and self.project.images:
            self.open(self.project.images[0])

    def _peek(self) -> None:
        """Time has passed: others may have labelled, too."""
        if self.annotation is not None:
            self.annotation.reload()

    def open(self, name: str) -> None:
        """Show an image; the one before is free for others."""
        before = self.annotation
        annotation = self._open.pop(name, None)
        if annotation is None:
            ask = lambda **prompts: self.assistant.ask(name, **prompts)  # noqa: E731
            annotation = Annotation(self.project, name, self.who, ask, self.assistant.takes)
        else:
            annotation.reload()
        if before is not None and before.name != name:
            before.finish_object()
            self.project.locks.release(before.name, self.who)
        self._open[name] = annotation
        if self.class_id is not None and annotation.class_id != self.class_id:
            annotation.choose_class(self.class_id)
        while len(self._open) > OPEN_IMAGES:
            del self._open[next(iter(self._open))]

    def open_next(self) -> None:
        """Show the image without label that is predicted with least certainty."""
        now = self.annotation
        name, uncertainty = self.suggestions.next_image(self.who, None if now is None else now.name)
        self.open(name)
        if uncertainty is not None:
            self.annotation.note = f"the least certain prediction ({uncertainty:.0%} of what is possible)"

    def take_prediction(self) -> None:
        """Fill what has no label with the prediction of the adapter, or zero-shot."""
        if not self.project.classes:
            raise SSPromptError("name the classes first, which are to be predicted")
        result = self.assistant.predict(self.project.read_image(self.annotation.name), with_objects=True)
        self.annotation.take_prediction(result, self.assistant.class_ids(result))

    # Classes

    def choose(self, class_id: int) -> None:
        """Label with a class from now on."""
        self.project.class_of(class_id)
        self.class_id = class_id
        if self.annotation is not None:
            self.annotation.choose_class(class_id)

    def _pick(self, x: float, y: float) -> None:
        self.annotation.pick(x, y)
        self.class_id = self.annotation.class_id

    def add_class(self, name: str, thing: bool = False, color: str | None = None) -> None:
        """Name a class and choose it."""
        self.choose(self.project.add_class(name, bool(thing), None if color is None else rgb_color(color)).id)

    def change_class(
        self, class_id: int, name: str | None = None, thing: bool | None = None, color: str | None = None
    ) -> None:
        """Give a class another name, kind or colour."""
        changes = {"name": None if name is None else name.strip(), "thing": None if thing is None else bool(thing)}
        changes["color"] = None if color is None else rgb_color(color)
        self.project.change_class(class_id, **{key: value for key, value in changes.items() if value is not None})

    def remove_class(self, class_id: int) -> None:
        """Remove a class without labels."""
        self.project.remove_class(class_id)
        if self.class_id == class_id:
            self.class_id = None
        for one in self._open.values():
            if one.class_id == class_id:
                one.class_id = one.current = None

    # What is seen

    def view(self, with_image: bool = False) -> dict[str, Any]:
        """All that the page draws, as JSON values; the picture itself only `with_image`."""
        one, classes = self.annotation, self.project.classes
        pixels = {} if one is None else self.project.pixels_of_classes(one.name)
        images = [
            {
                "name": name,
                "share": round(100 * self.project.labelled_share(name)),
                "locked": self.project.locks.holder(name) not in (None, self.who),
            }
            for name in self.project.images
        ]
        return {
            "images": images,
            "labelled": sum(image["share"] > 0 for image in images),
            "classes": [
                {
                    "id": info.id,
                    "name": info.name,
                    "thing": info.thing,
                    "color": hex_color(info.color),
                    "pixels": pixels.get(info.id, 0),
                }
                for info in classes
            ],
            "class_id": self.class_id,
            "takes": list(self.assistant.takes),
            "can_write": self.can_write,
            "can_name": self.can_name,
            "current": None if one is None else self._view_of(one, with_image),
        }

    def _view_of(self, one: Annotation, with_image: bool) -> dict[str, Any]:
        height, width = one.size
        view: dict[str, Any] = {"name": one.name, "width": width, "height": height, "note": one.note}
        if with_image:
            view["image"] = data_url(thumbnail(self.project.read_image(one.name), MAX_SIDE), "jpeg")
        view["overlay"] = data_url(self._overlay(one), "png")
        view |= {"can_undo": one.can_undo, "can_redo": one.can_redo, "object": None}
        if (current := one.current) is not None:
            view["object"] = {
                "class_id": current.class_id,
                "points": [[*point, label] for point, label in zip(current.points, current.labels)],
                "box": current.box,
                "scribbles": [[line, label] for line, label in zip(current.scribbles, current.scribble_labels)],
            }
        return view

    def _overlay(self, one: Annotation) -> bytes:
        """A PNG of the labels in the colours of the classes, with borders of objects; clear where there is none."""
        scale = min(1.0, MAX_SIDE / max(one.size))
        size = tuple(max(1, round(side * scale)) for side in one.size[::-1])

        def shown(ids: np.ndarray) -> np.ndarray:
            return np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))

        classes, objects = shown(one.labels.classes), shown(one.labels.objects)
        infos = self.project.classes
        table = np.full(NONE + 1, NONE, np.uint8)
        for position, info in enumerate(infos):
            table[info.id] = position
        pixels = table[classes]
        pixels[_edges(classes.astype(np.int32) * 65536 + objects)] = BORDER
        if one.current is not None:
            pixels[_edges(shown(one.current.mask.astype(np.uint8)))] = CURRENT_BORDER
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(infos)] = [info.color for info in infos] if infos else palette[:0]
        palette[BORDER], palette[CURRENT_BORDER] = (255, 255, 255), (255, 222, 89)
        alpha = bytes([COLOR_ALPHA] * BORDER + [190, 255, 0])
        picture = Image.fromarray(pixels)
        picture.putpalette(palette.tobytes())
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", transparency=alpha, compress_level=3)
        return buffer.getvalue()

    def thumbnails(self, names: Sequence[Any]) -> dict[str, str]:
        """Small pictures of images, by name, of the first `MAX_THUMBNAILS`; without those that cannot be read."""
        found = {}
        for name in map(str, names[:MAX_THUMBNAILS]):
            try:
                found[name] = data_url(thumbnail(self.project.read_image(name), 128), "jpeg")
            except SSPromptError:
                continue
        return found


def _edges(ids: np.ndarray) -> np.ndarray:
    """bool (H, W): pixels whose right or lower neighbour is another."""
    edges = np.zeros(ids.shape, bool)
    edges[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    edges[:-1] |= ids[1:] != ids[:-1]
    return edges
