# `make demo` and `make test` each do all their own set-up in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check architectures bench format clean
demo: $(READY)
	$(BIN)/boldreams demo --output demo

# A process for each core, up to four, each with one thread; `pytest` alone runs all in one process.
test: $(READY) check
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every architecture of timm and torchvision has layers: some minutes.
architectures: $(READY)
	$(BIN)/pytest -m architectures tests/features

# make bench BENCH="--weights alexnet.safetensors"
bench: $(READY)
	$(BIN)/python -m benchmarks $(BENCH)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Installed once, and again when the dependencies change. torch from the registry is the CUDA build: 5 GB.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache build *.egg-info
