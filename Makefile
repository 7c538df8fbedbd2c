# Every target sets up what it needs from nothing: python3.11+ and make are enough.
# uv is bootstrapped (pinned, hashed) into .uv/; the service's environment (.venv-service)
# holds no torch; .venv holds training and the development tools.
PYTHON ?= python3
UV := .uv/bin/uv
SERVICE := .venv-service/.installed
DEV := .venv/.installed
# With an NVIDIA driver the service environment also gets the CUDA libraries.
SERVICE_LOCK := $(if $(shell command -v nvidia-smi 2>/dev/null),requirements/service-gpu.txt,requirements/service.txt)
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help demo serve traffic test test-slow check fmt bench bundle image-test lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

.uv/.installed: requirements/uv.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; assert (3, 11) <= v < (3, 14), f"oodscore needs python 3.11 to 3.13, this is {v[0]}.{v[1]}; set PYTHON="'
	@$(PYTHON) -m venv .uv || { echo "python cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	.uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

$(SERVICE): .uv/.installed $(SERVICE_LOCK) pyproject.toml
	$(UV) venv --quiet --clear --python $(PYTHON) .venv-service
	$(UV) pip sync --quiet --python .venv-service --require-hashes $(SERVICE_LOCK)
	$(UV) pip install --quiet --python .venv-service --no-deps -e .
	@touch $@

$(DEV): .uv/.installed requirements/dev.txt pyproject.toml
	$(UV) venv --quiet --clear --python $(PYTHON) .venv
	$(UV) pip sync --quiet --python .venv --require-hashes requirements/dev.txt
	$(UV) pip install --quiet --python .venv --no-deps -e .
	@touch $@

demo: $(SERVICE) ## start the service on the shipped bundles and score ID and OOD images and questions
	.venv-service/bin/python deploy/demo/demo.py

serve: $(SERVICE) ## serve the shipped bundles on http://127.0.0.1:8000
	.venv-service/bin/oodscore serve

traffic: $(SERVICE) ## send a quarter of an hour of drifting pictures to the service on port 8000
	.venv-service/bin/python deploy/demo/traffic.py

# A worker a core, each with one thread of arithmetic; the tests of a file stay together.
test: $(DEV) ## the default test suite (under 10 minutes, needs no data folder)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n logical --dist loadfile

test-slow: $(DEV) ## the real-data suite; needs OODSCORE_DATA
	.venv/bin/python -m pytest -m slow

check: $(DEV) ## formatting, lint, types, import rules
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright
	.venv/bin/lint-imports

fmt: $(DEV) ## rewrite formatting and import order
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: $(DEV) ## measure; writes JSON under benchmarks/results/
	.venv/bin/python -m benchmarks.price_list
	.venv/bin/python -m benchmarks.combined_study --config fashion_mnist --seeds 0,1,2
	.venv/bin/python -m benchmarks.combined_tables
	.venv/bin/python -m benchmarks.bundle_tables
	.venv/bin/python -m benchmarks.fit_cost
	.venv/bin/python -m benchmarks.fit_tables
	.venv/bin/python -m benchmarks.drift_detection
	.venv/bin/python -m benchmarks.drift_cost
	.venv/bin/python -m benchmarks.drift_tables
	.venv/bin/python -m benchmarks.service.compare
	.venv/bin/python -m benchmarks.service.overload
	.venv/bin/python -m benchmarks.service.swaps
	.venv/bin/python -m benchmarks.service.soak
	.venv/bin/python -m benchmarks.service_tables
	.venv/bin/python -m benchmarks.results_page

bundle: $(DEV) ## train and publish models/fashion-mnist as a new version
	.venv/bin/oodscore-train run training/configs/fashion_mnist.toml

image-test: ## build the container image, run it locked down, ask it for a score (podman, buildah)
	deploy/image-test.sh cpu

lock: .uv/.installed ## pin and hash every dependency, without index addresses
	$(UV) pip compile $(LOCK_FLAGS) pyproject.toml -o requirements/service.txt
	$(UV) pip compile $(LOCK_FLAGS) pyproject.toml --extra gpu -o requirements/service-gpu.txt
	$(UV) pip compile $(LOCK_FLAGS) pyproject.toml --extra training --extra transformers --extra timm --extra bulk --extra dask --group dev -o requirements/dev.txt
	echo uv | $(UV) pip compile $(LOCK_FLAGS) - -o requirements/uv.txt

LOCK_FLAGS := --quiet --universal --upgrade --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11

clean: ## remove the environments
	rm -rf .venv .venv-service .uv
