# Each target works alone, from nothing: the environment is made when it is missing or out of date.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)

DEMO ?= demo
BUNDLE := bundles/mr_to_ct_pix2pix
DEMO_RUN := $(abspath $(DEMO))/run
DEMO_MANIFEST := $(abspath $(DEMO))/cohort/manifest.csv
DEMO_OPTIONS ?= --channels 32 --patch_size "[128,128]" --batch_size 4 --learning_rate 0.0008 --epochs 14 --val_interval 7

.PHONY: help install demo test lint format slow bench bench-networks bench-training clean

help:
	@echo "make demo    environment, demo cohort, training, evaluation, report (about 5 minutes on 2 cores)"
	@echo "make test    environment, linters, test suite"
	@echo "make lint    ruff, import-linter, mypy"
	@echo "make slow    the tests that take longer"
	@echo "make bench   speed and memory, as a table (make bench-networks: of each network; make bench-training: of training"
	@echo "             steps and inference beside plain PyTorch, about 12 minutes on 2 idle cores)"

install: $(INSTALLED)

# torch comes first and alone: a package that pulled it in would take a build of its own choice.
$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "monai_synth needs Python 3.11 or newer; say make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@

demo: $(INSTALLED)
	rm -rf $(DEMO)/cohort $(DEMO)/run
	$(BIN)/monai-synth demo-cohort $(DEMO)/cohort --patients 12 --seed 0
	$(BIN)/monai-synth manifest check $(DEMO_MANIFEST)
	cd $(BUNDLE) && $(abspath $(BIN))/python -W ignore -m monai.bundle run training --config_file configs/train.json \
		--manifest $(DEMO_MANIFEST) --output_dir $(DEMO_RUN) $(DEMO_OPTIONS)
	cd $(BUNDLE) && $(abspath $(BIN))/python -W ignore -m monai.bundle run evaluating \
		--config_file "['configs/train.json','configs/evaluate.json']" \
		--manifest $(DEMO_MANIFEST) --output_dir $(DEMO_RUN) $(DEMO_OPTIONS)
	$(BIN)/monai-synth report $(DEMO_RUN)

# One thread a worker: two threads in each of two workers on two cores wait for one another most of the time.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --run-slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

bench-networks: $(INSTALLED)
	$(BIN)/python -W ignore -m benchmarks.networks

# Options: make bench-training OPTIONS="--methods pix2pix --compile"; all of them: OPTIONS=--help
bench-training: $(INSTALLED)
	$(BIN)/python -W ignore -m benchmarks.training $(OPTIONS)

clean:
	rm -rf $(DEMO)/cohort $(DEMO)/run build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
