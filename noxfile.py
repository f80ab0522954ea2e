"""The core of the tests on the oldest and the newest releases that are supported.

`nox -s oldest` and `nox -s newest`; each makes an environment of its own, of several gigabytes.
"""

import nox

nox.options.sessions = ["oldest", "newest"]
nox.options.reuse_existing_virtualenvs = True

OLDEST = [
    "torch==2.6.0",
    "torchvision==0.21.0",
    "transformers==5.0.0",
    "peft==0.21.0",
    "accelerate==1.10.0",
    "numpy<2.3",
]
NEWEST = ["torch", "torchvision", "transformers", "peft", "accelerate"]
TOOLS = ["pytest>=8.3", "pytest-timeout>=2.3", "timm>=1.0.31", "scipy>=1.11", "hypothesis>=6.100", "safetensors>=0.4"]
CORE = [
    "tests/families",
    "tests/tuners/mona/test_config.py",
    "tests/tuners/mona/test_exact.py",
    "tests/tuners/mona/test_lifecycle.py",
    "tests/peft_conformance",
]


def run_core(session: nox.Session, packages: list[str]) -> None:
    """Install `packages` and the package without its extras, and run the core of the tests."""
    session.install(*packages, *TOOLS)
    session.install("--no-deps", "-e", ".")
    session.run("python", "-m", "pytest", "-q", "-m", "not slow and not campaign", *(session.posargs or CORE))


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The oldest releases of torch, transformers and PEFT."""
    run_core(session, OLDEST)


@nox.session(python="3.11")
def newest(session: nox.Session) -> None:
    """The newest releases."""
    run_core(session, NEWEST)
