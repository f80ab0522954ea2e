"""Pictures of the dense demo: test scenes with the truth and with what each saved model finds."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mona_peft.finetuning.data.embedded.scenes import CLASS_NAMES, Scene, SceneSettings, compose_scene
from mona_peft.finetuning.inference.dense import LoadedDense
from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.pictures.drawing import draw_label_map, draw_objects, draw_sheet, enlarge

PICTURES = 6
THRESHOLD = 0.3


def draw_predictions(repositories: dict[str, Path], task_name: str, settings: SceneSettings, path: Path) -> None:
    """Write a sheet with a row for each of a few test scenes: the scene, the truth, every model's prediction.

    Args:
        repositories (`dict[str, Path]`): Saved models by method; they are loaded as a user would load them.
        task_name (`str`): Of the demo.
        settings (`SceneSettings`): What scenes look like.
        path (`Path`): Of the PNG.
    """
    scenes = [compose_scene("test", number, settings) for number in range(PICTURES)]
    images = [Image.fromarray(scene.image) for scene in scenes]
    columns = [[enlarge(image)[0] for image in images], [draw_truth(scene, task_name) for scene in scenes]]
    for repository in repositories.values():
        loaded = load(repository)
        assert isinstance(loaded, LoadedDense)
        columns.append([loaded.draw(image, THRESHOLD) for image in images])
    draw_sheet(list(zip(*columns, strict=True)), ["scene", "truth", *repositories], path)


def draw_truth(scene: Scene, task_name: str) -> Image.Image:
    """The scene with its annotations, as the task sees them."""
    image = Image.fromarray(scene.image)
    if task_name == "semantic_segmentation":
        return draw_label_map(image, scene.semantic)
    objects = {"boxes": scene.boxes, "labels": scene.labels}
    if task_name == "instance_segmentation":
        objects["masks"] = scene.masks
    return draw_objects(image, objects, CLASS_NAMES)
