"""Data as people bring it, trained on by the command: one layout a task."""

import json

import pytest

from mona_peft.finetuning.commands.main import main
from mona_peft.finetuning.data.embedded.scene_objects import scene_objects
from mona_peft.finetuning.data.embedded.scenes import SceneSettings
from mona_peft.finetuning.data.sources.ade20k import scene_segmentation
from tests.finetuning.tasks.tiny_dense import ARCHITECTURE_OPTIONS, write_swin, write_vit
from tests.support.layouts import write_coloured, write_yolo
from tests.support.photos import write_photos

SIZES = {"train": 4, "validation": 2, "test": 2}
SCENES = SceneSettings(size=48)


def write_list(folder):
    """Twelve photos and a JSON-lines file of their colours, two a photo."""
    write_photos(folder / "photos", each=4)
    files = sorted((folder / "photos").glob("*/*.jpg"))
    rows = [
        {
            "path": str(file.relative_to(folder)),
            "labels": [file.parent.name, "noise"],
            "split": "test" if n % 4 == 0 else "train",
        }
        for n, file in enumerate(files)
    ]
    (folder / "photos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "photos.jsonl"


def write_outlines(folder):
    return write_yolo(scene_objects(SIZES, SCENES), folder, outlines=True)


RUNS = {
    "classification": (write_list, write_vit, "", "map", "9 train, 3 test images, 4 classes"),
    "segmentation": (
        lambda folder: write_coloured(scene_segmentation(SIZES, SCENES), folder),
        write_swin,
        "segformer",
        "mean_iou",
        "images and masks with the legend class_dict.csv: 4 train, 2 validation, 2 test images",
    ),
    "detection": (
        lambda folder: write_yolo(scene_objects(SIZES, SCENES), folder),
        write_vit,
        "conditional_detr",
        "box_ap",
        "YOLO: 4 train, 2 validation, 2 test images",
    ),
    "instances": (write_outlines, write_swin, "mask2former", "mask_ap", "YOLO: 4 train, 2 validation, 2 test images"),
}


@pytest.mark.parametrize("word", RUNS)
def test_a_layout_is_trained_on_and_tested(tmp_path, capfd, word):
    write_data, write_model, architecture, metric, said = RUNS[word]
    data = write_data(tmp_path / "data")
    write_model(tmp_path / "base")
    flags = ["--dataset", str(data), "--model", str(tmp_path / "base"), "--output_dir", str(tmp_path / "run")]
    if architecture:
        options = json.dumps(ARCHITECTURE_OPTIONS[architecture])
        flags += ["--architecture", architecture, "--architecture_options", options]
    flags += ["--image_size", "32", "--max_steps", "2", "--batch_size", "2", "--cpu", "--report_to", "none"]
    assert main(["train", word, *flags]) == 0, capfd.readouterr().err
    assert said in capfd.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metric in metrics["test"], metrics


def test_boxes_alone_do_not_train_masks(tmp_path, capfd):
    data = write_yolo(scene_objects(SIZES, SCENES), tmp_path / "data")
    write_swin(tmp_path / "base")
    flags = ["--dataset", str(data), "--model", str(tmp_path / "base"), "--cpu", "--output_dir", str(tmp_path / "run")]
    assert main(["train", "instances", *flags]) == 1
    *_, error = capfd.readouterr().err.splitlines()
    assert error.startswith("Error: Annotation ") and ".png (train) has no segmentation" in error
