"""`SSPromptStudio`: a folder of photographs, a base model, a page."""

import hmac
import html
import ipaddress
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..data.classes import hex_color
from ..errors import SSPromptError
from ..models.registry import ADAPTER_WEIGHTS, DEFAULT_BASE_MODEL
from .assistant import Assistant
from .page import build, theme
from .project import ADAPTER, Project
from .session import Session
from .suggest import Suggestions
from .training_job import BUSY, CANCELLED, FAILED, PREPARING, SCORING, TrainingJob, TrainingSettings

if TYPE_CHECKING:
    import gradio

PASSWORD = "SSPROMPT_STUDIO_PASSWORD"
"""Environment variable with the password."""

MAX_PEOPLE = 100
LOCAL_HOST = "127.0.0.1"


class SSPromptStudio:
    """
    A page to label photographs with a base model's own prompts, train an adapter on them and see what it brought.

    ```python
    SSPromptStudio("photos").launch()
    ```

    Args:
        folder: with photographs; see [`Project`].
        base_model: name, folder or Hub id; by default that of the adapter, or `seem-lite`.
        adapter: to predict with at first: a folder or Hub id; by default the one that the studio trained in this
            folder, if there is one.
        read_only: people may look, but neither label nor train.

    Raises:
        SSPromptError: a folder, model or adapter cannot be used; subclasses say why.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        base_model: str | None = None,
        adapter: str | os.PathLike | None = None,
        read_only: bool = False,
    ):
        self.project, self.read_only = Project(folder), read_only
        own = self.project.folder / ADAPTER
        if adapter is None and (own / ADAPTER_WEIGHTS).is_file():
            adapter = own
        if base_model is None and adapter is not None:
            base_model = _base_of(adapter)
        self.assistant = Assistant(self.project, base_model or DEFAULT_BASE_MODEL, adapter)
        self.suggestions = Suggestions(self.project, self.assistant)
        self.job = TrainingJob(self.project, self.assistant.use_adapter)
        self.page: gradio.Blocks | None = None
        self.downloads = tempfile.TemporaryDirectory(prefix="ssprompt-studio-")
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    # What a browser asks for

    def session(self, who: str) -> Session:
        """The view of one person, who is whoever has the name `who`."""
        with self._lock:
            session = self._sessions.pop(who, None)
            if session is None:
                session = Session(self.project, self.assistant, self.suggestions, who, not self.read_only)
            self._sessions[who] = session
            while len(self._sessions) > MAX_PEOPLE:
                del self._sessions[next(iter(self._sessions))]
            return session

    def act(self, request: dict[str, Any]) -> dict[str, Any]:
        """See [`Session.act`]; `request` has `who` and `event`."""
        return self.session(str(request["who"])).act(dict(request["event"]))

    def thumbnails(self, request: dict[str, Any]) -> dict[str, str]:
        """See [`Session.thumbnails`]; `request` has `who` and `names`."""
        return self.session(str(request["who"])).thumbnails(request["names"])

    def add_images(self, files: Iterable[str]) -> None:
        """Photographs of a person; raises as [`Project.add_images`]."""
        self.check_writes()
        self.project.add_images(files)

    # Training

    def train(self, max_steps: int) -> None:
        """Start a training; raises as [`TrainingJob.start`]."""
        self.check_writes()
        self.job.start(TrainingSettings(self.assistant.base_model, int(max_steps)))

    def resume(self) -> None:
        """Go on with one; raises as [`TrainingJob.resume`]."""
        self.check_writes()
        self.job.resume()

    def check_writes(self) -> None:
        """Raises SSPromptError where people may only look."""
        if self.read_only:
            raise SSPromptError("this page is for looking only: start the studio without --read_only")

    def progress_html(self) -> str:
        """How far the training is: a bar, the curve of the loss, words."""
        progress = self.job.progress
        words = {
            PREPARING: "Reading the labels and the model …",
            SCORING: "Scoring the images that were kept apart …",
            CANCELLED: f"Cancelled: {progress.message}. It can go on.",
            FAILED: progress.message,
        }.get(progress.state, "")
        if progress.state == "running":
            words = f"Step {progress.step} of {progress.max_steps}"
        elif progress.state == "done":
            words = f"Done after {progress.max_steps} steps. The adapter is in {self.project.folder.name}/{ADAPTER}"
        elif progress.state == "idle":
            labelled = len(self.project.labelled)
            words = f"{labelled} labelled photographs. " + (
                "A fifth of them is kept apart to score on."
                if labelled >= 5
                else "From five on, a fifth of them is kept apart to score on."
            )
        kind = "st-error" if progress.state == FAILED else ""
        share = 1.0 if progress.state in (SCORING, "done") else progress.share
        bar = f'<div class="st-bar"><i style="width:{100 * share:.1f}%"></i></div>'
        text = f'<p class="{kind}">{html.escape(words)}</p>'
        curve = curve_svg(progress.losses, progress.max_steps)
        return f'<div class="st-progress {progress.state}">{bar}{text}{curve}</div>'

    def scores_html(self) -> str:
        """IoU of each class on the images that were kept apart, without and with the adapter."""
        return scores_table(self.job.progress.metrics, self.project)

    @property
    def is_busy(self) -> bool:
        """Whether a training is running."""
        return self.job.progress.state in BUSY

    def compare(self, name: str) -> tuple[Image.Image, Image.Image]:
        """
        A photograph under the classes without and with the adapter.

        Raises:
            SSPromptError: there is no adapter, or no such photograph.
        """
        if self.assistant.adapter is None:
            raise SSPromptError("there is no adapter yet: train one first")
        image = self.project.read_image(name)
        image.thumbnail((1600, 1600))
        before, after = self.assistant.predict(image, zero_shot=True), self.assistant.predict(image)
        return before.overlay(), after.overlay()

    def push(self, repo_id: str, private: bool, token: str | None) -> str:
        """Upload the adapter; returns the address. Raises as `SSPromptModel.push_to_hub`, and without adapter."""
        self.check_writes()
        if self.assistant.adapter is None:
            raise SSPromptError("there is no adapter yet: train one first")
        if not repo_id.strip():
            raise SSPromptError("give the name of the repository, such as me/ssprompt-street")
        return self.assistant.model.push_to_hub(repo_id.strip(), private=private, token=token or None)

    # The server

    def build(self) -> "gradio.Blocks":
        """
        The page, to be launched or mounted by whoever has a server.

        Raises:
            SSPromptError: gradio is not installed.
        """
        return build(self)

    def launch(
        self,
        host: str = LOCAL_HOST,
        port: int | None = None,
        share: bool = False,
        password: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Serve the page. Only this machine can reach it, unless another `host` or `share` is asked for, which need a
        password. Of the folder nothing is served but what the page shows.

        Args:
            host: address to listen on.
            port: by default the first free one from 7860 on.
            share: make a public address of gradio.
            password: to be given, with any name; by default `SSPROMPT_STUDIO_PASSWORD` of the environment.
            kwargs: others of `gradio.Blocks.launch`.

        Raises:
            SSPromptError: the page would be open to others without a password, or gradio is not installed.
        """
        password = password or os.environ.get(PASSWORD) or None
        check_reach(host, share, password)
        self.page = self.build()
        return self.page.launch(
            theme=theme(),
            server_name=host,
            server_port=port,
            share=share,
            auth=None if password is None else _auth(password),
            auth_message="Any name, and the password of this studio.",
            allowed_paths=[],
            max_file_size="200mb",
            footer_links=[],
            **kwargs,
        )


def check_reach(host: str, share: bool, password: str | None) -> None:
    """
    Raises:
        SSPromptError: others could reach the page, and there is no password, here or in the environment.
    """
    password = password or os.environ.get(PASSWORD)
    if password or (is_loopback(host) and not share):
        return
    what = "--share" if share else f"--host {host}"
    raise SSPromptError(
        f"with {what} others can reach the page, who could label, train and read the photographs: give a password by "
        f"--password, or by {PASSWORD} in the environment"
    )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _auth(password: str) -> Callable[[str, str], bool]:
    return lambda name, given: hmac.compare_digest(given.encode(), password.encode())


def _base_of(adapter: str | os.PathLike) -> str | None:
    from ..adapters.files import fetch_adapter, read_adapter

    return read_adapter(fetch_adapter(adapter)).config.base_model_name_or_path


def curve_svg(losses: list[tuple[int, float]], max_steps: int, width: int = 560, height: int = 170) -> str:
    """The losses of a training as an SVG; empty before the second."""
    if len(losses) < 2:
        return ""
    top = max(loss for _, loss in losses) * 1.05 or 1.0
    left, bottom = 44, 24

    def place(step: float, loss: float) -> tuple[float, float]:
        x = left + (width - left - 8) * step / max(max_steps, losses[-1][0])
        return x, 8 + (height - bottom - 8) * (1 - loss / top)

    points = " ".join("{:.1f},{:.1f}".format(*place(*one)) for one in losses)
    lines = ""
    for share in (0.0, 0.5, 1.0):
        _, y = place(0, top * share)
        lines += f'<line x1="{left}" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
        lines += f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{top * share:.2g}</text>'
    for share in (0.0, 0.5, 1.0):
        x, _ = place(max_steps * share, 0)
        lines += f'<text x="{x:.1f}" y="{height - 6}" text-anchor="middle">{round(max_steps * share)}</text>'
    x, y = place(*losses[-1])
    return (
        f'<svg class="st-curve" viewBox="0 0 {width} {height}" role="img" aria-label="Loss by step">{lines}'
        f'<polyline points="{points}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/></svg>'
    )


def scores_table(metrics: dict[str, Any], project: Project) -> str:
    """`metrics.json` of a training as a table; a sentence where nothing was scored."""
    scores = metrics.get("scores") or {}
    if "adapted" not in scores:
        words = (
            "Nothing was scored: label five photographs or more, and a fifth of them is kept apart."
            if metrics
            else "After a training the IoU of every class stands here."
        )
        return f'<p class="st-hint">{words}</p>'
    before, after = scores["zero_shot"], scores["adapted"]
    colors = {info.name: hex_color(info.color) for info in project.classes}

    def row(name: str, old: float | None, new: float | None, kind: str = "") -> str:
        gain = "" if old is None or new is None else f"{new - old:+.1f}"
        sign = "up" if gain.startswith("+") else "down"
        swatch = f'<i style="background:{colors[name]}"></i>' if name in colors else ""
        cells = "".join(f"<td>{'-' if one is None else f'{one:.1f}'}</td>" for one in (old, new))
        return f'<tr class="{kind}"><th>{swatch}{html.escape(name)}</th>{cells}<td class="{sign}">{gain}</td></tr>'

    rows = "".join(
        row(name, before["per_class_iou"].get(name), value) for name, value in after["per_class_iou"].items()
    )
    rows += row("mean", before["mean_iou"], after["mean_iou"], "st-mean")
    count = metrics.get("evaluation_images", 0)
    return (
        '<table class="st-scores"><thead><tr><th>IoU, %</th><td>before</td><td>after</td><td>gain</td></tr></thead>'
        f"<tbody>{rows}</tbody></table><p class='st-hint'>On {count} photographs that were kept apart.</p>"
    )
