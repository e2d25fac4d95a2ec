# Everything here sets itself up: Python 3.11 and make are enough.

PYTHON ?= python3.11
VENV   := .venv
MODEL  ?= tiny-llava
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
JOBS   ?= 2
# Neighbours share models that are costly to load, so each job gets a stretch of the tests.
PARALLEL := --numprocesses $(JOBS) --dist worksteal

# Tiny models are several times faster on one thread, and nothing may look for a network.
export OMP_NUM_THREADS := 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export MLFLOW_DISABLE_TELEMETRY := true
# uv does not read pip's own variable.
export UV_FIND_LINKS := $(PIP_FIND_LINKS)

.PHONY: demo test check check-all lint perf simulate train clean help

help:  ## Say what there is.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
		-c constraints.txt -e '.[demo]' --group dev
	touch $@

demo: $(READY)  ## Run a real stability experiment on the embedded model (minutes).
	$(BIN)/stabfw run examples/demo.yaml
	$(BIN)/stabfw run examples/bf16-floor.yaml

test: $(READY) lint  ## Lint, types, import layers and tests.
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

check-all: $(READY) lint  ## The same with the slow tests.
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(READY)  ## Style, types and import layers only.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

perf: $(READY)  ## Measure the framework's own cost as ratios.
	$(BIN)/python -m perf

simulate: $(READY)  ## Hold gates and intervals against drawn data whose truth is known (minutes).
	$(BIN)/python -m simulations

train: $(READY)  ## Train an embedded model anew: MODEL=tiny-llava (half an hour or more).
	$(BIN)/python -m stabfw_models.tiny.training --model $(MODEL) --seed 0 --out training/$(MODEL)

clean:  ## Remove what was built or computed here.
	rm -rf $(VENV) .stabfw runs mlflow.db mlartifacts
