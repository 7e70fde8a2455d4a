# `make` lists what there is.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
SEED ?= 0
ARGS ?=
BIN := .venv/bin
FAST = $(BIN)/python -m pytest -q -m "not slow" -n logical --maxprocesses 8 --dist loadfile
# Slow ones that wait more than they compute, and start no engine: side by side. The others have the machine to themselves.
WAITING = tests/rewards/test_code_attacks.py
SLOW = $(BIN)/python -m pytest -q -m slow

.PHONY: help setup quickstart lint test test-fast clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: ## install everything into .venv; at once when nothing has changed
	@$(or $(PYTHON),$(error no python3 found: install Python 3.11)) launch/install.py

quickstart: setup ## train the quickstart recipe; SEED=1 ARGS="steps=40" to change it
	@$(BIN)/posttrain train quickstart --overwrite seed=$(SEED) $(ARGS)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: lint ## ruff, mypy and all tests; ARGS="-k sandbox" for some
	@$(if $(ARGS),$(BIN)/python -m pytest -q $(ARGS),\
	  $(FAST); fast=$$?; $(SLOW) -n logical --maxprocesses 8 $(WAITING); waiting=$$?; \
	  $(SLOW) --ignore=$(WAITING) && exit $$((fast | waiting)))

test-fast: lint ## the same without the tests that start engines and processes
	@$(FAST) $(ARGS)

clean: ## remove caches, builds and .venv; runs/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
