"""Whose an output folder is, and its log."""

import json
import subprocess
import sys

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


def test_settings_are_known_under_the_names_they_had(tmp_path):
    open_run(tmp_path, {"model_name_or_path": "swin"}, FREE, resume=False, overwrite=False).close()
    with pytest.raises(ValueError, match="model: 'swin' then, 'vit' now"):
        open_run(tmp_path, {"model": "vit"}, FREE, resume=True, overwrite=False)
    run = open_run(tmp_path, {"model": "swin"}, FREE, resume=True, overwrite=False)
    assert run.settings == {"model": "swin"}


@pytest.mark.parametrize("resume, overwrite", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("name", ["thesis.txt", "run.json", "metrics.json"])
def test_foreign_folders_are_neither_deleted_nor_taken_up(tmp_path, name, resume, overwrite):
    (tmp_path / name).write_text('{"seed": 1}')
    with pytest.raises(FileExistsError, match="not empty"):
        open_run(tmp_path, {"seed": 1}, FREE, resume=resume, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_overwriting_deletes_what_the_old_run_wrote(tmp_path):
    run = open_run(tmp_path, {"seed": 1}, FREE, resume=False, overwrite=False)
    run.own.add("best.safetensors", "checkpoint-00000001/")
    (tmp_path / "best.safetensors").write_bytes(b"old")
    (tmp_path / "best.safetensors.incomplete").write_bytes(b"killed")
    (tmp_path / "checkpoint-00000001" / "deep").mkdir(parents=True)
    (tmp_path / "checkpoint-00000001" / "deep" / "state").write_text("old")
    with run.own.noting():
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text("old")
    with run.own.noting():
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "confusion.png").write_text("old")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    (tmp_path / "checkpoint-mine").mkdir()
    run.close()
    open_run(tmp_path, {"seed": 2}, FREE, resume=False, overwrite=True)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left - {"run.lock"} == {"run.json", "written.json", "model", "model/notes.txt", "checkpoint-mine"}
    assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 2}


def test_what_a_run_in_a_folder_below_writes_is_not_taken_for_ones_own(tmp_path):
    run = open_run(tmp_path, {"seed": 1}, FREE, resume=False, overwrite=False)
    with run.own.noting():
        below = open_run(tmp_path / "below", {"seed": 1}, FREE, resume=False, overwrite=False)
        (tmp_path / "below" / "model").mkdir()
        (tmp_path / "below" / "model" / "weights").write_text("of another run")
        (tmp_path / "figures.json").write_text("own")
    below.close()
    run.close()
    open_run(tmp_path, {"seed": 2}, FREE, resume=False, overwrite=True)
    assert (tmp_path / "below" / "model" / "weights").exists() and (tmp_path / "below" / "run.json").exists()
    assert not (tmp_path / "figures.json").exists()


@pytest.mark.parametrize(
    "listed",
    ["{", "[]", '{"files": []}', '{"program": "mona-peft", "files": ["../precious.txt"]}']
    + ['{"program": "mona-peft", "files": ["PATH"]}', '{"program": "mona-peft", "files": ["link/precious.txt"]}'],
)
def test_a_list_that_cannot_be_right_deletes_nothing(tmp_path, listed):
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "precious.txt").write_text("mine")
    (folder / "link").symlink_to(tmp_path)
    (folder / "written.json").write_text(listed.replace("PATH", str(tmp_path / "precious.txt")))
    with pytest.raises(ValueError, match=r"written\.json .*(choose another|delete this one)"):
        open_run(folder, {}, FREE, resume=False, overwrite=True)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_link_is_deleted_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.txt").write_text("mine")
    run = open_run(tmp_path / "run", {}, FREE, resume=False, overwrite=False)
    (tmp_path / "run" / "tracker").symlink_to(tmp_path / "data")
    run.own.add("tracker/")
    run.close()
    open_run(tmp_path / "run", {}, FREE, resume=False, overwrite=True)
    assert not (tmp_path / "run" / "tracker").exists() and (tmp_path / "data" / "precious.txt").exists()


@pytest.mark.parametrize("text", ["{", "[1]", "", "\x00"])
def test_damaged_settings_are_named(tmp_path, text):
    open_run(tmp_path, {"seed": 1}, FREE, resume=False, overwrite=False).close()
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json .*start over with --overwrite_output_dir"):
        open_run(tmp_path, {"seed": 1}, FREE, resume=True, overwrite=False)


def test_what_is_known_later_is_compared_too(tmp_path):
    run = open_run(tmp_path, {"seed": 1}, FREE, resume=False, overwrite=False)
    run.confirm(base_weights="abc")
    run.close()
    again = open_run(tmp_path, {"seed": 1}, FREE, resume=True, overwrite=False)
    again.confirm(base_weights="abc")
    with pytest.raises(ValueError, match="base_weights: 'abc' then, 'xyz' now"):
        again.confirm(base_weights="xyz")


def test_a_run_written_before_a_setting_was_recorded_takes_it_up(tmp_path):
    open_run(tmp_path, {"seed": 1}, FREE, resume=False, overwrite=False).close()
    open_run(tmp_path, {"seed": 1, "shuffle_buffer": 10}, FREE, resume=True, overwrite=False).close()
    with pytest.raises(ValueError, match="shuffle_buffer: 10 then, 20 now"):
        open_run(tmp_path, {"seed": 1, "shuffle_buffer": 20}, FREE, resume=True, overwrite=False)


def test_long_lists_are_told_by_what_differs(tmp_path):
    names = [f"class{number}" for number in range(1000)]
    open_run(tmp_path, {"names": names}, FREE, resume=False, overwrite=False).close()
    renamed = [*names[:700], "other", *names[701:]]
    with pytest.raises(ValueError, match=r"names: \['class700'\] then, \['other'\] now"):
        open_run(tmp_path, {"names": renamed}, FREE, resume=True, overwrite=False)


def test_a_run_killed_at_once_can_start_again(tmp_path):
    (tmp_path / "run.lock").touch()
    (tmp_path / "written.json.incomplete").write_text("{")
    open_run(tmp_path, {"seed": 1}, FREE, resume=True, overwrite=False).close()
    assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 1}


HOLD = """
import sys, time
from pathlib import Path
from mona_peft.finetuning.training.run_folder import open_run
run = open_run(Path(sys.argv[1]), {}, frozenset(), resume=True, overwrite=False)
print("held", flush=True)
time.sleep(60)
"""


def test_two_processes_never_share_a_folder(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        for resume, overwrite in ((True, False), (False, True)):
            with pytest.raises(RuntimeError, match="Another process is writing the run"):
                open_run(tmp_path, {}, FREE, resume=resume, overwrite=overwrite)
        assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    finally:
        holder.kill()
        holder.wait()
    open_run(tmp_path, {}, FREE, resume=True, overwrite=False).close()  # a killed process holds nothing


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


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe", b"[]", b'{"kind": "train"}', b'{"kind": "train", "step": "3"}', b"null"]
)
def test_damaged_records_are_left_out_and_named(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    log = FigureLog(path)
    for step in (1, 2, 3):
        log.write("train", step, step / 2, loss=0.5)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], damage, lines[2]]) + b"\n")
    with pytest.warns(UserWarning, match=r"metrics\.jsonl, line 2 is damaged"):
        FigureLog(path, from_step=3)
    assert [record["step"] for record in read_log(path)] == [1, 3]
