"""Whose an output folder is, and its log."""

import json

import pytest

from mona_peft.finetuning.training.run_folder import FigureLog, open_run, read_log

FREE = frozenset({"num_workers"})


def test_another_run_is_refused(tmp_path):
    open_run(tmp_path / "run", {"seed": 1}, FREE, resume=False, overwrite=False)
    with pytest.raises(FileExistsError, match=r"holds a run already.*--resume"):
        open_run(tmp_path / "run", {"seed": 1}, FREE, resume=False, overwrite=False)


def test_resuming_under_other_settings_is_refused(tmp_path):
    open_run(tmp_path, {"seed": 1, "num_workers": 0}, FREE, resume=False, overwrite=False)
    with pytest.raises(ValueError, match="seed: 1 then, 2 now"):
        open_run(tmp_path, {"seed": 2, "num_workers": 0}, FREE, resume=True, overwrite=False)
    open_run(tmp_path, {"seed": 1, "num_workers": 4}, FREE, resume=True, overwrite=False)


def test_foreign_files_are_never_deleted(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not empty"):
        open_run(tmp_path, {}, FREE, resume=False, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_overwriting_deletes_the_old_run(tmp_path):
    open_run(tmp_path, {"seed": 1}, FREE, resume=False, overwrite=False)
    (tmp_path / "best.safetensors").write_bytes(b"old")
    open_run(tmp_path, {"seed": 2}, FREE, resume=False, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 2}


def test_resuming_drops_later_and_broken_records(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = FigureLog(path)
    for step in (1, 2, 3):
        log.write("train", step, step / 2, loss=0.5)
    with path.open("a") as file:
        file.write('{"kind": "tra')
    assert [record["step"] for record in read_log(path)] == [1, 2, 3]
    FigureLog(path, from_step=2).write("train", 3, 1.5, loss=0.25)
    assert [(record["step"], record["loss"]) for record in read_log(path)] == [(1, 0.5), (2, 0.5), (3, 0.25)]
    FigureLog(path)
    assert read_log(path) == []
