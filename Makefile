# `make demo` runs the main job, `make test` the tests; both set up a virtual environment first if there is none.
TORCH ?= torch==2.13.0
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
WORKERS ?= 2

.PHONY: demo test docs release-check test-studio test-export test-oldest test-newest campaign lint clean

# torch first, with its pin, so that nothing that merely asks for a range of torch brings another build
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev]"
	touch $@

demo: $(INSTALLED)
	$(BIN)/ssprompt-hf demo --output_dir out/demo

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The documentation as a site, in site/; broken links and names are errors. docs/outside_pages.py adds pages from elsewhere
docs: $(INSTALLED)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# What would be released: built, checked, installed into an empty environment, and tried there, away from the sources
release-check:
	rm -rf dist && $(PYTHON) -m venv --clear .venv-release
	.venv-release/bin/python -m pip install -q --disable-pip-version-check build twine
	.venv-release/bin/python -m build --outdir dist
	.venv-release/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv --clear .venv-release
	.venv-release/bin/python -m pip install -q --disable-pip-version-check "$(TORCH)" dist/*.whl
	.venv-release/bin/python -I -c "from pathlib import Path; import ssprompt_hf as package; \
		assert Path(package.__file__).with_name('py.typed').exists(); \
		version = package.__version__; print('version', version); \
		assert f'## {version}' in Path('CHANGELOG.md').read_text() or 'dev' in version, 'CHANGELOG.md lacks it'"
	cd dist && ../.venv-release/bin/ssprompt-hf demo --output_dir demo --shots 4 --max_steps 20 --max_eval_images 4

# The page of the studio and of the Space, which `make test` skips: with gradio, and in a browser, installed if missing
test-studio: $(INSTALLED)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[studio]" playwright
	command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ apt-get update -q && apt-get install -y -q --no-install-recommends chromium; }
	$(BIN)/python -m pytest tests/studio/test_page.py tests/studio/test_in_a_browser.py tests/test_examples.py

# Exported models in onnxruntime, which `make test` skips
test-export: $(INSTALLED)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[export]"
	$(BIN)/python -m pytest tests/exporters

# The oldest versions that pyproject.toml declares, and the newest that are released, each in an environment of its own; of
# TESTS alone, if given: make test-oldest TESTS=tests/tuners
TESTS ?=
test-oldest: RESOLUTION = lowest-direct
test-newest: RESOLUTION = highest
test-oldest test-newest: test-%:
	test -x .venv-$*/bin/uv || { $(PYTHON) -m venv .venv-$* && .venv-$*/bin/python -m pip install -q uv; }
	.venv-$*/bin/uv pip install -q --python .venv-$*/bin/python --upgrade --resolution $(RESOLUTION) -e ".[dev]"
	.venv-$*/bin/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

# Random faults, for MINUTES, from SEED: what must neither crash nor hang nor be taken for good. See the script.
MINUTES ?= 10
SEED ?= 0
campaign: $(INSTALLED)
	$(BIN)/python tests/campaign/run.py --minutes $(MINUTES) --seed $(SEED)

clean:
	rm -rf $(VENV) .venv-* out build dist site *.egg-info
