# Everything starts from a machine with Python 3.11+ and make; targets set up what they need.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PARTS  := model export runtime quantize evals
TEXT   ?=
DEMO   ?= demo
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help install types lint format test demo bench bench-peers build clean

help:
	@echo "make demo              train, export, quantize, run and measure a small GPT-2 (TEXT=file or folder)"
	@echo "make test              unit, parity and end-to-end tests"
	@echo "make lint              ruff, formatter and type checker"
	@echo "make format            let ruff rewrite the code"
	@echo "make bench             every variant of GPT-2 small beside transformers in PyTorch"
	@echo "make bench-peers       and beside llama.cpp, CTranslate2, Optimum, onnxruntime-genai"
	@echo "make build             sdist and wheel in dist/"
	@echo "make install           only the environment, in $(VENV)"
	@echo "make clean             remove what was built"

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("gpt2edge needs Python 3.11 or newer, this is " \
		+ sys.version.split()[0] + "; choose one: make PYTHON=python3.12 ..." \
		if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# mypy sees the installed layout through links, as core/ is not called gpt2edge.
types:
	@rm -rf build/types && mkdir -p build/types/gpt2edge
	@ln -s "$(CURDIR)"/core/* build/types/gpt2edge/
	@for part in $(PARTS); do ln -s "$(CURDIR)/$$part" build/types/gpt2edge/$$part; done

lint: $(READY) types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

demo: $(READY)
	$(BIN)/python benchmarks/demo.py --output "$(DEMO)" $(if $(TEXT),--text "$(TEXT)")

bench: $(READY)
	$(BIN)/python benchmarks/bench_peers.py --only gpt2edge,transformers --threads 2 --output build/bench $(ARGS)

# ARGS="--quick", "--model gpt2-xl", ...; compiling llama.cpp takes minutes the first time.
bench-peers: $(READY)
	$(BIN)/python benchmarks/bench_peers.py $(ARGS)

# A module deleted after an earlier build would otherwise come back from build/.
build: $(READY)
	rm -rf build dist *.egg-info
	$(BIN)/python -m build

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
