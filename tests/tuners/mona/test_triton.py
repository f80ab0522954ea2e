"""The switch for the Triton kernels, that they compile for GPUs, and their tests in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mona_peft import Mona
from mona_peft.blocks.layout import TokenLayout
from mona_peft.tuners.mona import use_triton
from mona_peft.tuners.mona.fast import Filters

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
HERE = Path(__file__).parent


@needs_triton
@pytest.mark.slow
def test_kernels_in_the_interpreter():
    """All of interpreted_triton.py."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted_triton.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


class CompilerOnly:
    """In place of Triton's driver: compiles for a GPU that need not be there."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # compiled kernels are cached by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


@pytest.fixture
def compiled(monkeypatch, tmp_path) -> list:
    """The kernels compiled where they would be launched; nothing runs, and no earlier result is taken."""
    from mona_peft.tuners.mona.triton import depthwise as triton_depthwise

    kernels: list = []
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton_depthwise, "fits", lambda z, kernel: True)
    for kernel in (triton_depthwise.filter_kernel, triton_depthwise.gradient_kernel):
        run = kernel.run
        monkeypatch.setattr(
            kernel, "run", lambda *args, run=run, warmup, **rest: kernels.append(run(*args, warmup=True, **rest))
        )
        monkeypatch.setattr(kernel, "device_caches", type(kernel.device_caches)(kernel.create_binder))
    return kernels


def compile_all(capability: int, z: torch.Tensor, size: int, layout: TokenLayout, bias: bool = True) -> None:
    from triton.runtime import driver

    from mona_peft.tuners.mona.triton import depthwise as triton_depthwise

    kernel, start = torch.zeros(z.shape[2], 1, size, size, dtype=z.dtype), torch.zeros(z.shape[2], dtype=z.dtype)
    driver.set_active(CompilerOnly(capability))
    try:
        triton_depthwise.depthwise(z, kernel, start if bias else None, layout)
        triton_depthwise.kernel_gradient(z, z, kernel, layout)
    finally:
        driver._active = None  # reset_active would look for a GPU


def resources(kernel, path: Path) -> dict[str, int]:
    """Bytes a thread keeps outside its registers, as the NVIDIA tool that comes with Triton reads them."""
    import triton

    path.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(STACK|LOCAL):(\d+)", text)}


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_gpus(capability, dtype, size, compiled, tmp_path):
    """To machine code, from the very calls that launch them: nothing spilt, accesses as wide as intended."""
    layout = TokenLayout(14, 14, 1)
    compile_all(capability, torch.zeros(2, 197, 64, dtype=dtype), size, layout)
    assert [kernel.metadata.name for kernel in compiled] == ["filter_kernel", "gradient_kernel"]
    loads = {"filter_kernel": size**2 + 1 + size + 1, "gradient_kernel": size + 1 + 2}
    for kernel in compiled:
        used = resources(kernel, tmp_path / "kernel.cubin")
        assert used["STACK"] == used["LOCAL"] == 0
        ptx = kernel.asm["ptx"]
        assert f"sm_{capability}" in ptx
        wide = re.findall(r"ld\.global\.v2\.b32" if dtype == torch.float32 else r"ld\.global\.b32", ptx)
        assert len(wide) == len(re.findall(r"ld\.global", ptx)) == loads[kernel.metadata.name]
        assert len(re.findall(r"fma\.rn\.f32", ptx)) == 2 * (size**2 + 1)
        assert not re.search(r"\b(atom|red)\.", ptx)  # sums in a fixed order
    if dtype == torch.bfloat16:
        assert "cvt.rn.bf16" in compiled[0].asm["ptx"]  # to the nearest, unlike the interpreter


@needs_triton
@pytest.mark.parametrize("shape", ["ones", "large"])
def test_kernels_compile_for_what_triton_specializes(shape, compiled):
    """Triton compiles integers of 1 as constants, and those beyond 32 bits as another type."""
    if shape == "ones":
        compile_all(80, torch.zeros(1, 1, 1), 1, TokenLayout(1, 1), bias=False)
    else:
        far = torch.empty(2**31 + 64, dtype=torch.bfloat16)  # memory that nothing touches takes none
        compile_all(80, far.as_strided((2, 6, 8), (2**31, 8, 1)), 3, TokenLayout(2, 2, 1, 1))
    assert len(compiled) == 2 and all(kernel.asm["cubin"] for kernel in compiled)


def test_without_an_adapter_the_switch_is_refused():
    with pytest.raises(ValueError, match="Linear has no Mona adapter"):
        use_triton(nn.Linear(2, 2))


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_switch_is_refused():
    mona = Mona(4, 2)
    with pytest.raises(RuntimeError, match="torch.cuda.is_available"):
        use_triton(mona)
    assert mona.filters is Mona.filters and use_triton(mona, enabled=False) is mona


@needs_triton
def test_an_old_triton_is_refused(monkeypatch):
    monkeypatch.setattr("triton.__version__", "3.2.0")
    with pytest.raises(ImportError, match="needs Triton 3.3.*3.2.0 is installed"):
        use_triton(Mona(4, 2))


def test_without_triton_the_package_works_and_the_switch_is_refused():
    code = """
import sys
sys.modules["triton"] = None
import torch
from mona_peft import Mona
from mona_peft.blocks.layout import TokenLayout
from mona_peft.tuners.mona import use_triton
mona = Mona(4, 2)
mona(torch.randn(1, 4, 4), TokenLayout(2, 2)).sum().backward()
try:
    use_triton(mona)
except ImportError as error:
    assert "use_triton needs Triton" in str(error) and "pip install triton" in str(error), error
    assert mona.filters is Mona.filters
else:
    raise SystemExit("use_triton accepted a missing Triton")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_triton
def test_on_a_cpu_the_plain_operations_run():
    """A model that was switched on a GPU and then moved."""
    from mona_peft.tuners.mona.triton import depthwise as kernels

    mona, layout = Mona(6, 4, init_weights=False), TokenLayout(3, 2, 1)
    x = torch.randn(2, 7, 6)
    wanted = mona.eval()(x, layout)
    mona.filters = Filters(kernels.depthwise, kernels.kernel_gradient)
    assert torch.equal(mona(x, layout), wanted)
