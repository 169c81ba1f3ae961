# Everything a person does here, one word each. Needs Python 3.11 to 3.13 and make, nothing else.

PYTHON ?= $(or $(shell for each in python3.11 python3.12 python3.13; do \
  $$each -c "" 2>/dev/null && echo $$each && break; done),python3.11)
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
DCLINT := docker/node_modules/.bin/dclint
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' service/__init__.py)
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes

.PHONY: run test check lint fix measure bench bench-write bench-train soak openapi docs screenshots demo-model client-sync image image-lint lock

run: $(VENV)/.run  ## serve the bundled model on 127.0.0.1:$(PORT), and train
	CAROUSEL_PORT=$(PORT) $(BIN)/python -m service serve --workers 1

test: $(VENV)/.dev  ## the tests, but for the slow ones
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not soak and not slow"

check: lint  ## what CI runs: the linters and every test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not soak"

lint: $(VENV)/.dev  ## style, types, import contracts, spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell service clients tests bench tools docs .github *.md

fix: $(VENV)/.dev  ## let ruff correct what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

measure: $(VENV)/.dev  ## the code's shape as a table; BEFORE=<commit> adds a column, CHANGES="name=range …" rows
	$(BIN)/python -m tools.measure $(if $(BEFORE),--rev $(BEFORE)) \
	  $(CHANGES_BEFORE:%=--change-before %) $(CHANGES:%=--change %)

bench: $(VENV)/.dev  ## speed against the article's loop, about 7 minutes; PARTS=wild: the loops of tutorials; PARTS=inside: inspections
	$(BIN)/python -m bench $(PARTS)

bench-write: $(VENV)/.dev  ## the same, and write bench/results and the README's tables
	$(BIN)/python -m bench --write $(PARTS)

bench-train: $(VENV)/.dev  ## speed of training against Keras and PyTorch, which you install: pip install torch==2.13.0
	$(BIN)/python -m bench training

openapi: $(VENV)/.run  ## write docs/reference/openapi.json again, which a test compares
	$(BIN)/python -m service openapi > docs/reference/openapi.json

soak: $(VENV)/.dev  ## the long tests; TESTS=tests/fleet: those of one folder
	$(BIN)/python -m pytest -m soak $(TESTS)

docs: $(VENV)/.dev  ## write the list of modules in docs/architecture.md again, which a test compares
	$(BIN)/python -m tools.packages

screenshots: $(VENV)/.dev  ## take the pictures of the page in docs/images again; needs Chromium
	$(BIN)/python -m tools.screenshots

demo-model: $(VENV)/.dev  ## train the bundled model again
	$(BIN)/python -m service.training.demo

client-sync: $(VENV)/.dev  ## write the blocking side of the client again, from the async one
	$(BIN)/python clients/python/generate_sync.py

image-lint: $(VENV)/.dev $(DCLINT)  ## Dockerfile and compose file
	$(BIN)/hadolint Dockerfile
	$(DCLINT) --max-warnings 0 docker-compose.yml

image:  ## build the serving image, labelled with the version and the commit
	docker build --tag carousel --tag carousel:$(VERSION) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$(shell git rev-parse HEAD) .

lock:  ## resolve again and export what pip installs; needs uv
	uv lock
	uv export --quiet --no-emit-project --no-dev --output-file requirements/serve.txt
	uv export --quiet --no-emit-project --no-dev --extra cpu --output-file requirements/cpu.txt
	uv export --quiet --no-emit-project --no-dev --extra gpu --output-file requirements/gpu.txt
	uv export --quiet --no-emit-project --no-dev --extra ray --output-file requirements/ray.txt
	uv export --quiet --no-emit-project --extra cpu --extra otel --extra ray --group dev --output-file requirements/dev.txt

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "needs $(PYTHON): set PYTHON=…"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(DCLINT): docker/package-lock.json
	@command -v npm >/dev/null || { echo "image-lint needs npm, for dclint"; exit 1; }
	npm ci --prefix docker --no-audit --no-fund --silent
	touch $@

$(VENV)/.run: requirements/cpu.txt | $(VENV)/bin/python
	$(INSTALL) -r requirements/cpu.txt
	$(BIN)/python -m service doctor --compile-only  # compile once here, not at the first start
	touch $@

$(VENV)/.dev: requirements/dev.txt clients/python/pyproject.toml | $(VENV)/bin/python
	$(INSTALL) -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable clients/python
	touch $@ $(VENV)/.run
