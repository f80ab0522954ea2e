"""`mona-peft export` passes on what it is told, and says how far the file is from PyTorch."""

import pytest

from mona_peft.finetuning.commands.main import run
from mona_peft.finetuning.exporting import export as export_module
from mona_peft.finetuning.exporting.checking import Check


def test_the_command_exports_as_it_is_told(monkeypatch, capsys):
    calls = []

    def export(*args, **options):
        calls.append((args, options))
        return Check(2e-6, 1e-7, 1.0, (1, 3))

    monkeypatch.setattr(export_module, "export", export)
    run("export", "--model", "flowers", "--output", "flowers.onnx", "--precision", "int8", "--tolerance", "0.1")
    run("export", "--model", "flowers", "--output", "any.pt2", "--format", "torch", "--adapter_inputs")
    run("export", "--model", "rooms", "--output", "rooms.onnx", "--dynamic_size")
    run("export", "--model", "rooms", "--output", "rooms.onnx", "--image_size", "512")
    fixed = {"base_model": None, "dynamic_size": False, "image_size": None}
    assert calls == [
        (("flowers", "flowers.onnx", "onnx", "int8", False, 0.1), fixed),
        (("flowers", "any.pt2", "torch", "float32", True, None), fixed),
        (("rooms", "rooms.onnx", "onnx", "float32", False, None), {**fixed, "dynamic_size": True}),
        (("rooms", "rooms.onnx", "onnx", "float32", False, None), {**fixed, "image_size": 512}),
    ]
    line = "flowers.onnx: the largest difference from PyTorch is 2e-06, 1e-07 of the largest output, and 100.0% of the"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "No model was given: --model FOLDER"),
        (["--model", "flowers"], "No file to write was given: --output model.onnx"),
        (["--model", "flowers", "--output", "a.onnx", "--format", "tflite"], "tflite"),
    ],
)
def test_wrong_command_lines_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        run("export", *words)
