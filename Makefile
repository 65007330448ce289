# What people call: demo, test, bench, lint, build. Everything happens in a virtual environment of its own (.venv).

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find sentinel -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
TESTS ?= tests
LINT_PATHS := sentinel tests setup.py
SECONDS := 60

.PHONY: demo test bench lint build fuzz lock test-lowest clean machine servers

demo: $(VENV)/.built
	@$(BIN)/python tests/demo/demo.py

test: $(if $(filter tests tests/ tests/e2e%,$(TESTS)),servers) lint
	@$(BIN)/python -m pytest $(if $(filter tests tests/,$(TESTS)),-n auto --dist loadfile) $(TESTS)

lint: $(VENV)/.built
	@$(BIN)/ruff check $(LINT_PATHS)
	@$(BIN)/ruff format --check $(LINT_PATHS)
	@$(BIN)/mypy --strict sentinel

bench: $(VENV)/.built
	@$(BIN)/python tests/bench/bench.py
	@$(BIN)/python tests/bench/startup.py
	@$(BIN)/python tests/bench/replies.py

# Hostile bytes through the compiled parts under clang's sanitizers: make fuzz SECONDS=600. Needs network once, for clang and atheris.
fuzz: $(VENV)/.built
	@command -v clang >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || { echo "installing clang"; \
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends clang >/dev/null; }
	@nice $(BIN)/python tests/fuzz/fuzz.py --seconds $(SECONDS)

build: $(VENV)/.built
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist

# The lock file for every Python and platform that the project supports. Needs network; run it when dependencies change.
lock: $(VENV)/.built
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --no-header --no-emit-index-url --group dev --all-extras --no-emit-package pyarrow -o requirements.lock pyproject.toml

# The tests again with the oldest versions that pyproject.toml allows, also of what builds it, in a copy of the checkout. Needs
# network, and Python 3.11: many of the oldest versions have no wheels for newer ones. What was installed stands in build/lowest.txt.
test-lowest: machine servers
	@$(PYTHON) -m venv --clear build/lowest
	@build/lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	@build/lowest/bin/uv pip compile --quiet --python build/lowest/bin/python --resolution lowest-direct --no-header --no-emit-index-url \
		--group dev --all-extras -o build/lowest.txt pyproject.toml
	@build/lowest/bin/python -m pip install --quiet --disable-pip-version-check -r build/lowest.txt
	@mkdir build/lowest/checkout && cp -r $(filter-out build dist,$(wildcard *)) build/lowest/checkout
	@find build/lowest/checkout -name '*.so' -delete -o -name '_*.c' -delete
	@cd build/lowest/checkout && ../bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@cd build/lowest/checkout && SENTINEL_SHARED="$${SENTINEL_SHARED:-$(abspath ../shared)}" ../bin/python -m pytest $(TESTS)

# Python 3.11 with venv, a C compiler and Python's headers: through apt as root on Debian and Ubuntu, else in words.
machine:
	@missing=""; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "sentinel needs Python 3.11 or newer as $(PYTHON); set PYTHON=/path/to/python3.11" >&2; \
		     command -v $(PYTHON) >/dev/null && exit 1; missing="python3 python3-venv python3-dev"; }; \
	[ -n "$$missing" ] || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	command -v gcc >/dev/null || command -v cc >/dev/null || command -v clang >/dev/null || missing="$$missing gcc libc6-dev"; \
	[ -z "$$(command -v $(PYTHON))" ] || $(PYTHON) -c \
		'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' \
		|| missing="$$missing python3-dev"; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing$$missing"; apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; \
		else \
			echo "missing:$$missing; on Debian and Ubuntu: sudo apt install$$missing" >&2; exit 1; \
		fi; \
	fi

# Mail servers and databases for tests/e2e, through apt as root on Debian and Ubuntu. Where that cannot be, their tests are skipped.
servers:
	@tests/servers/install.sh

$(VENV)/.installed: requirements.lock | machine
	@echo "creating $(VENV) (once)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

$(VENV)/.built: $(VENV)/.installed pyproject.toml setup.py $(SOURCES)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find sentinel -name '*.so' -delete -o -name '_*.c' -delete
