# Every target works from a clean clone; it needs git, make and Python >= 3.11 with venv, and PyPI once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GGUF ?=
# Tests wait more than they compute; -n0 in PYTEST_ARGS runs them one after the other, as a debugger needs it.
SIDE_BY_SIDE := -n 3 --dist worksteal

.PHONY: demo test soak check fix bench lock clean tuf-conformance
.DELETE_ON_ERROR:

# Two stamps: the demo needs less than the tests do.
$(VENV)/.demo: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[test]'
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/aibrother-node demo $(if $(GGUF),--gguf '$(GGUF)')

test: $(VENV)/.test
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

soak: $(VENV)/.test
	SOAK_TESTS=1 $(BIN)/python -m pytest --timeout 3600 $(PYTEST_ARGS)

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy node replicator tools tests bench
	$(BIN)/lint-imports --no-logo

fix: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test
	$(BIN)/python -m bench.run $(BENCH_ARGS)

# Exact versions of everything, for all supported Pythons; run it when pyproject.toml changes.
# DIR is a checkout of github.com/theupdateframework/tuf-conformance, which pins other versions than ours and so gets a venv
# of its own. It needs faketime (Debian: apt-get install faketime).
tuf-conformance: $(VENV)/.test
	test -f '$(DIR)/tuf_conformance/test_basic.py' || { echo 'say DIR=<checkout of tuf-conformance>' >&2; exit 2; }
	test -x '$(DIR)/env/bin/pytest' || { $(PYTHON) -m venv '$(DIR)/env' && \
		'$(DIR)/env/bin/python' -m pip install --quiet --disable-pip-version-check '$(DIR)'; }
	cd '$(DIR)' && PATH='$(CURDIR)/$(BIN)':"$$PATH" env/bin/pytest tuf_conformance \
		--entrypoint='$(CURDIR)/tests/tuf_conformance.py'

lock: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .demo .soak dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
