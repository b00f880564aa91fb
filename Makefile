# make demo   the whole chain on digits and satellite tiles: runs/quickstart/{digits,tiles,report}.png
# make test   everything, offline, on a CPU
# make gpu    does this machine's GPU give the CPU's results, in its memory, without waiting?
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv

.PHONY: demo test gpu
demo: .venv/ready
	bash recipes/quickstart.sh

test: .venv/tests
	ruff format --check .
	ruff check .
	python -m pytest -q -n 2 --dist loadfile tests

# Where all that it needs is there, nothing is installed.
gpu:
	$(PYTHON) -c "import torch, torchvision, cv2, msgpack, sklearn, tifffile, matplotlib" \
		|| $(MAKE) .venv/tests
	$(PYTHON) tools/gpu_check.py

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/tests: .venv/ready tests/requirements.txt
	python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@
