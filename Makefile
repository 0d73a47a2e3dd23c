# The project's commands; `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env demo test lint bench quality package horovod-gpu clean

# The interpreter that makes the environment; unset: the first of these names that is Python 3.11.
PYTHON ?=
pythons := $(or $(PYTHON),python3.11 /usr/local/bin/python3.11 /usr/bin/python3.11 python3)

# Further arguments, as in: make test ARGS="-k kmeans"
ARGS ?=
in_env := source .venv/sparton-env &&

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: ## make or refresh the environment in .venv (Python 3.11, a C++ compiler; Java 17 or 21)
	@for name in $(pythons); do \
	python=$$(command -v "$$name") || continue; \
	! "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || break; done; \
	[ -n "$$python" ] || { echo "environment: no Python found (tried $(pythons)); install Python 3.11" \
	"(Debian 12: apt-get install python3.11 python3.11-venv)" >&2; exit 1; }; \
	"$$python" tools/setup_env.py

demo: env ## from nothing to clustered jets and their report
	@$(in_env) sparton run --config conf/jets_demo.yaml $(ARGS)

# Two processes take the files of tests in their order, the long ones first; each has one Spark session for all of its
# files. ARGS="-n 0" runs everything in this one.
parallel := -n 2 --dist loadfile --no-loadscope-reorder

# Style errors fail the run at its end, after the tests have spoken.
test: env ## style checks, then every test (ARGS="..." goes to pytest)
	@style=0; $(MAKE) --no-print-directory style || style=$$?; \
	[ $$style = 0 ] || echo "style: FAILED (above); the tests run, and then this command fails" >&2; \
	$(in_env) python -m pytest $(parallel) $(ARGS) || exit $$?; exit $$style

lint: env style ## ruff and mypy

.PHONY: style
style:
	@$(in_env) status=0; ruff check . || status=$$?; mypy || status=$$?; exit $$status

# Not among them: what takes hours, needs a checkpoint of others, or JAX.
bench: env ## the benchmarks of speed; tables are printed and kept in benchmarks/results/
	@mkdir -p benchmarks/results; $(in_env) for script in benchmarks/[a-z]*.py; do \
	[ -e "$$script" ] || { echo "no benchmarks"; break; }; \
	case "$$script" in */quality.py|*/published_weights.py|*/ucluster_jax.py) continue;; esac; \
	python "$$script" $(ARGS) | tee "benchmarks/results/$$(basename "$$script" .py).txt"; done

quality: env ## the quality study, some hours; killed and repeated, it goes on (ARGS="--list" shows the runs)
	@$(in_env) python benchmarks/quality.py $(ARGS)

package: env ## the release: zip for spark-submit --py-files, and wheel, in dist/
	@$(in_env) python tools/package.py

# Its pip must have the packages of Horovod's build: cmake, setuptools, wheel, packaging, cloudpickle, psutil, pyyaml.
GPU_PYTHON ?=
horovod-gpu: env ## Horovod's wheel with NCCL in dist/gpu, for a Python with CUDA's TensorFlow (GPU_PYTHON=/path)
	@$(in_env) python tools/horovod_gpu.py $(if $(GPU_PYTHON),--python "$(GPU_PYTHON)")

clean: ## remove the environment, caches and builds of this clone; results in runs/ stay
	rm -rf .venv .cache build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis lib/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
