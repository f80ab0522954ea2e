"""Tables, figures and the report of a study."""

import csv
import html.parser
import io
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from mona_peft.finetuning.study.command import collect
from mona_peft.finetuning.study.plan import Plan
from mona_peft.finetuning.study.plots import (
    plot_curves,
    plot_groups,
    plot_losses,
    plot_memory,
    plot_parameters,
    plot_seconds,
    smooth,
)
from mona_peft.finetuning.study.report import Results, markers, read_block, replace_block, write_report
from mona_peft.finetuning.study.selection import chosen_records
from mona_peft.finetuning.study.table import make_rows, rows_from_json, sort_rows, to_csv, to_json, to_markdown
from mona_peft.finetuning.study.variants import Variant
from tests.finetuning.study.fakes import FakeStudy, record

ROOT = Path(__file__).parents[3]

RECORDS = [
    record("full", 0.1, 0, 0.9, 0.50, backbone_trainable=100, seconds=4.0, memory_bytes=2**21),
    record("full", 0.1, 1, 0.9, 0.60, backbone_trainable=100, seconds=6.0, memory_bytes=2**21),
    record("full", 0.2, 0, 0.1, 0.99, backbone_trainable=100),
    record("full", 0.2, 1, 0.1, 0.99, backbone_trainable=100),
    record("mona", 0.1, 0, 0.9, 0.70, seconds=2.0, memory_bytes=2**20),
    record("mona", 0.1, 1, 0.9, 0.65, seconds=2.0, memory_bytes=2**20),
]


def rows():
    return make_rows(RECORDS)


def test_rows_hold_the_figures_of_the_chosen_rate():
    full, mona = rows()
    assert (full.label, full.learning_rate, full.seeds) == ("full", 0.1, 2)
    assert full.mean == pytest.approx(0.55) and full.std == pytest.approx(0.05 * 2**0.5)
    assert full.low == pytest.approx(0.5) and full.high == pytest.approx(0.6)
    assert full.p_value is None and 0 < mona.p_value < 1
    assert full.at_grid_end and not mona.at_grid_end, "0.1 of 0.1 and 0.2; the only one"
    assert full.seconds == 5.0 and full.backbone_share == 1.0 and mona.backbone_share == 0.1


def test_the_best_comes_first():
    assert [row.label for row in sort_rows(rows())] == ["mona", "full"]


def test_formats_agree():
    markdown = to_markdown(rows(), "accuracy").splitlines()
    assert markdown[0].count("|") == markdown[1].count("|") == markdown[2].count("|")
    assert markdown[2].endswith("| 0.1 (end) |") and markdown[3].endswith("| 0.1 |")
    assert "55.0% ± 7.1" in markdown[2] and "50.0 to 60.0" in markdown[2]
    parsed = list(csv.DictReader(io.StringIO(to_csv(rows()))))
    assert [float(row["mean"]) for row in parsed] == [row.mean for row in rows()]
    assert parsed[0]["p_value"] == ""
    assert rows_from_json(json.loads(json.dumps(to_json(rows())))) == rows()


@pytest.mark.parametrize("label", ["a|b", "*mona*", "[x](y)", "`code`", "<b>", "a\\|b", "two\nlines", "r_1 _x_"])
def test_labels_are_text_and_not_markdown(label):
    """A label with a pipe once shifted the cells of its row."""
    lines = to_markdown(make_rows([record(label, 0.1, 0, 0.5, 0.5)]), "accuracy").splitlines()
    assert len(lines) == 3 and len(re.findall(r"(?<!\\)(?:\\\\)*\|", lines[2])) == lines[0].count("|")
    cell = re.split(r"(?<!\\)(?:\\\\)*\|", lines[2])[1].strip()
    assert not re.search(r"(?<!\\)[*_`\[\]<>]", cell)
    assert re.sub(r"\\(.)", r"\1", cell) == " ".join(label.split())


def test_figures_show_every_row_where_it_is():
    for plot, value in (
        (plot_parameters, lambda row: row.backbone_trainable),
        (plot_seconds, lambda row: row.seconds),
        (plot_memory, lambda row: row.memory_bytes / 2**20),
    ):
        axes = plot(rows(), "accuracy").axes[0]
        assert [text.get_text() for text in axes.texts] == ["full", "mona"]
        points = [container.lines[0].get_xydata()[0] for container in axes.containers]
        np.testing.assert_allclose(points, [(value(row), 100 * row.mean) for row in rows()])
    axes = plot_groups(rows(), "accuracy").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mona", "full"]


def test_loss_curves_are_means_over_seeds():
    axes = plot_losses(chosen_records(RECORDS), smoothing=0.0).axes[0]
    assert [line.get_label() for line in axes.lines] == ["full", "mona"]
    steps = np.arange(1, 6)
    np.testing.assert_allclose(axes.lines[0].get_xdata(), steps)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 1 / steps + 0.005)


def test_curves_tell_when_each_method_reaches_what_lora_has_at_its_end():
    def run(label, method, seconds, *values):
        validations = [[10 * (number + 1), value] for number, value in enumerate(values)]
        return record(label, 0.1, 0, values[-1], 0.5, method=method, seconds=seconds, validations=validations)

    runs = {
        "mona": [run("mona", "mona", 40.0, 0.5, 0.7, 0.9, 0.9)],
        "lora16": [run("lora16", "lora", 30.0, 0.7, 0.8, 0.8)],
        "full": [run("full", "full", 20.0, 0.9, 0.9)],
        "fixed": [run("fixed", "fixed", 20.0, 0.2, 0.3)],
    }
    axes = plot_curves(runs, "accuracy").axes[0]
    # Mona: 0.7 at 20 s and 0.9 at 30 s.
    named = ["mona, 25 s", "lora16, 20 s", "full, by 10 s", "fixed, not reached", "lora16 at its end"]
    assert [line.get_label() for line in axes.lines] == named
    assert axes.lines[-1].get_ydata() == [80, 80]
    alone = plot_curves({"mona": runs["mona"]}, "accuracy").axes[0]
    assert [line.get_label() for line in alone.lines] == ["mona"]


def test_smoothing_starts_at_the_first_value_and_keeps_constants():
    np.testing.assert_allclose(smooth(np.full(5, 3.0), 0.9), 3.0)
    assert smooth(np.array([1.0, 0.0]), 0.5)[0] == 1.0


class _Resources(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.links, self.cells = [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            self.images.append(values["src"])
        self.links += [values[name] for name in ("href", "data") if name in values]
        self.links += [values["src"]] if tag in ("script", "link", "iframe") and "src" in values else []

    def handle_data(self, data):
        self.cells.append(data)


def results():
    return Results("a <title>", "python scripts/compare.py", "accuracy", "full", {"seeds": 2}, {"torch": "2"}, rows())


def test_report_is_one_file_that_needs_no_other(tmp_path):
    write_report(tmp_path, results(), RECORDS)
    page = _Resources()
    page.feed((tmp_path / "report.html").read_text())
    assert len(page.images) == 5 and all(source.startswith("data:image/png;base64,") for source in page.images)
    assert page.links == []
    assert "55.0% ± 7.1" in page.cells and "Comparison on a <title>" in page.cells
    for name in ("parameters", "losses", "seconds", "memory"):
        png = (tmp_path / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG") and struct.unpack(">I", png[16:20])[0] > 300
    assert Results.load(tmp_path) == results()
    assert (tmp_path / "table.md").read_text().strip() == results().summary()


def test_a_study_is_collected_in_order(tmp_path):
    variants = (Variant("full", "full"), Variant("mona", "mona"))
    study = FakeStudy(Plan(variants, (0.1,), 2), tmp_path, lambda label, rate, seed: (0.5, 0.4 + 0.1 * len(label)))
    study.figures = {"loss": 0.2, "num_samples": 8}
    with pytest.raises(ValueError, match="no finished run"):
        collect(study, "full")
    study.run()
    found, records = collect(study, "full")
    assert len(records) == 4 and {row.label for row in found.rows} == {"full", "mona"}
    assert found.settings["plan"]["seeds"] == 2
    for no_share in ("loss", "num_samples"):
        with pytest.raises(ValueError, match=f"no metric '{no_share}'; choose one of accuracy, validation"):
            collect(study, "full", no_share)


@pytest.mark.parametrize("name", ["results", "results-detection"])
def test_blocks_are_replaced_between_their_markers_alone(name):
    begin, end = markers(name)
    others = "\n".join(markers("results-other"))
    text = f"before\n{others}\n{begin}\nold\n{end}\nafter\n"
    new = replace_block(text, "new", name)
    assert new == f"before\n{others}\n{begin}\nnew\n{end}\nafter\n" and read_block(new, name) == "new"
    assert replace_block(new, "new", name) == new
    for broken in ("nothing", end + begin, text + begin + end, f"{begin} no end"):
        with pytest.raises(ValueError, match=f"{name}:begin.*once each"):
            replace_block(broken, "new", name)
