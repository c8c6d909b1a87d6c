# Two commands do everything, set-up included: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
CLIENT := .venv-conformance/.installed
ZOO := .venv/.zoo

.PHONY: help install conformance demo test check zoo lock clean
help:
	@echo "make install set up .venv"
	@echo "make demo    set up, then run the whole life of a model (KEEP=1 leaves the service running)"
	@echo "make test    set up, then check floors, types, style and budgets, and run the tests"
	@echo "make check   the same without the tests"
	@echo "make zoo     set up, then convert every kind of model and write docs/zoo.md (ONLY=\"resnet-18 bert\" runs these)"
	@echo "make lock    write the newest versions that fit into constraints.txt"
	@echo "make clean   remove .venv and what the demo left"

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Setting up .venv from constraints.txt: about 2.2 GB, mostly PyTorch, OpenVINO and the boosters; once."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

install: $(INSTALLED)

# Triton's own client needs older versions of what modelkeep needs, so it has an environment of its own.
$(CLIENT): tests/conformance/requirements.txt
	$(PYTHON) -m venv .venv-conformance
	.venv-conformance/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

conformance: $(CLIENT)

demo: $(INSTALLED)
	@$(BIN)/python examples/digits/demo.py $(if $(KEEP),--keep)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/budgets.py

test: check $(CLIENT)
	$(BIN)/python -m pytest

$(ZOO): $(INSTALLED) zoo/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement zoo/requirements.txt
	@touch $@

zoo: $(ZOO)
	@$(BIN)/python -m zoo $(foreach row,$(ONLY),--only $(row))

lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet 'torch==2.13.0' '.[all,dev]'
	( echo "# The exact versions that make uses. To renew: make lock"; \
	  .venv-lock/bin/python -m pip freeze --exclude modelkeep | sed 's/+cpu$$//' ) > constraints.txt
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-lock .venv-conformance build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
