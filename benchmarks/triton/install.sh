#!/bin/sh
# Puts tritonserver (its binary and Python backend, from the nvidia-pytriton package) and its official
# client into .venv-triton.
set -eu
cd "$(dirname "$0")/../.."
[ ! -f .venv-triton/.installed ] || exit 0
"${PYTHON:-python3}" -m venv .venv-triton
.venv-triton/bin/python -m pip --disable-pip-version-check install --quiet \
    --requirement benchmarks/triton/requirements.txt
touch .venv-triton/.installed
