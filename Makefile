# make train | make test | make test-peers | make demo | make bench | make lint; see README.md.
ifndef DEVICE
DEVICE := $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
endif
PYTHON ?= python3
REQUIREMENTS_cpu = requirements-cpu.txt
REQUIREMENTS_gpu = requirements.txt
REQUIREMENTS = $(REQUIREMENTS_$(DEVICE))
PY = .venv/bin/python
# A GPU build of JAX may be installed from before.
RUN = $(if $(filter cpu,$(DEVICE)),JAX_PLATFORMS=cpu) $(PY)

ifeq ($(REQUIREMENTS),)
$(error DEVICE=$(DEVICE): expected cpu or gpu)
endif

.PHONY: train demo test test-peers bench lint clean

train: .venv/installed-$(DEVICE)
	$(RUN) main.py --config=configs/signs.py --workdir=runs/signs

demo: .venv/installed-$(DEVICE)
	$(RUN) main.py --config=configs/rendered.py --workdir=runs/demo
	$(PY) -m datasets.rendered --label=2 --index=1 --variety=0.3 runs/demo/hand.png
	$(RUN) main.py --mode=predict --workdir=runs/demo runs/demo/hand.png

test: .venv/installed-dev
	JAX_PLATFORMS=cpu $(PY) -m pytest -n 2 --dist loadfile

test-peers: .venv-peers/installed
	JAX_PLATFORMS=cpu .venv-peers/bin/python -m pytest tests/peers

bench: .venv-bench/installed-$(DEVICE)
	.venv-bench/bin/python -m benchmarks.suite --device=$(DEVICE); status=$$?; \
	.venv-bench/bin/python -m benchmarks.table && exit $$status

lint: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

clean:
	rm -rf .venv .venv-bench .venv-peers

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/installed-$(DEVICE): $(REQUIREMENTS) requirements-common.txt | .venv/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS)
	touch $@

.venv-bench/installed-$(DEVICE): $(REQUIREMENTS) requirements-common.txt benchmarks/requirements.txt
	rm -rf .venv-bench
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check \
	    -r $(REQUIREMENTS) -r benchmarks/requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed-$(DEVICE)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv-peers/installed: requirements-peers.txt requirements-cpu.txt requirements-common.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-peers.txt
	touch $@
