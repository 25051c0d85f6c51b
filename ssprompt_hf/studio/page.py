"""The page itself, in Gradio: three tabs around what `SSPromptStudio` does."""

import html
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from ..errors import SSPromptError
from ..training.arguments import MAX_STEPS
from .exports import adapter_zip, coco_zip, plain_zip

if TYPE_CHECKING:
    import gradio

    from .app import SSPromptStudio
    from .space import SSPromptSpace

STATIC = Path(__file__).parent / "static"
LOOK_AGAIN = "() => { window.ssprompt_studio && window.ssprompt_studio.look(); }"


def import_gradio() -> Any:
    """
    Raises:
        SSPromptError: it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise SSPromptError("the studio needs gradio: pip install 'ssprompt-hf[studio]'") from error
    return gradio


def workspace(studio: "SSPromptStudio | SSPromptSpace") -> "gradio.HTML":
    """The part of the page where photographs are labelled."""
    gr = import_gradio()
    style, body = (STATIC.joinpath(name).read_text(encoding="utf-8") for name in ("workspace.css", "workspace.html"))

    def act(request):
        return studio.act(request)

    def thumbnails(request):
        return studio.thumbnails(request)

    return gr.HTML(
        value="",
        html_template=f"<style>{style}</style>{body}",
        js_on_load=STATIC.joinpath("workspace.js").read_text(encoding="utf-8"),
        server_functions=[act, thumbnails],
        apply_default_css=False,
        elem_id="workspace",
    )


def told(function: Callable) -> Callable:
    """`function`, whose errors are shown on the page."""
    gr = import_gradio()

    def call(*args):
        try:
            return function(*args)
        except SSPromptError as error:
            raise gr.Error(str(error), duration=12) from None

    return call


def head(*words: str) -> str:
    """HTML of the top of a page, with its style."""
    style = STATIC.joinpath("page.css").read_text(encoding="utf-8")
    marks = "".join(f"<span>{html.escape(word)}</span>" for word in words)
    return f"<style>{style}</style><div class='st-brand'><b>SSPrompt</b> Studio{marks}</div>"


def theme() -> Any:
    """Of all pages."""
    return import_gradio().themes.Default(primary_hue="indigo", neutral_hue="slate")


def build(studio: "SSPromptStudio") -> "gradio.Blocks":
    """See [`SSPromptStudio.build`]."""
    gr = import_gradio()

    def state():
        """Of the train tab; the timer runs while a training does."""
        busy = studio.is_busy
        can_resume = studio.job.progress.can_resume and not busy
        return (
            studio.progress_html(),
            gr.Button(interactive=not busy),
            gr.Button(visible=busy),
            gr.Button(visible=can_resume),
            gr.Timer(active=busy),
            studio.scores_html(),
            gr.Dropdown(choices=studio.job.held_out()),
        )

    def tick():
        """`state` when the training has ended; before, only how far it is."""
        return (studio.progress_html(), *[gr.skip()] * 6) if studio.is_busy else state()

    with gr.Blocks(title="SSPrompt Studio", analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_classes="st-head"):
            gr.HTML(head(studio.project.folder.name, studio.assistant.base_model))
            add = gr.UploadButton(
                "Add photographs",
                file_count="multiple",
                file_types=["image"],
                size="sm",
                scale=0,
                min_width=150,
                visible=not studio.read_only,
                elem_id="add_photographs",
            )
        with gr.Tab("Label"):
            workspace(studio)
        with gr.Tab("Train and compare", visible=not studio.read_only) as train_tab, gr.Row():
            with gr.Column(scale=4, min_width=340):
                steps = gr.Slider(5, 1000, value=MAX_STEPS, step=5, label="Steps", elem_id="steps")
                with gr.Row():
                    start = gr.Button("Train", variant="primary", elem_id="train")
                    cancel = gr.Button("Cancel", visible=False, elem_id="cancel")
                    resume = gr.Button("Resume", visible=False, elem_id="resume")
                progress = gr.HTML(elem_id="progress")
                scores = gr.HTML(elem_id="scores", apply_default_css=False)
            with gr.Column(scale=6, min_width=420):
                image = gr.Dropdown([], label="Photograph that was not learned from", elem_id="compared")
                slider = gr.ImageSlider(
                    label="Before and after", type="pil", interactive=False, elem_id="slider", max_height=620
                )
        with gr.Tab("Take away"):
            with gr.Row():
                for title, words, make, name in (
                    ("Labels, plain folder", "Images, label PNGs, objects and classes.json.", plain_zip, "plain"),
                    ("Labels, COCO", "Images and one JSON file of masks.", coco_zip, "coco"),
                    ("Adapter", "A small file, for PEFT and the Hub.", adapter_zip, "adapter"),
                ):
                    with gr.Column(min_width=220, elem_classes="st-card"):
                        gr.Markdown(f"### {title}\n{words}")
                        made = gr.Button("Prepare", size="sm", elem_id=f"prepare_{name}")
                        file = gr.DownloadButton("Download", size="sm", visible=False, elem_id=f"download_{name}")
                        made.click(
                            told(
                                lambda make=make: gr.DownloadButton(
                                    value=str(make(studio.project, mkdtemp(dir=studio.downloads.name))), visible=True
                                )
                            ),
                            outputs=file,
                        )
            with gr.Column(elem_classes="st-card", visible=not studio.read_only):
                gr.Markdown("### Share the adapter on the Hub\nWithout a token the one of `hf auth login` is used.")
                with gr.Row():
                    repository = gr.Textbox(label="Repository", placeholder="me/ssprompt-street")
                    token = gr.Textbox(label="Token", type="password")
                    private = gr.Checkbox(True, label="private")
                push = gr.Button("Push", size="sm", scale=0, min_width=120)
                address = gr.Markdown()
                push.click(told(studio.push), [repository, private, token], address)
        timer = gr.Timer(1.0, active=False)
        shown = [progress, start, cancel, resume, timer, scores, image]
        add.upload(told(studio.add_images), add, add).then(None, js=LOOK_AGAIN)
        start.click(told(studio.train), steps).success(state, outputs=shown)
        cancel.click(studio.job.cancel).then(state, outputs=shown)
        resume.click(told(studio.resume)).success(state, outputs=shown)
        timer.tick(tick, outputs=shown, show_progress="hidden")
        page.load(state, outputs=shown)
        train_tab.select(state, outputs=shown)
        image.change(told(lambda name: studio.compare(name) if name else None), image, slider)
    return page
