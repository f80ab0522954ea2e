"""What a run leaves behind is complete, and predicts as the trained model did."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from mona_peft.finetuning.data.embedded.digits import load_adaptation_digits
from mona_peft.finetuning.data.sources.classification import DataConfig, load_data
from mona_peft.finetuning.inference.loading import load
from mona_peft.finetuning.inference.predict import PredictionConfig, find_images, predict
from mona_peft.finetuning.tasks.classification import ClassificationTask
from mona_peft.finetuning.training.evaluation import evaluate_model
from tests.finetuning.tasks.tiny_classifier import configs, train_classifier, write_classifier
from tests.finetuning.training.launching import launch

SCRIPT = Path(__file__).parents[3] / "scripts" / "predict.py"
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each kind of repository: adapter, delta, whole model."""
    root = tmp_path_factory.mktemp("runs")
    model = write_classifier(root / "base")
    for method in ("mona", "fixed", "full"):
        train_classifier(*configs(model, root / method, method))
    return root


@pytest.mark.parametrize(
    "method, weights",
    [("mona", "adapter_model.safetensors"), ("fixed", "delta_model.safetensors"), ("full", "model.safetensors")],
)
def test_repository_is_complete_and_predicts_the_same(runs, method, weights):
    folder = runs / method / "model"
    assert {weights, "config.json", "preprocessor_config.json", "metrics.json", "README.md"} <= {
        path.name for path in folder.iterdir()
    }
    torch.manual_seed(123)
    loaded = load(folder)
    assert loaded.model.config.id2label == {number: str(number + 5) for number in range(5)}
    recorded = json.loads((folder / "metrics.json").read_text())["test"]
    data, classification, _ = configs(runs / "base", None)
    task = ClassificationTask(load_data(data), classification)
    figures = evaluate_model(task, loaded.model, "test", batch_size=100)
    assert figures == recorded


def test_adapter_is_small(runs):
    sizes = {
        method: sum(f.stat().st_size for f in (runs / method / "model").glob("*.safetensors"))
        for method in ("mona", "fixed", "full")
    }
    assert sizes["fixed"] < sizes["mona"] < sizes["full"]


def test_predict_and_pipeline_agree(runs):
    loaded = load(runs / "mona" / "model")
    images = load_adaptation_digits()["test"][:16]["image"]
    direct = loaded.predict(images, top_k=3)
    piped = loaded.pipeline()([image.convert("RGB") for image in images], top_k=3)
    for one, two in zip(direct, piped, strict=True):
        assert [entry["label"] for entry in one] == [entry["label"] for entry in two]
        assert [entry["score"] for entry in one] == pytest.approx([entry["score"] for entry in two], abs=1e-5)
    assert sum(entry["score"] for entry in loaded.predict(images[:1])[0]) == pytest.approx(1)


def test_card(runs):
    card = ModelCard.load(runs / "mona" / "model" / "README.md")
    assert card.data.library_name == "peft" and card.data.get("license") is None
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.get("base_model") is None and "Base model: `base`" in card.text  # a folder of this machine
    figures = json.loads((runs / "mona" / "metrics.json").read_text())
    tested = {r.metric_type: r.metric_value for r in card.data.eval_results if r.dataset_split == "test"}
    assert tested["accuracy"] == figures["test"]["accuracy"]
    assert "import mona_peft" in card.text and "2408.08345" in card.text and "transformers 5" in card.text


def test_usage_of_the_card_runs(runs, monkeypatch, capsys):
    card = (runs / "mona" / "model" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    monkeypatch.chdir(runs / "mona")  # the card names the folder of its own
    Image.new("RGB", (40, 30)).save("image.jpg")
    exec(
        code.replace("mona_peft.load", "load").replace(
            "import mona_peft", "from mona_peft.finetuning.inference.loading import load"
        )
    )
    assert capsys.readouterr().out.count("'label'") == 5  # one image, five classes


def test_another_base_model_can_be_named(runs, tmp_path):
    shutil.copytree(runs / "base", tmp_path / "moved")
    repository = tmp_path / "repository"
    shutil.copytree(runs / "mona" / "model", repository)
    config = json.loads((repository / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None
    (repository / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="base_model="):
        load(repository)
    pixels = torch.randn(2, 3, 32, 32)
    expected = load(runs / "mona" / "model").model(pixel_values=pixels).logits
    assert torch.equal(
        load(repository, base_model=str(tmp_path / "moved")).model(pixel_values=pixels).logits, expected
    )


def test_foreign_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no config.json and no adapter_config.json"):
        load(tmp_path)


def test_images_are_found(tmp_path):
    for name in ("b.png", "a.jpg", "deep/c.JPEG", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [Path(item.name).name for item in find_images([str(tmp_path)])] == ["a.jpg", "b.png", "c.JPEG"]
    (tmp_path / "d.jfif").write_bytes(b"")
    (tmp_path / "e.heic").write_bytes(b"")
    with pytest.warns(UserWarning, match="pictures that are not read are left out: 1 .heic"):
        assert len(find_images([str(tmp_path)])) == 4
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        find_images([str(tmp_path / "missing.jpg")])
    with pytest.raises(FileNotFoundError, match="--dataset"):
        find_images([])


@pytest.mark.parametrize("suffix", [".json", ".parquet", ".csv"])
def test_results_are_written(runs, tmp_path, suffix):
    import pandas

    for number in range(3):
        Image.fromarray(np.full((9, 9), 80 * number, np.uint8)).save(tmp_path / f"{number}.png")
    output = tmp_path / f"out{suffix}"
    config = PredictionConfig(
        model=str(runs / "mona" / "model"), images=[str(tmp_path)], output=str(output), batch_size=2, top_k=2, cpu=True
    )
    rows = predict(config, DataConfig())
    read = {".json": pandas.read_json, ".parquet": pandas.read_parquet, ".csv": pandas.read_csv}[suffix]
    frame = read(output)
    assert [Path(name).name for name in frame["image"]] == ["0.png", "1.png", "2.png"]
    assert [str(label) for label in frame["label"]] == [row["label"] for row in rows]
    assert all(len(row["labels"]) == 2 for row in rows)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="--model"):
        PredictionConfig()
    with pytest.raises(ValueError, match=r"\.json, \.parquet, \.csv"):
        PredictionConfig(model="m", output="labels.xlsx")


@pytest.mark.slow
def test_script_predicts_a_data_set_the_same_way_in_two_processes(runs, tmp_path):
    model = runs / "mona" / "model"
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    flags = ["--model", str(model), "--dataset", "digits", "--cpu", "--output"]
    command = [sys.executable, str(SCRIPT), *flags, str(one)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    accuracy = json.loads((model / "metrics.json").read_text())["test"]["accuracy"]
    rows = json.loads(one.read_text())
    right = sum(row["label"] == row["true"] for row in rows)
    assert f"Accuracy: {right / 600:.2%} ({right} of 600)" in printed
    assert right / 600 == pytest.approx(accuracy, abs=0.01)  # transformers resizes by other code
    assert (
        "Accuracy" in launch("src/mona_peft/finetuning/recipes/accelerate/cpu.yaml", SCRIPT, [*flags, str(two)]).stdout
    )
    again = json.loads(two.read_text())
    assert [(r["image"], r["label"]) for r in again] == [(r["image"], r["label"]) for r in rows]
