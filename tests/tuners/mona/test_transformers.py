"""Mona through transformers' own adapter methods and its Trainer."""

import functools
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version
from peft import PeftModel, get_peft_model
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.peft import MIN_PEFT_VERSION

from mona_peft import MonaConfig
from tests.support.models import TINY_MODELS, images, predict, randomise

pytestmark = pytest.mark.filterwarnings("ignore")


def through_transformers(test):
    """A test of transformers' own adapter methods; a release that wants a later PEFT must say so itself."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        if Version(version("peft")) >= Version(MIN_PEFT_VERSION):
            test(*args, **kwargs)
            return
        with pytest.raises(ValueError, match=f"please use a version >= {MIN_PEFT_VERSION}"):
            test(*args, **kwargs)

    return run


@pytest.fixture(params=["swin-classifier", "vit-classifier", "swin-backbone", "vit-model"])
def tiny(request):
    return TINY_MODELS[request.param]


@through_transformers
def test_add_disable_enable_set_delete(tiny):
    x = images()
    model = tiny.build()
    base = predict(model, x)
    model.add_adapter(MonaConfig(bottleneck_dim=8))
    assert torch.equal(predict(model.eval(), x), base)
    randomise(model)
    first = predict(model, x)
    model.disable_adapters()
    assert torch.equal(predict(model, x), base)
    model.enable_adapters()
    assert torch.equal(predict(model, x), first)
    model.add_adapter(MonaConfig(bottleneck_dim=4, init_weights=False), adapter_name="second")
    second = predict(model.eval(), x)
    assert model.active_adapters() == ["second"] and not torch.allclose(second, first)
    model.set_adapter("default")
    assert torch.equal(predict(model, x), first)
    model.delete_adapter("second")
    assert not any("second" in key for key in model.state_dict())
    assert torch.equal(predict(model, x), first)


@through_transformers
def test_save_and_load_adapter(tiny, tmp_path):
    x = images()
    model = tiny.build()
    model.add_adapter(MonaConfig(bottleneck_dim=8, modules_to_save=tiny.modules_to_save))
    randomise(model)
    expected = predict(model.eval(), x)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").exists()
    loaded = tiny.build()
    torch.manual_seed(77)
    loaded.load_adapter(str(tmp_path))
    torch.testing.assert_close(predict(loaded.eval(), x), expected, rtol=1e-6, atol=1e-6)
    wrapped = PeftModel.from_pretrained(tiny.build(), tmp_path).eval()
    torch.testing.assert_close(predict(wrapped, x), expected, rtol=1e-6, atol=1e-6)


def test_load_what_peft_saved(tiny, tmp_path):
    x = images()
    model = get_peft_model(tiny.build(), MonaConfig(bottleneck_dim=8, modules_to_save=tiny.modules_to_save)).eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    loaded = tiny.build()
    loaded.load_adapter(str(tmp_path), adapter_name="mine")
    torch.testing.assert_close(predict(loaded.eval(), x), predict(model, x), rtol=1e-6, atol=1e-6)


class Coloured(Dataset):
    """Images of one colour a class."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        label = index % 5
        noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": 0.1 * noise + (label - 2), "labels": label}


def train(tiny, folder, steps, resume=None, callbacks=(), **options):
    model = get_peft_model(tiny.build(), MonaConfig(bottleneck_dim=8, modules_to_save=[tiny.head]))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=5,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        save_steps=4,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        seed=0,
        **options,
    )
    data = Coloured()
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data, callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
    return model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("name", ["swin-classifier", "vit-classifier"])
def test_trainer_trains_and_resumes(name, tmp_path):
    tiny = TINY_MODELS[name]
    whole, losses = train(tiny, tmp_path / "whole", 8)
    assert losses[-1] < losses[0]
    resumed, _ = train(tiny, tmp_path / "again", 8, resume=str(tmp_path / "whole" / "checkpoint-4"))
    assert torch.equal(predict(resumed.eval(), images()), predict(whole.eval(), images()))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["swin-classifier", "vit-classifier"])
def test_trainer_with_gradient_checkpointing(name, reentrant, tmp_path):
    options = dict(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    _, plain = train(TINY_MODELS[name], tmp_path / "plain", 3)
    _, checkpointed = train(TINY_MODELS[name], tmp_path / "checkpointed", 3, **options)
    assert checkpointed == pytest.approx(plain, rel=1e-4)


class KeepWeights(TrainerCallback):
    """Keeps every reported loss with a copy of the weights that it is of."""

    def __init__(self):
        self.kept = []

    def on_evaluate(self, args, state, control, metrics, model, **kwargs):
        self.kept.append((metrics["eval_loss"], {name: t.clone() for name, t in model.state_dict().items()}))


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.slow), False])
def test_trainer_reports_the_losses_of_its_weights(compiled, tmp_path):
    """A fused optimiser moves no version counter of the weights, nor does compiled code."""
    torch._dynamo.reset()  # models compiled before make more sizes symbolic, and compiling takes minutes
    tiny, keeper = TINY_MODELS["swin-classifier"], KeepWeights()
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager"} if compiled else {}
    options |= {"optim": "adamw_torch_fused", "eval_strategy": "steps", "eval_steps": 1}
    train(tiny, tmp_path, 3, callbacks=[keeper], **options)
    fresh = get_peft_model(tiny.build(), MonaConfig(bottleneck_dim=8, modules_to_save=[tiny.head])).eval()
    data = Coloured()
    rows = [data[place] for place in range(len(data))]  # iteration would not end, it raises no IndexError
    batch = {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}
    losses = []
    for loss, weights in keeper.kept:
        fresh.load_state_dict({name.removeprefix("_orig_mod."): tensor for name, tensor in weights.items()})
        with torch.no_grad():
            losses.append(fresh(**batch).loss.item())
        assert loss == pytest.approx(losses[-1], rel=1e-4)
    assert len(losses) == 3 and losses[0] - losses[-1] > 0.01
