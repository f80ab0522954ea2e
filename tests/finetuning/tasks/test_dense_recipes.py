"""Every dense recipe holds the official settings, for Mona and for every other method, and says how to run."""

import math

import pytest
import yaml

from mona_peft.finetuning import recipes
from mona_peft.finetuning.command_line import parse_arguments
from mona_peft.finetuning.commands.train import TASK_WORDS, arguments
from mona_peft.finetuning.models.architectures import ARCHITECTURES
from mona_peft.finetuning.models.cascade_mask_rcnn import CascadeMaskRCNNConfig
from mona_peft.finetuning.models.retinanet import RetinaNetConfig
from mona_peft.finetuning.study.variants import PAPER_METHODS
from tests.finetuning.test_recipes import OPTIONS, commands

WORDS = {"ade20k": "segmentation", "voc0712": "detection", "coco": "instances"}
RECIPES = {
    name: dataset
    for name in recipes.names()
    if (dataset := yaml.safe_load(recipes.path(name).read_text()).get("dataset")) in WORDS
}
IMAGES = {"ade20k": 20210, "voc0712": 16551, "coco": 118287}
GLOBAL_BATCH = {"ade20k": 16, "voc0712": 2, "coco": 16}


def read(name, *flags):
    return parse_arguments(arguments(WORDS[RECIPES[name]]), [name, *flags])[:3]


def test_the_papers_systems_and_sizes_have_a_recipe():
    systems = {"swin-large-upernet-ade20k", "swin-base-cascade-coco"}
    assert RECIPES.keys() >= systems | {f"swin-{size}-retinanet-voc0712" for size in ("tiny", "base", "large")}


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_has_the_official_settings(name):
    dataset, vit = RECIPES[name], "vit" in name
    for method in PAPER_METHODS:
        _, config, training = read(name, "--method", method)
        own = method == "mona"
        rate = {"ade20k": (6e-5, 3e-4)[own]}.get(dataset, 1e-4)
        drop_path = {"ade20k": (0.3, 0.2)[own], "voc0712": 0.2, "coco": 0.3}[dataset]
        assert training.learning_rate == pytest.approx(rate)
        assert config.drop_path == (None if vit else drop_path)
        assert config.method_options == OPTIONS.get(method, {})
    assert training.max_grad_norm is None and training.weight_decay_on == "all_but_layer_norms"
    assert config.horizontal_flip == 0.5 and config.architecture in ARCHITECTURES
    {"ade20k": check_ade20k, "voc0712": check_voc0712, "coco": check_coco}[dataset](config, training)


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_of_the_head_take_the_official_batch(name):
    trained = [words for words in commands(name) if "train" in words]
    assert len(trained) == 2 and "Expected" in recipes.head(name)
    for words in trained:
        processes = int(words[words.index("--num_processes") + 1]) if "--num_processes" in words else 1
        place = words.index("train")
        assert words[place + 1] == WORDS[RECIPES[name]] in TASK_WORDS
        _, config, training = parse_arguments(arguments(words[place + 1]), words[place + 2 :])[:3]
        batch = processes * training.batch_size * training.gradient_accumulation_steps
        assert batch == GLOBAL_BATCH[RECIPES[name]]
        if config.architecture_options.get("head_norm") == "sync":
            assert processes > 1, "one process has nothing to synchronise with"


def check_ade20k(config, training):
    assert training.weight_decay == 0.01 and training.mixed_precision == "no"
    assert (training.max_steps, training.warmup_steps, training.schedule) == (160_000, 1500, "linear")
    assert (training.warmup_ratio, training.decay_from_start, training.min_lr_ratio) == (1e-6, True, 0)
    assert training.num_epochs * (IMAGES["ade20k"] // GLOBAL_BATCH["ade20k"]) >= training.max_steps
    assert (config.short_side, config.long_side, config.crop_side, config.scale) == (512, 2048, 512, [0.5, 2.0])
    assert config.photometric
    if config.architecture == "upernet":
        assert config.architecture_options["head_norm"] == "sync"


def check_voc0712(config, training):
    assert training.weight_decay == 0.05 and training.mixed_precision == "fp16"
    assert (training.num_epochs, training.schedule, training.step_epochs) == (12, "step", [9])
    assert (training.warmup_steps, training.warmup_epochs) == (0, 0)
    steps = training.num_epochs * math.ceil(IMAGES["voc0712"] / GLOBAL_BATCH["voc0712"])
    assert steps == pytest.approx(4 * 24_827, abs=4), "the authors' logs: 4 times 24,827 steps"
    assert (config.short_side, config.long_side, config.protocol) == (600, 1000, "voc07")
    assert config.metric == "ap50_11point" and config.freeze_patch_embedding and config.out_indices == [2, 3, 4]
    options = RetinaNetConfig(**config.architecture_options)
    assert (options.fpn_channels, options.anchor_scale, options.anchor_octaves) == (256, 4, 3)
    assert options.norm_groups == 0


def check_coco(config, training):
    assert training.weight_decay == 0.05 and training.mixed_precision == "fp16"
    assert (training.num_epochs, training.schedule, training.step_epochs) == (36, "step", [27, 33])
    assert (training.warmup_steps, training.warmup_ratio) == (500, 0.001)
    assert (config.short_side, config.long_side) == (800, 1333) and config.skip_empty_images
    assert (config.train_short_sides[0], config.train_short_sides[-1], config.crop) == (480, 800, [384, 600])
    assert config.crop_short_sides == [400, 500, 600] and config.crop_share == 0.5
    if config.architecture == "cascade_mask_rcnn":
        assert config.architecture_options["training_proposals"] == 2000
        settings = CascadeMaskRCNNConfig(**config.architecture_options).cascade_settings()
        assert settings.channels == 256 and settings.ious == (0.5, 0.6, 0.7) and settings.head_norm == "sync"
        assert settings.loss_weights == (1.0, 0.5, 0.25) and settings.box_loss_weight == 10
