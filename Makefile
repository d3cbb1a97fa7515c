# make demo       render, train, evaluate and report on the manuals of this repository (CPU, about five minutes)
# make alignment  three models with and without multi_granularity on pictures with text (CPU, some minutes)
# make test       run the tests
# make check      what .ci/run runs: lint, types, tests
#
# Everything happens in .venv, which is made on first use. The tests compile one small operator of DeepSpeed and need a
# C++ compiler for it (g++); ninja comes with the Python packages.

PYTHON ?= python3
# torch first and by itself: what torch brings along depends on the machine and on the index that pip is set to.
TORCH ?= torch==2.13.0
JOBS ?= 2
DEVICE_ENV := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo DS_ACCELERATOR=cpu)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXAMPLE := examples/polylens_qwen2_5_vl

.PHONY: all demo alignment test lint format types check generate clean
all: $(STAMP)

$(STAMP): pyproject.toml $(EXAMPLE)/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "polylens needs Python 3.11 or newer: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e ".[dev]" -e $(EXAMPLE)
	touch $@

# One thread: the model is too small to gain from more, and threads wait for each other on a busy machine.
demo: $(STAMP)
	OMP_NUM_THREADS=1 $(DEVICE_ENV) $(BIN)/python examples/demo/run_demo.py

alignment: export OMP_NUM_THREADS = 1
alignment: PICTURES = runs/alignment/pictures
alignment: $(STAMP)
	$(BIN)/polylens data synth subtitles --images examples/subtitles/backgrounds \
	    --sentences examples/subtitles/sentences.txt --count 120 --output $(PICTURES) \
	    --option size='[224, 224]' --option font_size='[0.1, 0.13]'
	$(BIN)/polylens data ocr --images $(PICTURES) --output runs/alignment/ocr.jsonl
	$(BIN)/polylens data convert $(PICTURES)/labels.jsonl --output $(PICTURES)/split --image-root $(PICTURES) \
	    --split train=0.85 test=0.15 --split-by answer
	$(DEVICE_ENV) $(BIN)/polylens benchmark examples/alignment.yaml

test: $(STAMP)
	@command -v $${CXX:-g++} >/dev/null || { echo "make test needs a C++ compiler: install g++"; exit 1; }
	$(BIN)/pytest -n $(JOBS) --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint types test

# Files that are written from the code; a test compares them.
generate: $(STAMP)
	$(BIN)/python -m polylens.config.generate

clean:
	rm -rf $(VENV) runs build dist
