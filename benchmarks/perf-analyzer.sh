#!/bin/bash
# Runs Triton's own load generator, perf_analyzer, against a Tidegate server: sequences over unary calls
# and over streams. It needs a newer C library than many systems have, so it runs in a Debian trixie of
# its own, made on first use by mmdebstrap from the package sources that this machine has (as root).
#
#   benchmarks/perf-analyzer.sh [MODEL-REPOSITORY MODEL]       exercise of models/ where left out
#
# PYTHON names a Python with the server installed; PERF_ANALYZER_ROOT keeps the Debian for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."

repository=${1:-models}
model=${2:-exercise}
PYTHON=${PYTHON:-.venv/bin/python}
VERSION=2.60.0
scratch=$(mktemp -d)
root=${PERF_ANALYZER_ROOT:-$scratch/trixie}
server=

cleanup() {
    status=$?
    if [ -n "$server" ]; then kill "$server" 2> /dev/null || true; wait "$server" || true; fi
    rm -rf "$scratch"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

install_root() {
    local certificates=/etc/ssl/certs/ca-certificates.crt
    command -v mmdebstrap > /dev/null || { echo 'perf-analyzer.sh needs mmdebstrap' >&2; exit 1; }
    echo "== making a Debian trixie in $root"
    mmdebstrap --quiet --variant=minbase \
        --include=python3,python3-venv,ca-certificates,libssl3t64,libcurl4t64,libb64-0d,libnuma1 \
        --customize-hook="copy-in $certificates /etc/ssl/certs" trixie "$root"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    chroot "$root" python3 -m venv /opt/perf
    chroot "$root" env -u PIP_FIND_LINKS PIP_CERT="$certificates" /opt/perf/bin/pip install --quiet \
        --disable-pip-version-check "perf-analyzer==$VERSION"
}

serve() {
    "$PYTHON" -m server --model-repository "$repository" --port 0 --metrics-port 0 --device cpu \
        2> "$scratch/log" &
    server=$!
    for _ in $(seq 300); do
        address=$(sed -n 's/.*serving grpc=\([^ ]*\) .*/\1/p' "$scratch/log")
        metrics=$(sed -n 's/.* metrics=\([^ ]*\) .*/\1/p' "$scratch/log")
        [ -z "$address" ] || return 0
        kill -0 "$server" 2> /dev/null || break
        sleep 0.1
    done
    cat "$scratch/log" >&2
    exit 1
}

# failures: how many requests the server has refused or failed so far.
failures() {
    "$PYTHON" -c 'import sys, urllib.request
page = urllib.request.urlopen(sys.argv[1], timeout=10).read().decode().splitlines()
print(int(sum(float(line.split()[-1]) for line in page if line.startswith("tidegate_errors_total"))))' \
        "http://$metrics/metrics"
}

# measure WORDS...: three windows of one kind, steady or not; fails where perf_analyzer does, or where
# it or the server counts a failure.
measure() {
    echo "== perf_analyzer -i grpc --sequence-length 20 $*"
    if ! chroot "$root" /opt/perf/bin/perf_analyzer -m "$model" -u "$address" -i grpc \
        --sequence-length 20 --concurrency-range 1:16:15 --measurement-interval 2000 \
        --stability-percentage 999 "$@" > "$scratch/table" 2>&1; then
        cat "$scratch/table" >&2
        exit 1
    fi
    if grep -iE 'error|fail' "$scratch/table" || [ "$(failures)" != 0 ]; then
        cat "$scratch/table" "$scratch/log" >&2
        exit 1
    fi
    grep -E '^(Request concurrency|    (Request count|Sequence count|Throughput|p50|p99|Avg request))' \
        "$scratch/table"
}

[ -x "$root/opt/perf/bin/perf_analyzer" ] || install_root
serve
measure
measure --async --streaming
echo "== perf_analyzer is content"
kill "$server"; wait "$server" || true; server=
"$PYTHON" -m benchmarks.perf_analyzer "$root"
