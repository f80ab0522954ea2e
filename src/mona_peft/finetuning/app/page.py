"""The page: a picture, the choice of a model, and what it finds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mona_peft.finetuning.data.images import UnreadableImage, open_image
from mona_peft.finetuning.markdown import escape

from .models import AppModels, Finding

if TYPE_CHECKING:
    import gradio

LOCALHOST = "127.0.0.1"
HEIGHT = 260  # of the pictures, on the screen
BUTTONS: list[Any] = ["download", "fullscreen"]  # and none that uploads to another machine
#: Captions stand below their maps, in as many lines as they need; Gradio cuts them off after one, over the picture.
STYLE = """<style>
#maps .thumbnail-lg { display: flex; flex-direction: column; height: auto; aspect-ratio: auto; }
#maps .thumbnail-lg > img { height: auto; }
#maps .caption-label { position: static; max-width: 100%; border: 0; white-space: normal; overflow-wrap: anywhere; }
</style>"""
ABOUT = """Each map shows what the adapters of one block change of the residual stream. At each position it is the
norm, over the channels, of the block's result minus its result without its adapters on the same input. Colours go from
dark (no change) to yellow (the largest change of this block), over the picture as the model got it. The caption tells
the mean change as a share of the mean norm of the stream, and the largest norm. **Adapter off** keeps the trained
head."""


def build_page(models: AppModels) -> gradio.Blocks:
    """The page as Gradio's `Blocks`; nothing of it speaks to another machine."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio

    with gradio.Blocks(title="mona-peft", analytics_enabled=False) as page:
        gradio.Markdown("# Adapters on a picture")
        with gradio.Row():
            picture = gradio.File(label="Picture", elem_id="picture", height=140)
            names = list(models.origins)
            model = gradio.Radio(names, value=names[0], label="Adapter", elem_id="adapter")
        message = gradio.Markdown(elem_id="message")
        columns = []
        with gradio.Row():
            for title, place in (("With the adapter", "on"), ("Adapter off", "off")):
                with gradio.Column():
                    drawn = gradio.Image(
                        label=title,
                        format="png",
                        interactive=False,
                        height=HEIGHT,
                        buttons=BUTTONS,
                        elem_id=f"picture-{place}",
                    )
                    columns += [drawn, gradio.Label(label=title, elem_id=f"labels-{place}", visible=False)]
        maps = gradio.Gallery(
            label="Contribution of each block", columns=4, format="png", buttons=BUTTONS, elem_id="maps"
        )
        gradio.Markdown(ABOUT)
        gradio.HTML(STYLE, padding=False)
        outputs = [message, *columns, maps]
        for event in (picture.change, model.change):
            event(lambda path, name: show(models, path, name), [picture, model], outputs, show_progress="hidden")
    return page


def show(models: AppModels, path: str | None, name: str) -> list[object]:
    """What the page's message, pictures, labels and maps become for a file, whatever it holds."""
    if not path:
        return ["", *_column(None, None), *_column(None, None), []]
    try:
        image = open_image(Path(path))
        look = models.look(name, image)
    except UnreadableImage:
        return [_warn(f"{Path(path).name} cannot be read as a picture; give another file."), *_empty()]
    except (ValueError, OSError) as error:  # a repository that cannot be loaded says why
        return [_warn(str(error)), *_empty()]
    said = f"{escape(Path(path).name)}, {escape(name)}"
    return [said, *_column(look.adapted, image), *_column(look.bare, image), look.maps]


def _warn(text: str) -> str:
    return f"**{escape(text)}**"


def _empty() -> list[object]:
    return [*_column(None, None), *_column(None, None), []]


def _column(found: Finding | None, image: Image.Image | None) -> list[object]:
    """A picture, and bars where there are scores."""
    import gradio

    scores = found.scores if found else None
    drawn = found.drawn if found and found.drawn is not None else image
    return [drawn, gradio.update(value=scores, visible=scores is not None)]


def serve(models: AppModels, port: int | None = None, wait: bool = True) -> str:
    """Serve the page to this machine alone.

    Args:
        models (`AppModels`): What it shows.
        port (`int`, *optional*): A free one from 7860 on if left out.
        wait (`bool`): Whether to stay until interrupted.

    Returns:
        `str`: Its address.
    """
    page = build_page(models)
    _, address, _ = page.launch(
        server_name=LOCALHOST, server_port=port, share=False, inbrowser=False, quiet=True, prevent_thread_lock=True
    )
    print(f"The app is at {address} (Ctrl+C ends it).", flush=True)
    if wait:
        page.block_thread()
    return address
