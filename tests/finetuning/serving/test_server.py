"""The example of the page on serving runs as it stands, and answers what the router predicts."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

import mona_peft
from tests.finetuning.serving.adapters import save_adapter
from tests.finetuning.tasks.tiny_classifier import write_classifier

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(port, adapter, image):
    body = json.dumps({"adapter": adapter, "image": base64.b64encode(image).decode()}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=120).read())


def await_server(process, port):
    for _ in range(200):
        assert process.poll() is None
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
        except (URLError, OSError):
            time.sleep(1)
    raise AssertionError("the server did not start")


@pytest.mark.slow
def test_the_server_of_the_page_gives_each_request_its_adapter(tmp_path):
    write_classifier(tmp_path / "base")
    save_adapter(tmp_path / "base", tmp_path / "flowers", "mona", 2)
    save_adapter(tmp_path / "base", tmp_path / "pets", "mona", 3, 1)
    (block,) = [each for each in PAGE.read_text().split("```python\n") if "import litserve" in each]
    port = free_port()
    code = block.partition("```")[0].replace("port=8000", f"port={port}")
    assert str(port) in code
    (tmp_path / "serve.py").write_text(code)
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    content = (tmp_path / "noise.png").read_bytes()
    source = str(Path(mona_peft.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "serve.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": source}, start_new_session=True
    )
    try:
        await_server(process, port)
        asked = ["flowers", "pets", "pets", "flowers", "birds"]
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda name: ask(port, name, content), asked))
            broken = ask(port, "pets", content[:200])
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
    router = mona_peft.AdapterRouter({name: tmp_path / name for name in ("flowers", "pets")})
    for name, answer in list(zip(asked, answers, strict=True))[:4]:
        expected = router.predict([Image.fromarray(noise)], [name])[0]
        assert [each["label"] for each in answer["labels"]] == [each["label"] for each in expected]
        scores = [each["score"] for each in expected]
        # rows share a pass, whose matrix products may be summed in another order
        assert [each["score"] for each in answer["labels"]] == pytest.approx(scores, abs=1e-4)
    assert answers[4] == {"error": "ValueError: There is no adapter 'birds'."}
    assert "error" in broken and "labels" not in broken
