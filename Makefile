# Everything a contributor runs. An environment is made when it is first needed, and again when its
# requirements change; .venv grows from what the local tools need to what the tests and the benchmarks need.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# uv compiles no modules, so each tool keeps what it has compiled: sam starts in 3 seconds instead of 8.
unexport PYTHONDONTWRITEBYTECODE

# uv makes the environments: the one on PATH, or else our own from the package index.
UV := $(if $(shell uv python find --help 2>/dev/null),uv,.uv/bin/uv)
OWN_UV := $(filter .uv/%,$(UV))
LOCAL := .venv/.ready .venv-emulator/.ready .venv-sam/.ready
DEVELOPMENT := .venv/.ready-development
BENCHMARKS := .venv/.ready-benchmarks
# Clients that tests call the gateway with. Node's SDK is tested where there is Node.
CLIENTS := .venv-clients/.ready .venv-clients-1/.ready
NODE_CLIENTS := $(if $(shell command -v npm),tests/e2e/node/node_modules/.ready)
CODE := layers/sluice functions sluicectl devstack tools benchmarks docs/upstream_skeleton tests
RUN := .venv/bin/python -m
PROCESSORS = $(shell getconf _NPROCESSORS_ONLN)
# One more than processors: tests of running stacks wait most of their time.
TEST_PROCESSES ?= $(shell echo $$(($(PROCESSORS) + 1)))
PIN = $(UV) pip compile -q --python-version 3.13 --generate-hashes --no-annotate --no-header $(ARGS)
INSTALL = $(UV) pip install -q --python $(@D)/bin/python --require-hashes -r $<

.PHONY: help
help: ## show this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf '  make %-9s %s\n' "$$name" "$$text"; done

.PHONY: setup
setup: $(LOCAL) ## make what up, demo and sluicectl need: three virtual environments, by uv

.PHONY: up
up: setup ## start everything here (PORT=4566, UPSTREAM=http://… instead of the fake one, PARAMS="Name=value …" of the template)
	@$(RUN) devstack.stack up $(if $(PORT),--port $(PORT)) $(if $(UPSTREAM),--upstream $(UPSTREAM)) $(PARAMS)

.PHONY: down
down: ## stop what up started
	@if [ -e .local/stack.json ]; then $(MAKE) -s setup && $(RUN) devstack.stack down; else echo "nothing is running"; fi

.PHONY: demo
demo: setup ## see it at work, with proof of what became of each event
	@$(RUN) devstack.demo

.PHONY: recording
recording: setup ## record the demo for the README, as docs/demo.svg
	@$(RUN) tools.recording docs/demo.svg "make demo" -- $(RUN) devstack.demo

.PHONY: chaos
chaos: setup ## load, faults and kills for minutes, then the count (SEED=… repeats its schedule, SECONDS=…)
	@$(RUN) tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(filter command%,$(origin SECONDS)),--seconds $(SECONDS))

.PHONY: test
test: setup $(DEVELOPMENT) $(CLIENTS) $(NODE_CLIENTS) ## run every test but those of speed, and measure coverage
	$(RUN) pytest tests --ignore tests/speed -n $(TEST_PROCESSES) --cov --cov-report=term:skip-covered

.PHONY: test-unit
test-unit: $(DEVELOPMENT) ## run the unit tests but simulations, after each change
	$(RUN) pytest tests/unit -m "not simulation" -n $(PROCESSORS)

.PHONY: simulate
simulate: $(DEVELOPMENT) ## run the functions in simulated worlds that seeds decide (SEEDS=10000, SEED=… for one, with its trace)
	@PYTHONHASHSEED=0 $(RUN) tests.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FIRST),--first $(FIRST)) $(if $(SEED),--seed $(SEED))

.PHONY: search-worst
search-worst: $(DEVELOPMENT) ## look for the body that costs a stranger the least and Sluice the most (ARGS="--seed 2 --rounds 500")
	@$(RUN) benchmarks.search_worst $(ARGS)

.PHONY: mutate
mutate: $(DEVELOPMENT) ## break the code in seventy ways, to see that the simulator notices
	@$(RUN) tests.simulation.mutate $(ARGS)

.PHONY: lint
lint: .venv-sam/.ready $(DEVELOPMENT) ## check style, types, the direction of imports and the template
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy $(CODE)
	.venv/bin/lint-imports
	SAM_CLI_TELEMETRY=0 .venv-sam/bin/sam validate --lint --region us-east-1

.PHONY: check
check: lint test ## linters, every test and that of speed: what a change has to pass
	$(RUN) pytest tests/speed

.PHONY: bench
bench: .venv-sam/.ready $(BENCHMARKS) ## measure it beside others (ARGS=--quick for a minute)
	@if command -v npm >/dev/null && [ ! -d benchmarks/node/node_modules ]; then npm ci --prefix benchmarks/node --ignore-scripts --silent; fi
	@$(RUN) benchmarks $(ARGS)

.PHONY: build
build: .venv/.ready .venv-sam/.ready ## build functions and layers for AWS (ARCHITECTURE=x86_64 for that instead of arm64)
	PATH="$(CURDIR)/.venv-sam/bin:$$PATH" SAM_CLI_TELEMETRY=0 sam build $(if $(ARCHITECTURE),--parameter-overrides Architecture=$(ARCHITECTURE))
	$(RUN) tools.layers .aws-sam/build

.PHONY: openapi
openapi: .venv/.ready ## write the API's description anew, after a change of its types or limits
	@$(RUN) tools.openapi

.PHONY: events
events: .venv/.ready ## write tests/events anew: an event for every trigger of every function
	@$(RUN) tools.events

.PHONY: lock
lock: $(OWN_UV) ## pin the requirements with hashes, after a change of theirs (ARGS=--upgrade for newer releases)
	$(PIN) layers/dependencies/requirements.in -o layers/dependencies/requirements.txt
	for each in uv devstack development benchmarks emulator sam clients clients-1; do $(PIN) --universal requirements/$$each.in -o requirements/$$each.txt; done

.PHONY: clean
clean: down ## stop the local stack and remove everything made here
	@rm -rf .uv .venv .venv-* tests/e2e/node/node_modules benchmarks/node/node_modules .local .aws-sam .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +

.venv/.packages: requirements/devstack.txt
.venv-emulator/.ready: requirements/emulator.txt
.venv-sam/.ready: requirements/sam.txt
.venv-clients/.ready: requirements/clients.txt
.venv-clients-1/.ready: requirements/clients-1.txt

.venv/.packages .venv-emulator/.ready .venv-sam/.ready $(CLIENTS): | $(OWN_UV)
	@echo "making $(@D) from $< ..."
	@rm -rf $(@D)
	@$(UV) venv -q --python 3.13 $(@D) \
	|| { echo "Python 3.13 is needed, the functions' runtime. uv found none and could not download it: install it, so that python3.13 is on PATH." >&2; exit 1; }
	@$(INSTALL)
	@touch $@

.venv/.ready: pyproject.toml .venv/.packages | $(OWN_UV)
	@$(UV) pip install -q --python $(@D)/bin/python --no-deps --no-build-isolation -e .
	@touch $@

$(DEVELOPMENT): requirements/development.txt .venv/.packages | .venv/.ready $(OWN_UV)
	@echo "adding $< to .venv ..."
	@$(INSTALL)
	@touch $@

$(BENCHMARKS): requirements/benchmarks.txt $(DEVELOPMENT) | $(OWN_UV)
	@echo "adding $< to .venv ..."
	@$(INSTALL)
	@touch $@

.uv/bin/uv: requirements/uv.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null \
	|| { echo "uv is needed, or Python 3.9 or newer as python3 on PATH to install it with." >&2; exit 1; }
	@echo "installing uv from $< ..."
	@rm -rf .uv
	@{ python3 -m venv .uv && .uv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r $<; } \
	|| { echo "uv could not be installed with python3: see above. Install uv yourself, so that it is on PATH." >&2; exit 1; }
	@touch $@

tests/e2e/node/node_modules/.ready: tests/e2e/node/package-lock.json
	@echo "making $(@D) from $< ..."
	@if npm ci --prefix $(<D) --ignore-scripts --no-audit --no-fund --silent; then touch $@; \
	else echo "npm could not install them: tests of Node's clients will be skipped." >&2; fi
