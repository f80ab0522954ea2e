"""The core of the tests on the oldest and the newest releases that are supported.

`nox -s oldest` and `nox -s newest`; each makes an environment of its own, of several gigabytes.
"""

import nox

nox.options.sessions = ["oldest", "newest"]
nox.options.reuse_existing_virtualenvs = True

OLDEST = [
    "torch==2.6.0",
    "torchvision==0.21.0",
    "transformers==4.57.1",
    "peft==0.18.0",
    "accelerate==1.10.0",
    "numpy<2.3",
]
NEWEST = ["torch", "torchvision", "transformers!=5.24.*", "peft", "accelerate"]  # see pyproject.toml
TOOLS = ["pytest>=8.3", "pytest-timeout>=2.3", "timm>=1.0.31", "scipy>=1.11", "hypothesis>=6.100", "safetensors>=0.4"]
CORE = [
    "tests/families",
    "tests/tuners/test_mona_config.py",
    "tests/tuners/test_mona_exact.py",
    "tests/tuners/test_mona_lifecycle.py",
]


# Tests that name modules as transformers 5 does, or fields of configurations as later releases of PEFT fill them, and
# that of the committed table, which is of the newest releases.
NAMES_OF_LATER_RELEASES = (
    "block_run_without_its_patch_embedding",
    "grid_that_cannot_be_known",
    "entry_called_outside_its_block",
    "tokens_that_do_not_fit_the_grid",
    "wrong_targets_leave_the_model_as_it_was",
    "config_of_the_user_is_unchanged",
    "swin_blocks_agree_with_their_parts",
    "vit_blocks_agree_with_their_parts",
    "table_says_what_the_tests_found",
)


def run_core(session: nox.Session, packages: list[str], *options: str) -> None:
    """Install `packages` and the package without its extras, and run the core of the tests."""
    session.install(*packages, *TOOLS)
    session.install("--no-deps", "-e", ".")
    session.run("python", "-m", "pytest", "-q", "-m", "not slow", *options, *(session.posargs or CORE))


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The oldest releases of torch, transformers and PEFT."""
    run_core(session, OLDEST, "-k", "not (" + " or ".join(NAMES_OF_LATER_RELEASES) + ")")


@nox.session(python="3.11")
def newest(session: nox.Session) -> None:
    """The newest releases."""
    run_core(session, NEWEST)
