# Everything a contributor runs. Each environment is made once and again when its requirements change.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

ENVIRONMENTS := .venv .venv-emulator .venv-sam
READY := $(ENVIRONMENTS:%=%/.ready)
# Older SDKs that tests call the gateway with, and the libraries of webhooks' senders. Node's SDK is tested
# where there is Node.
CLIENTS := .venv-clients-9 .venv-clients-1 .venv-webhooks
CLIENTS_READY := $(CLIENTS:%=%/.ready) $(if $(shell command -v npm),tests/e2e/node/node_modules/.ready)
BENCH := .venv-bench/.ready
CODE := layers/sluice functions local ops benchmarks
RUN := .venv/bin/python -m

.PHONY: help
help: ## show this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

.PHONY: setup
setup: $(READY) ## make the three virtual environments from the pinned requirements

.PHONY: up
up: setup ## start everything here (PORT=4566, UPSTREAM=http://… instead of the stand-in)
	@$(RUN) local.stack up $(if $(PORT),--port $(PORT)) $(if $(UPSTREAM),--upstream $(UPSTREAM))

.PHONY: down
down: ## stop what up started
	@if [ -e .local/stack.json ]; then $(MAKE) -s setup && $(RUN) local.stack down; else echo "nothing is running"; fi

.PHONY: demo
demo: setup ## see it at work, with proof of what became of each event
	@$(RUN) local.demo

.PHONY: chaos
chaos: setup ## load, faults and kills for minutes, then the count (SEED=… repeats its schedule, SECONDS=…)
	@$(RUN) local.chaos $(if $(SEED),--seed $(SEED)) $(if $(filter command%,$(origin SECONDS)),--seconds $(SECONDS))

.PHONY: test
test: setup $(CLIENTS_READY) ## run every test but that of speed, which a busy machine would fail
	$(RUN) pytest tests/unit --disable-socket --allow-unix-socket
	$(RUN) pytest tests --ignore tests/unit --ignore tests/speed

.PHONY: check
check: setup ## linters, types, template, every test and that of speed: what a change has to pass
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy $(CODE)
	PYTHONPATH=layers/sluice:. .venv/bin/lint-imports
	SAM_CLI_TELEMETRY=0 .venv-sam/bin/sam validate --lint --region us-east-1
	$(MAKE) test
	$(RUN) pytest tests/speed

.PHONY: bench
bench: .venv-sam/.ready $(BENCH) ## measure it beside others (ARGS=--quick for a minute)
	@if command -v npm >/dev/null && [ ! -d benchmarks/node/node_modules ]; then npm ci --prefix benchmarks/node --ignore-scripts --silent; fi
	@PYTHONPATH=.:layers/sluice .venv-bench/bin/python -m benchmarks $(ARGS)

.PHONY: build
build: setup ## build functions and layers for AWS (ARCHITECTURE=x86_64 for that instead of arm64)
	PATH="$(CURDIR)/.venv-sam/bin:$$PATH" SAM_CLI_TELEMETRY=0 sam build $(if $(ARCHITECTURE),--parameter-overrides Architecture=$(ARCHITECTURE))

.PHONY: openapi
openapi: setup ## write the API's description anew, after a change of its types or limits
	@PYTHONPATH=layers/sluice:. $(RUN) local.openapi

.PHONY: lock
lock: ## pin the requirements anew, with hashes (needs uv)
	cd layers/dependencies && uv pip compile -q --python-version 3.13 --generate-hashes --no-annotate --no-header requirements.in -o requirements.txt
	cd requirements && for each in project emulator sam clients-9 clients-1 webhooks bench; do uv pip compile -q --python-version 3.13 --generate-hashes --no-annotate --no-header $$each.in -o $$each.txt; done

.PHONY: clean
clean: down ## stop the local stack and remove everything made here
	@rm -rf $(ENVIRONMENTS) $(CLIENTS) tests/e2e/node/node_modules .venv-bench benchmarks/node/node_modules .local .aws-sam .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +

.venv/.ready: requirements/project.txt
.venv-emulator/.ready: requirements/emulator.txt
.venv-sam/.ready: requirements/sam.txt
.venv-clients-9/.ready: requirements/clients-9.txt
.venv-clients-1/.ready: requirements/clients-1.txt
.venv-webhooks/.ready: requirements/webhooks.txt
.venv-bench/.ready: requirements/bench.txt

$(READY) $(CLIENTS:%=%/.ready) $(BENCH): %/.ready:
	@command -v python3.13 >/dev/null || { echo "Python 3.13 is needed as python3.13 on PATH: the functions' runtime, which also builds them." >&2; exit 1; }
	@echo "making $* from $< ..."
	@rm -rf $*
	@python3.13 -m venv $*
	@$*/bin/pip install -qq --disable-pip-version-check --require-hashes -r $<
	@touch $@

tests/e2e/node/node_modules/.ready: tests/e2e/node/package-lock.json
	@echo "making $(@D) from $< ..."
	@if npm ci --prefix $(<D) --ignore-scripts --no-audit --no-fund --silent; then touch $@; \
	else echo "npm could not install them: tests of Node's clients will be skipped." >&2; fi
