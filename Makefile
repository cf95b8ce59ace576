SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test check fmt bench chaos soak cluster cluster-down images lock clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## install what is missing; nothing when nothing changed
	@.ci/setup

demo: setup ## the local stack and one whole life with a real browser (DEMO_EXIT=1 leaves afterwards)
	@.venv/bin/berth demo

test: setup ## every test but the long ones of chaos and bench (ARGS="-k word" for some)
	@.ci/test $(ARGS)

check: setup ## format, lint, types, import contracts, house rules, recorded histories
	@.ci/check

fmt: setup ## format and mend what can be mended
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

bench: setup ## the benchmarks: a table, and JSON (ARGS="--only kubernetes --quick")
	@.venv/bin/python -m tests.bench $(ARGS)

chaos: setup ## every boundary of every flow x every victim (build/chaos.md), crowds under kills; hours (SHARE=1/3)
	@CHAOS_SHARE=$(SHARE) .venv/bin/python -m tests tests/chaos tests/cluster/test_lives_in_trouble.py \
	  tests/cluster/test_kubernetes_refusals.py \
	  tests/e2e/test_real_agent.py::test_a_failed_agents_user_starts_again_with_the_same_cookies \
	  --deselect tests/chaos/test_soak.py -m "not bench" $(ARGS)

soak: setup ## users come and go while parts are killed, cut off and frozen at random (MINUTES=30 SEED=7)
	@SOAK_MINUTES=$(or $(MINUTES),5) SOAK_SEED=$(SEED) .venv/bin/python -m tests tests/chaos/test_soak.py -m "not bench" -s

cluster: setup ## a Kubernetes of this machine's own, or KUBECONFIG's; prints the path of a kubeconfig (NODES=2)
	@.venv/bin/python -m k8s.cluster up --nodes $(or $(NODES),1)

cluster-down: setup ## remove it, and what any killed one left (not with KUBECONFIG)
	@.venv/bin/python -m k8s.cluster down

images: setup ## the images of agent and control plane, built here and loaded into the cluster that runs (ARGS=--help)
	@.venv/bin/python -m k8s.images $(ARGS)

lock: ## resolve pyproject.toml and package.json anew (UPGRADE=1 for the newest that fit)
	@.ci/lock

clean: ## remove what setup and the checks made; data in .berth stays
	@rm -rf .cache .venv .venv-agent node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache \
	  .hypothesis .schemathesis dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
