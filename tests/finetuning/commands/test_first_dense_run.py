"""From a folder of annotated images to a trained model and to drawn predictions, by the command alone."""

import json
import re

import pytest
from PIL import Image

from mona_peft.finetuning.commands.main import main
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.data.sources.ade20k import scene_segmentation
from tests.finetuning.tasks.tiny_dense import ARCHITECTURE_OPTIONS, write_swin, write_vit
from tests.support.datasets import write_ade, write_coco

SCENES = SceneSettings(size=48)


def write_rooms(folder):
    data = scene_segmentation({"train": 5}, SCENES)
    write_ade(data, folder)
    return ["--class_names", *data.class_names, "--reduce_zero_label"]


def write_cells(folder):
    write_coco(scene_objects({"train": 5}, SCENES), folder)
    return []


@pytest.mark.parametrize(
    ("word", "architecture", "write_data", "write_model", "metric"),
    [
        ("segmentation", "upernet", write_rooms, write_swin, "mean_iou"),
        ("detection", "conditional_detr", write_cells, write_vit, "box_ap"),
    ],
)
def test_folder_to_model_to_predictions(
    tmp_path, monkeypatch, capfd, word, architecture, write_data, write_model, metric
):
    monkeypatch.chdir(tmp_path)
    flags = write_data(tmp_path / "data")
    write_model(tmp_path / "base")
    options = json.dumps(ARCHITECTURE_OPTIONS[architecture])
    flags += [
        "--dataset",
        "data",
        "--model",
        "base",
        "--architecture",
        architecture,
        "--architecture_options",
        options,
    ]
    flags += ["--image_size", "48", "--max_steps", "2", "--batch_size", "2", "--cpu", "--report_to", "none"]
    assert main(["train", word, *flags]) == 0, capfd.readouterr().err
    said = capfd.readouterr().out
    assert "1 of the 5 training images are held out" in said
    assert "the usual for mona: --learning_rate 0.0003\n" in said
    (line,) = [line for line in said.splitlines() if line.startswith("epoch ")]
    assert f" {metric} " in line and "nan" not in line.partition(metric)[0]
    assert "mona-peft predict --model outputs/data-mona/model --images" in said
    processor = json.loads((tmp_path / "outputs" / "data-mona" / "model" / "preprocessor_config.json").read_text())
    assert 48 in processor["size"].values()
    images = next((tmp_path / "data").glob("images/training" if word == "segmentation" else "train"))
    words = ["--model", "outputs/data-mona/model", "--images", str(images), "--draw_dir", "drawn", "--cpu"]
    assert main(["predict", *words]) == 0, capfd.readouterr().err
    assert len([path for path in (tmp_path / "drawn").glob("*.png") if "label" not in path.stem]) >= 5
    # the example of the card, as it stands
    model = tmp_path / "outputs" / "data-mona" / "model"
    (example,) = re.findall(r"```python\n(.*?)```", (model / "README.md").read_text(), flags=re.DOTALL)
    Image.new("RGB", (600, 400), "red").save("image.jpg")
    exec(example, {})
    with Image.open("found.png") as found:
        assert min(found.size) >= 400
