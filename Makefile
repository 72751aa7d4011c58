# Two commands do all the set-up: `make demo` runs the main job, `make check` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo check long format bench chaos clean

demo: $(READY)  ## three local nodes, one real small model, the same tokens as on one machine
	$(BIN)/shardline demo

check: $(READY)  ## what a change must pass: form, floors, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright
	$(BIN)/pytest -q -m "not long"

long: $(READY)  ## the tests that take longest; CI runs them too
	$(BIN)/pytest -q -m long

format: $(READY)  ## put the source into the house's shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)  ## measure here and write benchmarks/reports
	$(BIN)/python -m benchmarks.hop
	$(BIN)/python -m benchmarks.span_load

chaos: $(READY)  ## ten minutes of faults under running generations; as root also those of links
	$(BIN)/shardline bench chaos --minutes 10 --seed 1

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable . --group dev
	touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
