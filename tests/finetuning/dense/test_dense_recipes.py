"""Every dense recipe is valid, says how to run it, and holds the paper's settings."""

import pytest
import yaml

from mona_peft.finetuning import recipes
from mona_peft.finetuning.commands.train import arguments
from mona_peft.finetuning.models.architectures import ARCHITECTURES
from mona_peft.finetuning.models.cascade_mask_rcnn import CascadeMaskRCNNConfig
from mona_peft.finetuning.models.retinanet import RetinaNetConfig
from mona_peft.finetuning.settings import parse_arguments

WORDS = {
    "ade20k": "segmentation",
    "voc0712": "detection",
    "coco": "instances",
}
RECIPES = [
    path for path in map(recipes.path, recipes.names()) if yaml.safe_load(path.read_text()).get("dataset") in WORDS
]
IMAGES = {"ade20k": 20210, "voc0712": 16551, "coco": 118287}
GLOBAL_BATCH = {"ade20k": 16, "voc0712": 8, "coco": 16}


def test_the_papers_three_systems_have_a_recipe():
    systems = {"swin-large-upernet-ade20k", "swin-large-retinanet-voc0712", "swin-base-cascade-coco"}
    assert {path.stem for path in RECIPES} >= systems


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_valid(path):
    dataset = yaml.safe_load(path.read_text())["dataset"]
    word = WORDS[dataset]
    data, config, training, _ = parse_arguments(arguments(word), [str(path), "--output_dir", "x"])
    head = path.read_text().split("\n\n")[0]
    assert f" {path.stem} " in head and f"-m mona_peft train {word} " in head and "Expected" in head
    processes = 8 if "--num_processes 8" in head else 1
    assert training.batch_size * training.gradient_accumulation_steps * processes == GLOBAL_BATCH[dataset]
    assert config.method == "mona" and config.method_options == {"bottleneck_dim": 64}
    assert config.architecture in ARCHITECTURES and data.dataset in path.stem
    assert training.max_grad_norm is None and config.horizontal_flip == 0.5
    check = {"ade20k": check_ade20k, "voc0712": check_voc0712, "coco": check_coco}[dataset]
    check(config, training)


def check_ade20k(config, training):
    assert training.learning_rate == pytest.approx(6e-5 * 5) and training.weight_decay == 0.01
    assert (training.max_steps, training.warmup_steps, training.schedule) == (160_000, 1500, "linear")
    assert training.min_lr_ratio == 0 and training.mixed_precision == "no"
    assert training.num_epochs * (IMAGES["ade20k"] // GLOBAL_BATCH["ade20k"]) >= training.max_steps
    assert (config.short_side, config.long_side, config.crop_side, config.scale) == (512, 2048, 512, [0.5, 2.0])
    assert config.photometric and config.drop_path in (0.2, None)


def check_voc0712(config, training):
    assert training.learning_rate == 1e-4 and training.weight_decay == 0.05 and training.mixed_precision == "fp16"
    assert (training.num_epochs, training.schedule, training.step_epochs) == (12, "step", [9])
    assert (config.short_side, config.long_side, config.drop_path, config.protocol) == (600, 1000, 0.2, "voc")
    assert config.out_indices == [2, 3, 4]
    options = RetinaNetConfig(**config.architecture_options)
    assert (options.fpn_channels, options.anchor_scale, options.anchor_octaves) == (256, 4, 3)
    assert options.norm_groups == 0


def check_coco(config, training):
    assert training.learning_rate == 1e-4 and training.weight_decay == 0.05 and training.mixed_precision == "fp16"
    assert (training.num_epochs, training.schedule, training.step_epochs) == (36, "step", [27, 33])
    assert (config.short_side, config.long_side, config.drop_path) == (800, 1333, 0.3)
    assert (config.train_short_sides[0], config.train_short_sides[-1], config.crop) == (480, 800, [384, 600])
    if config.architecture == "cascade_mask_rcnn":
        settings = CascadeMaskRCNNConfig(**config.architecture_options).cascade_settings()
        assert settings.channels == 256 and settings.ious == (0.5, 0.6, 0.7)
        assert settings.loss_weights == (1.0, 0.5, 0.25) and settings.box_loss_weight == 10
