"""`SSPromptSpace`: the studio to try. Everybody has labels of their own, and nothing is kept."""

import functools
import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..adapters.files import fetch_adapter, read_adapter
from ..data.classes import ClassInfo, SegmentationClasses, default_palette
from ..data.image_inputs import image_sources
from ..data.street_scenes.dataset import load_street_scenes
from ..errors import SSPromptError
from ..models.registry import DEFAULT_BASE_MODEL
from .assistant import Assistant, load_model
from .exports import plain_zip
from .page import head, import_gradio, told, workspace
from .page import theme as page_theme
from .project import CLASSES, NONE, Project
from .session import Session
from .suggest import Suggestions

if TYPE_CHECKING:
    import gradio

NO_ADAPTER = "none: classes that you name"
CLASS_NAMES = ("road", "pavement", "building", "sky", "vegetation", "car", "person")
DRAWN = (("clear", 0), ("fog", 1), ("night", 2), ("rain", 3), ("snow", 4))
"""Conditions and numbers of the scenes that are shown where there are no other examples."""
MAX_VISITORS, MAX_MODELS = 24, 4


@dataclass
class Visitor:
    """
    Args:
        folder: of this visitor alone; removed when there are too many others.
        adapter: that was chosen; None for classes by name.
        session: what the visitor sees.
    """

    folder: Path
    adapter: str | None
    session: Session


class SSPromptSpace:
    """
    A page on which visitors try base model and adapters on examples and photographs of their own: classes, clicks,
    boxes, scribbles, phrases and the brush as in [`SSPromptStudio`], with masks to download.

    Args:
        adapters: folders or Hub ids to choose from.
        base_model: for classes that visitors name; by default the first adapter's, or `seem-lite`.
        examples: folder of photographs; by default a few drawn scenes.

    Raises:
        SSPromptError: an adapter or the examples cannot be read; subclasses say why.
    """

    def __init__(self, adapters: Sequence[str] = (), base_model: str | None = None, examples: str | None = None):
        self.adapters = list(adapters)
        self._configs = {name: read_adapter(fetch_adapter(name)).config for name in self.adapters}
        if base_model is None and self.adapters:
            base_model = self._configs[self.adapters[0]].base_model_name_or_path
        self.base_model = base_model or DEFAULT_BASE_MODEL
        self._root = tempfile.TemporaryDirectory(prefix="ssprompt-space-")
        self.examples = Path(self._root.name, "examples") if examples is None else Path(examples)
        if examples is None:
            self._draw_examples()
        image_sources(self.examples)  # raises where there are none
        self._visitors: dict[str, Visitor] = {}
        self._lock = threading.Lock()
        self._load = functools.lru_cache(maxsize=MAX_MODELS)(load_model)
        self.page: gradio.Blocks | None = None

    def _draw_examples(self) -> None:
        self.examples.mkdir()
        for condition, index in DRAWN:
            image = load_street_scenes(f"street-scenes/{condition}", "test", num_images=index + 1)[index]["image"]
            Image.fromarray(image).save(self.examples / f"{condition}.png")

    # Visitors

    def visitor(self, who: str) -> Visitor:
        """Who has the name `who`; new ones begin with the first adapter."""
        with self._lock:
            visitor = self._visitors.pop(who, None)
            if visitor is None:
                visitor = self._welcome(who, self.adapters[0] if self.adapters else None)
            self._visitors[who] = visitor
            while len(self._visitors) > MAX_VISITORS:
                self._forget(next(iter(self._visitors)))
            return visitor

    def _welcome(self, who: str, adapter: str | None) -> Visitor:
        folder = Path(tempfile.mkdtemp(dir=self._root.name))
        for source in image_sources(self.examples)[0]:
            shutil.copyfile(source, folder / Path(source).name)
        self._classes(adapter).save(folder / CLASSES)
        project = Project(folder)
        assistant = Assistant(project, None if adapter else self.base_model, adapter, self._load)
        session = Session(project, assistant, Suggestions(project, assistant), who, can_name=adapter is None)
        return Visitor(folder, adapter, session)

    def _classes(self, adapter: str | None) -> SegmentationClasses:
        if adapter is None:
            return SegmentationClasses.from_names(CLASS_NAMES, things=(5, 6), ignore_ids=(NONE,))
        config = self._configs[adapter]
        colors = config.colors or default_palette(len(config.class_names))
        things = set(config.thing_class_ids or ())
        infos = (
            ClassInfo(name, index, index in things, tuple(color))
            for index, (name, color) in enumerate(zip(config.class_names, colors))
        )
        return SegmentationClasses(tuple(infos), (NONE,))

    def _forget(self, who: str) -> None:
        shutil.rmtree(self._visitors.pop(who).folder, ignore_errors=True)

    # What a browser asks for

    def act(self, request: dict[str, Any]) -> dict[str, Any]:
        """See [`Session.act`]; `request` has `who` and `event`."""
        return self.visitor(str(request["who"])).session.act(dict(request["event"]))

    def thumbnails(self, request: dict[str, Any]) -> dict[str, str]:
        """See [`Session.thumbnails`]; `request` has `who` and `names`."""
        return self.visitor(str(request["who"])).session.thumbnails(request["names"])

    def choose(self, who: str, adapter: str, threshold: float) -> None:
        """
        Choose an adapter, which brings its classes and begins with empty labels, and the least score of objects and
        phrases (0 for the model's own).

        Raises:
            SSPromptError: there is no such adapter.
        """
        if adapter not in (NO_ADAPTER, *self.adapters):
            raise SSPromptError(f"there is no adapter {adapter!r}; there are {', '.join(self.adapters) or 'none'}")
        chosen = None if adapter == NO_ADAPTER else adapter
        visitor = self.visitor(who)
        if visitor.adapter != chosen:
            with self._lock:
                self._forget(who)
                self._visitors[who] = visitor = self._welcome(who, chosen)
        visitor.session.assistant.threshold = threshold or None

    def add_images(self, who: str, files: Sequence[str]) -> None:
        """Photographs of a visitor; raises as [`Project.add_images`]."""
        project = self.visitor(who).session.project
        project.add_images(files)

    def compare(self, who: str) -> tuple[Image.Image, Image.Image]:
        """
        The image that is shown, by classes without and with the adapter.

        Raises:
            SSPromptError: no image is shown, or no adapter is chosen.
        """
        visitor = self.visitor(who)
        if visitor.adapter is None or visitor.session.annotation is None:
            raise SSPromptError("choose an adapter and an image first")
        image = visitor.session.project.read_image(visitor.session.annotation.name)
        assistant = visitor.session.assistant
        return assistant.predict(image, zero_shot=True).overlay(), assistant.predict(image).overlay()

    def masks(self, who: str) -> Path:
        """The labels of a visitor as [`plain_zip`] makes them."""
        return plain_zip(self.visitor(who).session.project, tempfile.mkdtemp(dir=self._root.name))

    # The server

    def build(self) -> "gradio.Blocks":
        """The page; raises SSPromptError if gradio is not installed."""
        gr = import_gradio()
        choices = [*self.adapters, NO_ADAPTER]
        who_first = "(who, ...others) => [window.ssprompt_studio.who, ...others]"
        look = "() => { window.ssprompt_studio && window.ssprompt_studio.look(); }"
        with gr.Blocks(title="Segment with your own classes", analytics_enabled=False, fill_width=True) as page:
            who = gr.Textbox(visible=False)
            with gr.Row(elem_classes="st-head"):
                gr.HTML(head("nothing you do here is kept"))
                adapter = gr.Dropdown(choices, value=choices[0], label="Adapter", elem_id="adapter", min_width=220)
                threshold = gr.Slider(
                    0, 1, value=0, step=0.05, label="Least score (0: the model's own)", elem_id="threshold"
                )
                add = gr.UploadButton(
                    "Add photographs", file_count="multiple", file_types=["image"], size="sm", scale=0, min_width=150
                )
                made = gr.Button("Masks", size="sm", scale=0, min_width=90, elem_id="prepare_masks")
                file = gr.DownloadButton("Download", size="sm", scale=0, visible=False, elem_id="download_masks")
            with gr.Tab("Segment"):
                workspace(self)
            with gr.Tab("Without and with the adapter", visible=bool(self.adapters)) as compared:
                slider = gr.ImageSlider(
                    elem_id="slider", show_label=False, type="pil", interactive=False, max_height=640
                )
            chosen = [who, adapter, threshold]
            for control in (adapter, threshold):
                control.change(told(self.choose), chosen, js=who_first).then(None, js=look)
            add.upload(told(self.add_images), [who, add], js=who_first).then(None, js=look)
            compared.select(told(self.compare), who, slider, js=who_first)
            made.click(
                told(lambda name: gr.DownloadButton(value=str(self.masks(name)), visible=True)),
                who,
                file,
                js=who_first,
            )
        return page

    def launch(self, **kwargs: Any) -> Any:
        """Serve the page; `kwargs` are those of `gradio.Blocks.launch`."""
        self.page = self.build()
        return self.page.launch(theme=page_theme(), allowed_paths=[], max_file_size="20mb", footer_links=[], **kwargs)
