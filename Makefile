# make demo: a server generates pictures of the examples.  make test: lint, types and the tests.  make test-long: tests
# of rare cases, which take minutes.  make test-fast: those of the inner loop.  make fuzz, sbom, audit: see
# docs/security.md.  All set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-fast test-long faults fuzz pictures sbom audit lint clean
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

# TARGETS: some of them; COUNT: changed inputs of each.
COUNT ?= 20000
fuzz: .venv/installed
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz $(TARGETS) --count $(COUNT)

# Those of README and docs/ that show what the bundled models generate, for a look at their difference.
pictures: .venv/installed
	PYTHONPATH=tests $(BIN)/python tests/pictures.py

# Of what is in .venv. The tools have an environment of their own there, which is none of its packages.
sbom: .venv/audit-tools/bin/pip-audit
	@mkdir -p out
	.venv/audit-tools/bin/cyclonedx-py environment .venv --pyproject pyproject.toml --output-reproducible \
	  --output-file out/sbom.json
	@echo "out/sbom.json: CycloneDX, of $$(grep -c '"purl"' out/sbom.json) packages"

# This asks the package index's database of advisories, over the network. A package that it cannot ask for is an error.
audit: .venv/audit-tools/bin/pip-audit
	$(BIN)/pip freeze --exclude-editable > .venv/frozen.txt
	.venv/audit-tools/bin/pip-audit --strict --disable-pip --no-deps --requirement .venv/frozen.txt

.venv/audit-tools/bin/pip-audit: .venv/installed
	$(BIN)/python -m venv .venv/audit-tools
	.venv/audit-tools/bin/pip install --quiet --disable-pip-version-check -c constraints.txt cyclonedx-bom pip-audit

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
