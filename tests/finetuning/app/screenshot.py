"""A screenshot of the app for the documentation, taken in a headless Chromium.

From the root of the repository, after `make demo` (its Mona adapters tell the digits 5 to 9 apart):

    python -m tests.finetuning.app.screenshot DIGIT docs/assets/app.png REPO [REPO ...]

`DIGIT` is one of scikit-learn's digits by its number, or the path of a picture.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from mona_peft.finetuning.app.models import AppModels, name_models
from mona_peft.finetuning.app.page import serve
from tests.support.browser import Visitor


def write_digit(number: int, path: Path) -> Path:
    pixels = (load_digits().images[number] * 255 / 16).astype(np.uint8)
    Image.fromarray(pixels).resize((240, 240), Image.Resampling.NEAREST).save(path)
    return path


def main(which: str, output: str, *repositories: str) -> None:
    models = AppModels(name_models(list(repositories)))
    visitor = Visitor(serve(models, wait=False), 1100, 1500)
    with tempfile.TemporaryDirectory() as folder:
        picture = write_digit(int(which), Path(folder) / "digit.png") if which.isdigit() else Path(which)
        visitor.upload(picture)
        visitor.await_message(picture.name)
        visitor.wait(visitor.captions)
        visitor.wait(lambda: all(image.size[0] > 1 for image in map(visitor.picture, ("on", "off"))))
        visitor.driver.save_screenshot(output)
    visitor.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
