# Tidegate's commands. `make demo` and `make test` need nothing but python3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
DEMO_VENV ?= .venv-demo
BIN := $(VENV)/bin
# Two thirds of what is installed is never imported; to compile it all takes a minute and a half.
PIP := -m pip --disable-pip-version-check install --quiet --no-compile
# But what the tests import would be compiled by each of their processes.
COMPILED := alembic cryptography hypothesis joblib lightning matplotlib mpmath narwhals numpy opentelemetry optuna pandas \
  polars pydantic redis rich scipy sklearn sqlalchemy sympy tensorboard torch torchmetrics
COMPILE := -m compileall -q -j 0 -x '/tests?/|/testing/'
# Where it is set, each of the tests' hundreds of servers compiles all its modules anew.
unexport PYTHONDONTWRITEBYTECODE
SOURCES := server tidegate tidegate_train training benchmarks tests deploy

.PHONY: help demo test tools check lint types protos-check stubs stubs-check lock lock-check alerts envoy-config sbom \
        torture soak upgrade-check released cluster-demo cluster-rates train crossval forecasts bench bench-steps bench-singles bench-births bench-arrivals bench-clients bench-durability perf-analyzer abuse gpu-proof container-check serve clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

demo: $(DEMO_VENV)/.installed  ## install without torch, serve, stream held-out sessions, stop
	examples/demo.sh $(DEMO_VENV)/bin

# More processes than most machines of CI have cores: many tests wait for a server.
test: $(VENV)/.installed tools  ## all tests, with everything they need
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

$(DEMO_VENV)/.installed: pyproject.toml requirements/dev.lock
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python $(PIP) --constraint requirements/dev.lock --editable '.[server,cli]'
	touch $@

$(VENV)/.installed: pyproject.toml requirements/dev.lock requirements/data.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --requirement requirements/dev.lock torch==2.13.0
	$(BIN)/python $(PIP) --no-deps --requirement requirements/data.txt
	$(BIN)/python $(PIP) --no-deps --editable .
	$(BIN)/python $(COMPILE) $(addprefix $(VENV)/lib/python3*/site-packages/,$(COMPILED))
	touch $@

tools:  ## promtool, redis, recorded speech and gcc, from the system's packages where they are missing
	@test -x "$$(command -v promtool)" -a -x "$$(command -v redis-server)" -a -x "$$(command -v gcc)" -a \
	  -f /usr/include/stdlib.h -a -d /usr/share/pocketsphinx/test/data || { apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends prometheus \
	  redis-server pocketsphinx-testdata gcc libc6-dev; }

check: lint types protos-check stubs-check lock-check  ## what CI checks besides the tests

lint: $(VENV)/.installed
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/hadolint Dockerfile

types: $(VENV)/.installed
	$(BIN)/mypy $(SOURCES)

protos-check: $(VENV)/.installed  ## fail if protos/ breaks callers of a released protocol
	$(BIN)/buf lint
	set -e; for each in tests/compatibility/released/*/protos; do $(BIN)/buf breaking protos --against $$each; done

stubs: $(VENV)/.installed  ## regenerate the gRPC stubs from protos/
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m grpc_tools.protoc -I protos --python_out=. \
	  --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. \
	  protos/tidegate/v1/*.proto protos/inference/*.proto

stubs-check: stubs  ## fail if the committed stubs are not what protos/ says
	git diff --exit-code -- tidegate/v1 inference

lock: $(VENV)/.installed  ## write requirements/*.lock from pyproject.toml
	UV=$(BIN)/uv PYTHON=$(BIN)/python requirements/compile.sh

lock-check: $(VENV)/.installed  ## fail if a lock is behind pyproject.toml
	UV=$(BIN)/uv PYTHON=$(BIN)/python requirements/compile.sh --check

sbom: $(VENV)/.installed  ## sbom.json: the packages of requirements/server.lock, as CycloneDX
	$(BIN)/cyclonedx-py requirements requirements/server.lock --output-reproducible \
	  --output-file sbom.json

alerts: $(VENV)/.installed  ## deploy/prometheus/alerts.yml as Kubernetes' PrometheusRule
	$(BIN)/python deploy/kubernetes/prometheus_rule.py > deploy/kubernetes/components/monitoring/prometheus-rule.yaml

envoy-config: $(VENV)/.installed  ## deploy/cluster/envoy.yaml as Kubernetes' Envoy has it
	$(BIN)/python deploy/kubernetes/envoy_config.py > deploy/kubernetes/components/envoy/envoy.yaml

serve: $(VENV)/.installed  ## a server over models/ on 127.0.0.1:50051
	$(BIN)/python -m server --model-repository models

train: $(VENV)/.installed  ## train the shipped bundle from scratch
	$(BIN)/python -m training fit exercise --out models/exercise/1

crossval: $(VENV)/.installed  ## accuracy on unseen people, 5 folds of 2, by 5 seeds; two hours
	$(BIN)/python -m training crossval exercise --folds 5 --in-order --seeds 5 --choose network.norm=false,true --out models/exercise/crossval.json

forecasts: $(VENV)/.installed  ## train the three forecasters and compare them with baselines
	$(BIN)/python -m training fit weather --out runs/models/weather/1
	$(BIN)/python -m training fit flights --out runs/models/flights/1
	$(BIN)/python -m training fit pedestrians --out runs/models/pedestrians/1

torture: $(VENV)/.installed tools  ## 1,000 kills under 200 sessions, on SQLite and on redis; minutes
	$(BIN)/python -m tests.durability.torture --kills 1000 --store both
	$(BIN)/python -m tests.durability.torture --kills 40 --store both --durability sync

cluster-demo: $(VENV)/.installed tools  ## Envoy, redis, servers that die, drain, come and hang
	$(BIN)/python -m tests.cluster.demo

cluster-rates: $(VENV)/.installed tools  ## steps/s and CPU a step by servers behind Envoy
	$(BIN)/python -m tests.cluster.rates

soak: $(VENV)/.installed tools  ## 20 minutes of mixed load and churn over servers that are killed and drained
	$(BIN)/python -m tests.durability.soak

upgrade-check: $(VENV)/.installed tools  ## old servers to new ones and back under load: FROM=<commit>
	$(BIN)/python -m tests.durability.upgrade $(FROM)

released: $(VENV)/.installed tools  ## keep what this version writes and speaks, for later ones to be held to
	$(BIN)/python -m tests.compatibility.release

bench: $(VENV)/.installed  ## all that the README's figures rest on: tables, plots; ten minutes
	$(BIN)/python -m benchmarks.everything

bench-steps: $(VENV)/.installed  ## steps/s and CPU a step by way in, beside onnxruntime alone
	$(BIN)/python -m benchmarks.steps

bench-singles: $(VENV)/.installed  ## single steps, unary and on streams, on both transports and others, by steps in flight
	$(BIN)/python -m benchmarks.singles

bench-arrivals: $(VENV)/.installed  ## unary steps at random moments: p50 and p99 by offered load
	$(BIN)/python -m benchmarks.arrivals

bench-births: $(VENV)/.installed  ## 100,000 sessions opened, stepped once and closed by the client
	$(BIN)/python -m benchmarks.births

bench-durability: $(VENV)/.installed  ## the price of keeping sessions: stores and modes, restart, spill
	$(BIN)/python -m benchmarks.durability

abuse: $(VENV)/.installed  ## what hostile peers cost bystanders, and the server's memory; minutes
	$(BIN)/python -m benchmarks.abuse

perf-analyzer: $(VENV)/.installed  ## Triton's load generator against a server; needs mmdebstrap, root
	PYTHON=$(BIN)/python benchmarks/perf-analyzer.sh

bench-clients: $(VENV)/.installed  ## the client beside tritonserver and its own; installs both
	PYTHON=$(PYTHON) benchmarks/triton/install.sh
	$(BIN)/python -m benchmarks.clients

gpu-proof:  ## a GPU against the CPU, and how fast: GPU_PROOF=flags; needs onnxruntime-gpu, onnx, numpy
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu $(GPU_PROOF)

container-check: $(VENV)/.installed  ## build the image, run it, stream through it, stop it
	PYTHON=$(BIN)/python deploy/container-check.sh

clean:
	rm -rf $(VENV) $(DEMO_VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
