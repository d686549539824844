# Each target installs by itself what it needs: Debian packages through apt, a virtual environment, the build.

SHELL := /bin/bash
BIN := .venv/bin
PACKAGES := gcc libc6-dev libengine-pkcs11-openssl libnss3-dev libnss3-tools libp11-kit-dev opensc openssl p11-kit \
            python3 python3-dev python3-venv softhsm2
CLIENTS := curl gnutls-bin golang-github-thalesignite-crypto11-dev golang-go nginx-light openjdk-17-jdk-headless \
           openssh-client stunnel4 util-linux xxd

# Half of the time of a test that kills a member is waiting: more of them fit on a core than one.
WORKERS ?= 3
EXAMPLES ?= 1000

.PHONY: help demo demo-failover test test-again check conformance bench soak build differential clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

demo: build ## an unmodified pkcs11-tool over three tokens, and the loss of one of them
	$(BIN)/python conformance/demo.py

demo-failover: build ## members are killed, hung and unplugged, live, while an application signs
	$(BIN)/python -m conformance.demo_failover

test: check build ## all checks, then all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-again: build ## only the tests that failed last time
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

check: .stamps/venv build ## ruff, its format, and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

conformance: build .stamps/clients ## real clients on plain SoftHSM and on the slot; ONLY="pkcs11-tool java" runs a part
	$(BIN)/python -m conformance $(ONLY)

bench: build .stamps/bench ## speed beside SoftHSM and p11-kit, slow members, pauses; BENCH="--part pauses" runs a part
	$(BIN)/python -m conformance.bench $(BENCH)

differential: build ## random calls on SoftHSM and on the virtual slot, compared; EXAMPLES=1000 sequences (some minutes)
	DIFFERENTIAL_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -s tests/differential

soak: build ## minutes of mixed load over members that are killed, hung, unplugged; SOAK="--seconds 600 --threads 16"
	$(BIN)/python -m conformance.soak $(SOAK)

build: .stamps/venv ## build/pyha-pkcs11.so and build/pyha-host
	@$(BIN)/python build_shim.py

clean: ## removes everything that was made here
	rm -rf build dist .venv .stamps .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# apt only where something is missing, sudo only where it is needed.
.stamps/packages: Makefile
	@mkdir -p .stamps
	@missing=; for package in $(PACKAGES); do \
	    dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing+=" $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	    command -v apt-get >/dev/null || { echo "Needed and not here:$$missing" >&2; exit 1; }; \
	    sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    $$sudo apt-get update -q && $$sudo apt-get install -q -y --no-install-recommends $$missing; \
	fi
	@touch $@

# Each by itself: a client that cannot be had is named in the table as not installed, and hinders no other.
.stamps/clients: Makefile .stamps/venv
	@missing=; for package in $(CLIENTS); do \
	    dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing+=" $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	    sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    $$sudo apt-get update -q; \
	    for package in $$missing; do \
	        $$sudo apt-get install -q -y --no-install-recommends $$package || \
	            echo "$$package could not be installed" >&2; \
	    done; \
	fi
	@$(BIN)/python -m pip install -q --disable-pip-version-check PyKCS11 || echo "PyKCS11 could not be installed" >&2
	@command -v npm >/dev/null || \
	    { sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; $$sudo apt-get install -q -y --no-install-recommends nodejs npm; } || true
	@npm install --prefix build/conformance/node --no-audit --no-fund --silent pkcs11js graphene-pk11 || \
	    echo "Node's clients could not be installed" >&2
	@touch $@

# The first Python that can be embedded: 3.11 or newer, with a shared libpython and its headers. Or name one: make PYTHON=...
define EMBEDDABLE
import os, sys, sysconfig
value = lambda name: str(sysconfig.get_config_var(name) or '')
library = os.path.join(value('LIBDIR'), value('INSTSONAME'))
header = os.path.join(sysconfig.get_paths()['include'], 'Python.h')
good = sys.version_info >= (3, 11) and '.so' in library and os.path.exists(library) and os.path.exists(header)
sys.exit(not good)
endef
export EMBEDDABLE

.stamps/venv: pyproject.toml .stamps/packages
	@for python in $(PYTHON) python3 /usr/bin/python3; do \
	    if $$python -c "$$EMBEDDABLE" 2>/dev/null; then break; fi; python=; \
	done; \
	test -n "$$python" || { echo "No Python 3.11 or newer with a shared libpython and its headers was found." >&2; exit 1; }; \
	test -x $(BIN)/python || $$python -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

.stamps/bench: pyproject.toml .stamps/venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[bench]'
	@touch $@
