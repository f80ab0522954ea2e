"""Checkpoints with damaged files: the run goes on from the newest whole one, or says which file and what to do."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from mona_peft.finetuning.training import Trainer
from tests.finetuning.training.test_loop import config
from tests.finetuning.training.toy import LineTask

FILES = ("trainable.safetensors", "optimizer.bin", "random_states_0.pkl", "state.json", "manifest.json")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


def fill(path):
    path.write_bytes(b"[1, 2]")


def make_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = (flip_a_bit, cut, empty, fill, make_pipe)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    Trainer(LineTask(), config(folder)).train()
    return folder


def trained(folder, **changes):
    trainer = Trainer(LineTask(), config(folder, **changes))
    trainer.train()
    trainer.close()
    return trainer


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_the_newest_whole_checkpoint_is_taken(tmp_path, whole, name, damage):
    trained(tmp_path)
    damage(tmp_path / "checkpoint-00000018" / name)
    with pytest.warns(UserWarning, match=rf"Skipping .*00000018: .*{name}.*goes on from .*00000012"):
        resumed = trained(tmp_path, resume=True)
    assert len(resumed.task.seen) == 6
    for file in ("best.safetensors", "checkpoint-00000018/trainable.safetensors"):
        one, other = load_file(whole / file), load_file(tmp_path / file)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_with_no_whole_checkpoint_nothing_is_touched(tmp_path):
    trained(tmp_path)
    for number in (12, 18):
        flip_a_bit(tmp_path / f"checkpoint-{number:08d}" / "optimizer.bin")
    names = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"00000018: optimizer\.bin is damaged.*00000012.*--overwrite_output_dir"):
        Trainer(LineTask(), config(tmp_path, resume=True))
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize("damage", [*DAMAGE, lambda path: path.unlink()])
def test_damaged_best_weights_are_found_again_or_named(tmp_path, damage):
    """The best came after 2 epochs, in the checkpoint of step 12, or after 1, which is kept no more."""

    class Peaking(LineTask):
        def __init__(self, best):
            super().__init__()
            self.best = best

        def describe(self):
            return {}

        def meter(self, split):
            meter = super().meter(split)
            meter.compute = lambda: {"error": abs(self.evaluations() - self.best)}
            return meter

        def evaluations(self):
            self.count = getattr(self, "count", 0) + 1
            return self.count

    for best in (2, 1):
        folder = tmp_path / str(best)
        trainer = Trainer(Peaking(best), config(folder))
        assert trainer.train()["best_step"] == 6 * best
        trainer.close()
        right = {name: tensor.clone() for name, tensor in load_file(folder / "best.safetensors").items()}  # not mapped
        damage(folder / "best.safetensors")
        if best == 1:
            with pytest.raises(ValueError, match=r"best\.safetensors.*--overwrite_output_dir"):
                Trainer(Peaking(best), config(folder, resume=True))
            continue
        with pytest.warns(UserWarning, match=r"best\.safetensors"):
            resumed = Trainer(Peaking(99), config(folder, resume=True))
        resumed.train()
        again = load_file(folder / "best.safetensors")
        assert best == 2 and all(torch.equal(right[name], again[name]) for name in right)


@pytest.mark.timeout(120)
def test_a_folder_or_a_pipe_where_a_file_was_is_named(tmp_path):
    trained(tmp_path)
    (tmp_path / "best.safetensors").unlink()
    (tmp_path / "best.safetensors").mkdir()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"best\.safetensors is a folder.*Move it away"):
        trained(tmp_path, resume=True)
    for name in ("run.json", "written.json", "metrics.jsonl"):
        folder = tmp_path / name.partition(".")[0]
        trained(folder, num_epochs=1)
        make_pipe(folder / name)
        with pytest.raises(ValueError, match=rf"{name} (cannot be read|is no file)"):
            trained(folder, num_epochs=1, resume=True)


def test_a_flipped_bit_of_the_best_weights_is_seen_at_the_end(tmp_path):
    trainer = Trainer(LineTask(), config(tmp_path, num_epochs=1))
    trainer.train()
    flip_a_bit(tmp_path / "best.safetensors")
    with pytest.raises(ValueError, match=r"best\.safetensors (is damaged|cannot be read)"):
        trainer.best.restore(trainer.bare_model)


def test_a_manifest_lists_sizes_and_hashes(whole):
    listed = json.loads((whole / "checkpoint-00000018" / "manifest.json").read_text())
    assert set(FILES[:-1]) <= listed.keys()
    assert all(len(facts["sha256"]) == 64 and facts["bytes"] > 0 for facts in listed.values())


def test_another_base_model_is_refused(tmp_path):
    trained(tmp_path, num_epochs=1)

    class Other(LineTask):
        def build_model(self):
            model = super().build_model()
            model[0].bias.data += 1  # frozen: comes from the base model, is in no checkpoint
            return model

    with pytest.raises(ValueError, match=r"base_weights: .* then, .* now"):
        Trainer(Other(), config(tmp_path, num_epochs=1, resume=True))


def test_another_number_of_processes_is_refused(tmp_path):
    trained(tmp_path, num_epochs=1)
    record = tmp_path / "run.json"
    settings = json.loads(record.read_text())
    record.write_text(json.dumps({**settings, "num_processes": 2}))
    with pytest.raises(ValueError, match="num_processes: 2 then, 1 now.*--overwrite_output_dir"):
        Trainer(LineTask(), config(tmp_path, num_epochs=1, resume=True))
    del settings["num_processes"]  # a run recorded before it was kept
    record.write_text(json.dumps(settings))
    assert trained(tmp_path, num_epochs=1, resume=True).task.seen == []
    assert json.loads(record.read_text())["num_processes"] == 1
