# Tidegate's commands. `make demo` and `make test` need nothing but python3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: stubs

stubs:  ## regenerate the gRPC stubs from protos/
	PATH=$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -I protos --python_out=. --grpc_python_out=. \
	  --mypy_out=quiet:. --mypy_grpc_out=quiet:. protos/tidegate/v1/tidegate.proto
