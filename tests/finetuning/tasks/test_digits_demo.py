"""The demo at its smallest, launched as a user launches it, and what it shares with studies."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "train_classification.py"


@pytest.mark.slow
def test_demo_runs_and_reloads_its_adapter(tmp_path):
    command = [sys.executable, str(SCRIPT), "--demo_size", "tiny", "--demo_dir", str(tmp_path / "demo")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for method in ("mona", "fixed", "full"):
        assert re.search(rf"^{method} +\S+ +[\d,]+ +325 +\d+\.\d% ± \d+\.\d", output, re.MULTILINE)
    before, after = re.search(r"when it was trained: (\S+); loaded again in a new process: (\S+)", output).groups()
    assert before == after
    adapter = Path(re.search(r"The Mona adapter is in (\S+)", output).group(1))
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "preprocessor_config.json"} <= {
        path.name for path in adapter.iterdir()
    }


def test_unknown_size_is_refused():
    from mona_peft.finetuning.study.demo import run_demo

    with pytest.raises(ValueError, match=r"Unknown demo size 'huge'.*tiny"):
        run_demo("huge", Path("unused"))
