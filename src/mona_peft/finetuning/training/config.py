"""Settings of the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from mona_peft.finetuning.settings import Settings, option

SCHEDULES = ("cosine", "linear", "step", "constant")
PRECISIONS = ("no", "fp16", "bf16")
DECAYED_SETS = ("weights", "all_but_layer_norms")


@dataclass
class TrainingConfig(Settings):
    """Settings of the training loop, the same for every task."""

    output_dir: str | None = option(None, "Folder of the run: checkpoints, metrics and the trained weights.")
    overwrite_output_dir: bool = option(False, "Delete what a run wrote, and start over.")
    resume: bool = option(False, "Go on from the newest whole checkpoint.")
    num_epochs: int = option(100, "Passes over the training data.", least=1)
    max_steps: int | None = option(None, "Train this many optimiser steps, whatever num_epochs says.", least=1)
    batch_size: int = option(
        16, "Training samples a process and forward pass; 16 in the paper's classification runs.", least=1
    )
    eval_batch_size: int | None = option(
        None, "Samples a process and forward pass in evaluation; batch_size if unset.", least=1
    )
    auto_batch_size: bool = option(False, "Halve batch_size (and double accumulation) until it fits in memory.")
    gradient_accumulation_steps: int = option(1, "Forward passes summed up in one optimiser step.", least=1)
    learning_rate: float = option(5e-4, "Learning rate after warm-up.", above=0)
    weight_decay: float = option(
        0.05, "AdamW weight decay; 0.05 in most recipes; never on layer norms or position tables.", least=0
    )
    weight_decay_on: str = option(
        "weights",
        "weights: matrices and kernels alone; all_but_layer_norms: biases, scales and batch norms too, as in the "
        "paper's dense recipes.",
        choices=DECAYED_SETS,
    )
    adam_beta1: float = option(0.9, "AdamW's first decay rate.", least=0, below=1)
    adam_beta2: float = option(0.999, "AdamW's second decay rate.", least=0, below=1)
    schedule: str = option("cosine", f"Learning rate after warm-up: one of {', '.join(SCHEDULES)}.", choices=SCHEDULES)
    warmup_epochs: float = option(
        0.0, "Epochs of linear warm-up (added to warmup_steps); 20 of 100 in the paper.", least=0
    )
    warmup_steps: int = option(0, "Optimiser steps of linear warm-up; 500 to 1500 for dense tasks.", least=0)
    warmup_ratio: float | None = option(
        None, "Share of the rate that warm-up starts at; 0.001 in mmcv, one step's share if unset.", least=0, most=1
    )
    decay_from_start: bool = option(
        False,
        "Let cosine and linear decay begin at the first step, times the warm-up, as mmcv and the paper's recipes do; "
        "otherwise they begin after it.",
    )
    min_lr_ratio: float = option(
        0.01, "Where cosine and linear schedules end, as a share of learning_rate.", least=0, most=1
    )
    step_epochs: list[int] = option([], "Epochs at which the step schedule divides the rate by 10.", least=1)
    ema_decay: float | None = option(
        None,
        "Evaluate and keep a moving average of the weights that train: the share of it that stays at each step, such "
        "as 0.999; none if unset.",
        above=0,
        below=1,
    )
    max_grad_norm: float | None = option(
        5.0, "Greatest norm of the gradient; lower it if the loss leaps; none for no clipping.", above=0
    )
    mixed_precision: str = option(
        "no", f"One of {', '.join(PRECISIONS)}; bf16 (recommended) on GPUs that have it.", choices=PRECISIONS
    )
    seed: int = option(0, "Seeds weights, data order, augmentation and dropout.", least=0, below=2**32)
    deterministic: bool = option(False, "Use deterministic kernels only (slower on GPUs).")
    num_workers: int = option(0, "Data loading processes for each training process; 4 to 8 with a GPU.", least=0)
    channels_last: bool = option(
        False, "Keep images channels-last in memory; faster for convolutional models on GPUs."
    )
    torch_compile: bool = option(False, "Compile the model; worth its minutes in long runs.")
    torch_compile_backend: str = option("inductor", "Which compiler of torch.compile.")
    cpu: bool = option(False, "Train on the CPU even if there is an accelerator.")
    process_timeout: float = option(
        600.0, "Seconds that a process waits for the others before it ends with an error.", above=0, most=1e6
    )
    eval_epochs: int = option(1, "Evaluate on the validation split every this many epochs.", least=1)
    eval_steps: int | None = option(None, "Evaluate every this many optimiser steps instead.", least=1)
    checkpoint_steps: int | None = option(
        None, "Save a checkpoint every this many steps; after each epoch if unset.", least=1
    )
    save_total_limit: int = option(2, "Keep this many checkpoints; no_checkpoints saves none.", least=1)
    no_checkpoints: bool = option(False, "Save no checkpoints: the run cannot be resumed.")
    metric_for_best: str | None = option(None, "Validation metric that selects the best weights; the task's if unset.")
    early_stopping_patience: int | None = option(
        None, "Stop after this many evaluations without a better value of that metric.", least=1
    )
    logging_steps: int = option(10, "Write loss, learning rate and speed every this many steps.", least=1)
    report_to: list[str] = option(["auto"], "Trackers: tensorboard, wandb, trackio; auto is tensorboard if installed.")
    progress_bar: bool = option(True, "Show a progress bar.")
    push_to_hub: bool = option(False, "Push the trained repository to the Hub.")
    hub_model_id: str | None = option(None, "Repository on the Hub, user/name; the name of output_dir if unset.")
    hub_private_repo: bool = option(False, "Make the repository on the Hub private.")

    def __post_init__(self) -> None:
        """Check what can be checked without data or model."""
        super().__post_init__()
        if self.resume and self.overwrite_output_dir:
            raise ValueError(
                "--overwrite_output_dir deletes the run that --resume goes on with; leave one of them out."
            )
        if self.schedule == "step" and not self.step_epochs:
            raise ValueError("The step schedule needs step_epochs, such as --step_epochs 27 33.")
        if self.max_steps is None:
            self._check_epochs()

    def _check_epochs(self) -> None:
        """Refuse a warm-up or a step that lies beyond the last epoch."""
        ends = f"the run ends after num_epochs {self.num_epochs}: train longer, or"
        if self.warmup_epochs >= self.num_epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs:g}, and {ends} shorten the warm-up; "
                f"a fifth is usual, --warmup_epochs {self.num_epochs / 5:g}."
            )
        late = [epoch for epoch in self.step_epochs if epoch >= self.num_epochs]
        if self.schedule == "step" and late:
            raise ValueError(f"step_epochs has {late}, and {ends} give earlier ones, or another --schedule.")


# Settings that may differ between a run and its resumption: none of them changes what is computed.
FREE_ON_RESUME = frozenset(
    {
        "output_dir",
        "overwrite_output_dir",
        "resume",
        "num_workers",
        "eval_batch_size",
        "process_timeout",
        "checkpoint_steps",
        "save_total_limit",
        "no_checkpoints",
        "logging_steps",
        "report_to",
        "progress_bar",
        "push_to_hub",
        "hub_model_id",
        "hub_private_repo",
    }
)
