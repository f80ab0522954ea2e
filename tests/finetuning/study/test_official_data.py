"""Studies of the paper's dense data sets in their official layouts, where validation and test are one split."""

import json

import pytest

from mona_peft.finetuning import recipes
from mona_peft.finetuning.commands.studies import read_ablation, read_comparison
from mona_peft.finetuning.recipe_files import read_mapping
from mona_peft.finetuning.study.report import Results
from tests.finetuning.official_layouts import LAYOUTS, tiny_flags
from tests.finetuning.tasks.tiny_dense import write_swin

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

#: By data set: the recipe, the task's name in studies, the figure, and how many training images a fifth is.
STUDIES = {
    "voc0712": ("swin-large-retinanet-voc0712", "detection", "11-point AP at IoU 0.5", "1 of 6"),
    "coco": ("swin-base-cascade-coco", "instance_segmentation", "mask AP", "1 of 4"),
    "ade20k": ("swin-large-upernet-ade20k", "semantic_segmentation", "mean IoU", "1 of 4"),
}
NARROW = '{"mona": {"bottleneck_dim": 4}}'


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("official")
    write_swin(root / "swin")
    for name in STUDIES:
        (root / name).mkdir()
        LAYOUTS[name][0](root / name)
    return root


def words(name, place, folder):
    """The words of a study of one step a run at one rate."""
    recipe, task, *_ = STUDIES[name]
    flags = tiny_flags(name, place / name, place / "swin", read_mapping(recipes.path(recipe))["architecture"])
    return [recipe, "--task", task, *flags, "--study_dir", str(folder), "--learning_rates", "0.001", "--seeds", "1"]


def records(folder):
    return [json.loads(path.read_text()) for path in sorted((folder / "runs").iterdir())]


@pytest.mark.parametrize("name", STUDIES)
def test_compare_chooses_on_held_out_images_and_reports_the_official_split(name, place, tmp_path):
    *_, metric, held_out = STUDIES[name]
    study = [*words(name, place, tmp_path), "--methods", "full", "mona", "--variant_options", NARROW]
    results = read_comparison([*study, "--held_out", "0.2"])()
    assert {row.label for row in results.rows} == {"full", "mona"} and results.metric_name == metric
    assert f"rates chosen on {held_out} training images, held out" in results.summary()
    mona = next(record for record in records(tmp_path) if record["method"] == "mona")
    assert mona["options"] == {"bottleneck_dim": 4, "init_weights": "official"}, "the recipe's, and what was asked for"
    assert mona["drop_path"] == {"ade20k": 0.2}.get(name), "Mona's own"
    assert (tmp_path / "results" / "report.html").exists() and Results.load(tmp_path / "results") == results


@pytest.mark.parametrize("name", STUDIES)
def test_compare_chooses_as_the_paper_did_and_says_so(name, place, tmp_path):
    study = [*words(name, place, tmp_path), "--methods", "fixed", "--select_on", "test"]
    results = read_comparison(study)()
    (record,) = records(tmp_path)
    assert record["validation"] in record["test"].values(), "chosen by the figure that is reported"
    assert results.rows[0].validation == results.rows[0].mean
    assert "rates chosen on the test split, weights too, as the paper did" in results.summary()
    with pytest.raises(ValueError, match="holds another study .*chosen_on: 'the test split"):
        read_comparison([*words(name, place, tmp_path), "--methods", "fixed"])()


@pytest.mark.parametrize("name", STUDIES)
def test_ablate_runs_on_the_official_layout(name, place, tmp_path):
    study = [*words(name, place, tmp_path), "--groups", "bottleneck", "--bottleneck_dim", "4", "--bottlenecks", "2"]
    results = read_ablation(study)()
    assert [row.label for row in results.rows] == ["mona", "bottleneck 2"] and results.reference == "mona"
    assert results.rows[1].backbone_trainable < results.rows[0].backbone_trainable
    assert "rates chosen on 1 of" in results.summary()


def test_the_papers_ablations_on_voc_are_one_command(place, tmp_path):
    """That of the recipe's head, with models of three sizes in place of Swin-T, B and L."""
    recipe = "swin-large-retinanet-voc0712"
    lines = recipes.head(recipe).replace("\\\n", " ").splitlines()
    (command,) = (line.split() for line in lines if "mona-peft ablate" in line)
    assert command[:3] == ["mona-peft", "ablate", recipe]
    own = command[command.index("--groups") : command.index("--backbones")]
    sizes = command[command.index("--backbones") + 1 :]
    assert sizes == [f"swin-{size}-retinanet-voc0712" for size in ("tiny", "base", "large")]
    for size in sizes:
        assert set(read_mapping(recipes.path(size))) == set(read_mapping(recipes.path(recipe)))
    widths = {"swin-t": 4, "swin-b": 6}
    for model, width in widths.items():
        write_swin(place / model, embed_dim=width)
    models = [str(place / model) for model in (*widths, "swin")]
    study = words("voc0712", place, tmp_path)
    results = read_ablation([*study, *own, "--bottleneck_dim", "8", "--backbones", *models])()
    labels = [row.label for row in results.rows]
    assert labels[:3] == ["mona", "bottleneck 32", "bottleneck 128"]
    trained = [f"{model} backbone, {method}" for model in models for method in ("mona", "full")]
    assert labels[3:] == [label for label in trained if label != f"{models[-1]} backbone, mona"], "mona is that one"
    totals = [row.backbone_trainable for row in results.rows if row.label.endswith("full")]
    assert totals == sorted(totals) and len(set(totals)) == 3
