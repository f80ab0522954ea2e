"""How the help texts are laid out: which group a setting is in, and which of the long lists `--help` shows."""

from __future__ import annotations

from mona_peft.finetuning.arguments import first_line
from mona_peft.finetuning.costs.config import CostsConfig
from mona_peft.finetuning.data.sources.config import SourceConfig
from mona_peft.finetuning.study.tuning_config import TuneConfig
from mona_peft.finetuning.tasks.config import ModelConfig
from mona_peft.finetuning.training.config import TrainingConfig

#: By title: the settings that are not in the group of their dataclass.
GROUPS = {
    "model": {"model", "architecture", "architecture_options", "out_indices", "drop_path", "image_size"},
    "method": {"method", "method_options"},
    "recipe": {
        *("learning_rate", "num_epochs", "max_steps", "batch_size", "gradient_accumulation_steps", "weight_decay"),
        *("adam_beta1", "adam_beta2", "schedule", "warmup_epochs", "warmup_steps", "min_lr_ratio", "step_epochs"),
        *("max_grad_norm", "ema_decay", "seed"),
    },
    "output": {
        *("output_dir", "overwrite_output_dir", "resume", "report_to", "progress_bar", "logging_steps"),
        *("checkpoint_steps", "save_total_limit", "no_checkpoints", "push_to_hub", "hub_model_id", "hub_private_repo"),
    },
}
#: Dataclasses with many settings, and the title of their group.
LONG = {
    SourceConfig: "data",
    ModelConfig: "recipe",
    TrainingConfig: "loop",
    TuneConfig: "recipe",
    CostsConfig: "what to measure",
}
#: Of their settings, those that `--help` shows.
COMMON = {
    *("dataset", "data_dir", "class_names", "validation_fraction", "skip_bad_images"),
    *("model", "architecture", "image_size", "method", "method_options"),
    *("learning_rate", "num_epochs", "batch_size", "seed", "tune", "mixed_precision", "num_workers", "cpu"),
    *("output_dir", "resume", "overwrite_output_dir", "push_to_hub", "hub_model_id"),
    *("task", "methods", "dtype", "device", "threads", "repeats"),
}
#: And those that it shows of a study.
COMMON_IN_STUDIES = {"dataset", "model", "architecture", "num_epochs", "batch_size", "cpu"}
#: The order of the groups.
TITLES = ("data", "model", "method", "recipe", "loop", "output")


def group_of(config_type: type, name: str) -> str:
    """Title of the group of a setting."""
    if issubclass(config_type, ModelConfig | TrainingConfig):
        found = next((title for title, names in GROUPS.items() if name in names), None)
        if found is not None:
            return found
    return _long(config_type) or first_line(config_type)


def is_common(config_type: type, name: str) -> bool:
    """Whether `--help` shows a setting."""
    return name in COMMON or _long(config_type) is None


def is_common_in_studies(config_type: type, name: str) -> bool:
    """Whether `--help` shows a setting of a study, which chooses methods, rates, seeds and folders itself."""
    return is_common(config_type, name) and (_long(config_type) is None or name in COMMON_IN_STUDIES)


def _long(config_type: type) -> str | None:
    return next((title for long, title in LONG.items() if issubclass(config_type, long)), None)
