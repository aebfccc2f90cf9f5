# `make run` shows pyrun at work, `make test` proves it; both start from a bare Debian 12.
SHELL := /bin/bash
PYTHON := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help run test test-vm setup build lint unit package hostile live fuzz vm stress bench format docs man dist clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { printf "  make %-42s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## from nothing to a running container
	@tools/setup.sh run
	@tools/demo.sh

test: ## every check there is; what CI runs
	@tools/setup.sh test
	@$(PYTHON) tools/check.py

test-vm: vm ## the tests in virtual machines alone, which are the lane `vm`

setup: ## install what development needs
	@tools/setup.sh test

build: ## compile again what has changed
	@tools/setup.sh build

lint unit package hostile live fuzz vm: setup ## one lane of `make test`
	@$(PYTHON) tools/check.py $@

stress: setup ## tests marked `stress`, 50 times their size
	@TEST_SCALE=$${TEST_SCALE:-50} tools/lane.sh $(PYTHON) -m pytest -q -m stress --timeout=14400 $${TESTS:-tests}

bench: ## measure pyrun against its peers
	@tools/setup.sh bench
	@$(PYTHON) bench/run.py

format: setup ## put the Python sources into the house's form
	@$(PYTHON) -m ruff format .

docs: setup ## the documentation as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

man: ## manual pages from the option table, in docs/man
	@tools/setup.sh run
	@$(PYTHON) -m pyrun.cli.man docs/man

dist: setup ## sdist and wheel, in dist/
	@$(PYTHON) -m build --no-isolation --outdir dist .

clean: ## remove everything that was made here
	rm -rf build dist docs/man .venv native/helper native/*.so *.egg-info
