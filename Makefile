# make demo: a server generates pictures of the examples.  make test: lint, types and the tests.  make test-long: tests
# of rare cases, which take minutes.  make test-fast: those of the inner loop.  All set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-fast test-long faults lint clean
demo: .venv/installed
	$(BIN)/python examples/demo.py

# Three files of tests at a time, a thread each: torch's own threads get in each other's way, and many tests wait.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile

test-fast: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-long: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m long

# What happens to real servers and clients: killed, cut off, out of room. Prints counts; again with FAULTS="--seed N".
faults: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults $(FAULTS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || \
	  { echo "this needs Python 3.10, 3.11 or 3.12; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "installing into .venv (torch is large: some minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv demo_out out
