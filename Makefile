# What a visitor can do here. Every target sets up .venv by itself on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIPS ?=
TEST ?=

.PHONY: demo test test-oldest fuzz lint docs bench clean

demo: $(VENV)/.installed  ## score a small park of machines, or CLIPS=<normal wavs> TEST=<new wavs>
	$(BIN)/python -m skanopatch demo $(if $(CLIPS),--clips "$(CLIPS)") $(if $(TEST),--test "$(TEST)")

test: $(VENV)/.installed-test  ## run the test suite; SLOW=1 runs the slow tests too
	$(BIN)/python -m pytest -n auto $(if $(SLOW),,-m "not slow")

test-oldest: .venv-oldest/.installed  ## run the quick tests with the oldest versions that pyproject.toml admits
	.venv-oldest/bin/python -m pytest -m "not slow" -o filterwarnings=

fuzz: $(VENV)/.installed-test  ## read 20,000 damaged recordings, 2,000 model files, ONNX files and others
	cd tests && $(CURDIR)/$(BIN)/python -m fuzz.runner audio 20000
	cd tests && $(CURDIR)/$(BIN)/python -m fuzz.runner model 2000
	cd tests && $(CURDIR)/$(BIN)/python -m fuzz.runner network 2000
	cd tests && $(CURDIR)/$(BIN)/python -m fuzz.runner onnx 2000
	cd tests && $(CURDIR)/$(BIN)/python -m fuzz.runner table 2000

lint: $(VENV)/.installed-lint  ## format check, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs  ## build the documentation into docs/_build/html, warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.installed-test  ## time the hot paths against their peers
	$(BIN)/python benchmarks/bench_mel.py
	$(BIN)/python benchmarks/bench_knn.py
	$(BIN)/python benchmarks/bench_finetuning.py

clean:
	rm -rf $(VENV) .venv-oldest docs/_build docs/auto_examples docs/generated

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing the package and torch into $(VENV): some minutes, once."
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-%: pyproject.toml | $(VENV)/.installed
	$(BIN)/pip install --quiet --editable ".[$*]"
	touch $@

.venv-oldest/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python \
		--resolution lowest-direct --editable ".[test,microphone,mqtt,onnx,smote]"
	touch $@
