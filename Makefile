# Two commands do everything: `make demo` and `make test`. Both create the environment in .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The versions the tests ran with; TESTED="torch torchvision transformers" takes the newest ones.
TESTED ?= torch==2.14.1 torchvision==0.29.1 transformers==5.23.0 peft==0.21.2
# "dev,docs,quantization" adds the tests of quantised base models.
EXTRAS ?= dev,docs
DEMO_SIZE ?= full
DEMO_OUTPUT ?= outputs/demo
DEVICE ?= cuda
WORKERS ?= 2
KILLS ?= 200
N ?= 10000

.PHONY: help env demo demo-dense benchmark-gpu backbones exports notebooks docs versions test test-slow conformance recipes hostile faults quality style clean

help:  ## List the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

env: $(VENV)/.installed  ## Create the environment

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TESTED)
	$(BIN)/python -m pip install --quiet -e ".[$(EXTRAS)]"
	touch $@

demo: env  ## Adapt a small Swin to new digits by three methods, print the results, save the adapter
	$(BIN)/python scripts/train_classification.py --demo_size $(DEMO_SIZE) --demo_dir $(DEMO_OUTPUT)

demo-dense: env  ## Segmentation, detection and instance segmentation on composed scenes, by three methods each
	$(BIN)/python scripts/train_semantic_segmentation.py --demo_size $(DEMO_SIZE) --demo_dir $(DEMO_OUTPUT)-dense
	$(BIN)/python scripts/train_detection.py --demo_size $(DEMO_SIZE) --demo_dir $(DEMO_OUTPUT)-dense
	$(BIN)/python scripts/train_instance_segmentation.py --demo_size $(DEMO_SIZE) --demo_dir $(DEMO_OUTPUT)-dense

benchmark-gpu: env  ## Measure steps, memory and launches on a GPU, ten minutes, and put them into the page
	$(BIN)/python scripts/benchmark_gpu.py --device $(DEVICE)
	$(BIN)/python scripts/fill_tables.py docs/performance.md

backbones: env  ## Run the matrix of backbones and write its table into docs/ and the README
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not campaign" tests/families
	$(BIN)/python -m tests.families.table --write

exports: env  ## Export every backbone of the matrix and write the table into docs/export.md (an hour or more)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.finetuning.exporting.sweep
	$(BIN)/python -m tests.finetuning.exporting.sweep --write

notebooks: env  ## Run the notebooks and store their outputs (half an hour)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.support.notebooks

docs: env  ## Build the site into site/, with every warning as an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

versions: env  ## Run the core of the tests on the oldest and the newest supported releases (several gigabytes)
	$(BIN)/nox

test: env  ## Run the tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not campaign"
	$(BIN)/python -m tests.families.table  # the written table of backbones is what the run found

test-slow: env  ## Run the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "slow and not campaign"

conformance: env  ## Hold every guarantee of PEFT's life cycle for every tuner on every model, and walk 500 steps
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/peft_conformance

recipes: env  ## Launch every recipe with three methods, small, the benchmarks of the pages and all that is measured on a GPU
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m campaign tests/finetuning/test_recipe_runs.py tests/finetuning/costs tests/test_docs.py

hostile: env  ## Run N seeded hostile cases: repositories, checkpoints, images, data, settings
	HOSTILE_CASES=$(N) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow tests/hostile

faults: env  ## Kill runs and take their disk and processes away; writes docs/reliability.md (about an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.finetuning.faults.campaign --kills $(KILLS) --report docs/reliability.md

quality: env  ## Check lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: env  ## Mend lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment and what the demo wrote
	rm -rf $(VENV) outputs .pytest_cache .mypy_cache .ruff_cache
