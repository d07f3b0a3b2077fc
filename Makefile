# Pointsman. `make serve` and `make test` do all the set-up themselves.
#
#   make serve [ARGS="--port 9000"]   environment, models, engine, experts, gateway
#   make test                         everything, training included
#   make check                        ruff, mypy strict, import-linter
#   make acceptance                   140 held-out questions, with the openai SDK
#   make experts                      rebuild the four experts from their data (about an hour on two cores)
#
#   make train-env [TRAIN=cuda]       LlamaFactory's environment, by itself
#
# GPU=cuda or GPU=rocm takes the engine's wheel for that GPU; the default is the CPU. TRAIN=cpu, cuda or rocm takes that
# build of torch for training, from then on; the default is the package index's own, which runs on NVIDIA GPUs and CPUs.

PYTHON ?= python3
VENV   ?= .venv
GPU    ?= cpu
TRAIN  ?=
ARGS   ?=

BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
TORCH := torch==2.13.0
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
ENGINE_INDEX_cuda := https://xorbitsai.github.io/xllamacpp/whl/cu128
ENGINE_INDEX_rocm := https://xorbitsai.github.io/xllamacpp/whl/rocm-7.2.4
RECIPE  := configs/recipes/smollm2.yaml

.PHONY: serve test check format experts acceptance train-env env dev-env pull clean

serve: env
	@$(BIN)/pointsman serve $(ARGS)

test: check train-env
	$(BIN)/python -m pytest $(ARGS)

check: dev-env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev-env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

experts: train-env
	$(BIN)/pointsman pipeline $(RECIPE)

# The held-out questions of benchmarks/data/acceptance.jsonl, through a gateway of its own, with the openai SDK.
acceptance: dev-env
	$(BIN)/python benchmarks/serve_acceptance.py $(ARGS)

pull: env
	$(BIN)/pointsman pull

# LlamaFactory in an environment of its own, in the user's cache: a second clone reuses it.
train-env: env
	@$(BIN)/python -m training.environment $(if $(TRAIN),--variant $(TRAIN))

env: $(VENV)/.env-$(GPU)
dev-env: $(VENV)/.dev

# The CPU build of torch first: it only exports the encoder, once, and a plain `pip install torch` takes gigabytes of
# CUDA libraries. Where PyTorch's own index cannot be reached, whatever pip finds has to do.
$(VENV)/.env-$(GPU): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Pointsman needs Python 3.11 or newer; set PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import torch' 2>/dev/null \
	  || $(PIP) install --quiet --retries 0 --timeout 20 --index-url $(TORCH_CPU_INDEX) '$(TORCH)' \
	  || { echo 'PyTorch index not reachable: taking torch from the default index, perhaps with CUDA'; \
	       $(PIP) install --quiet '$(TORCH)'; }
	@echo 'Installing the gateway into $(VENV)'
	@$(PIP) install --quiet -e .
ifneq ($(GPU),cpu)
	@$(PIP) install --quiet --force-reinstall --no-deps --index-url $(ENGINE_INDEX_$(GPU)) xllamacpp
endif
	@touch $@

$(VENV)/.dev: $(VENV)/.env-$(GPU)
	@$(PIP) install --quiet -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
