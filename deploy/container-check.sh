#!/bin/bash
# Builds the image and proves it: runs it locked down, streams a session through it, reads its
# metrics with a real Prometheus, and stops it with SIGTERM. Fails loudly; leaves nothing running.
#
#   deploy/container-check.sh [cpu|gpu]
#
# Uses the Docker engine that runs here, or else one of its own (deploy/local-engine.sh, for which it
# must be root). PYTHON names a Python with the project installed. PIP_CONF names a pip.conf that the
# build may read. KEEP_ENGINE=FOLDER keeps its own engine in that folder, for the next time.
set -euo pipefail
cd "$(dirname "$0")/.."

variant=${1:-cpu}
PYTHON=${PYTHON:-.venv/bin/python}
image=tidegate:$variant
name=tidegate-check-$$
drain=20
scratch=$(mktemp -d)
engine=
prometheus_pid=
container=

say() { printf '== %s\n' "$*"; }
fail() {
    printf 'container-check: %s\n' "$*" >&2
    exit 1
}
cleanup() {
    status=$?
    if [ "$status" != 0 ] && [ -n "$container" ]; then "$DOCKER" logs "$name" >&2 || true; fi
    if [ -n "$prometheus_pid" ]; then kill "$prometheus_pid" 2> /dev/null || true; fi
    if [ -n "$container" ]; then "$DOCKER" rm --force "$name" > /dev/null || true; fi
    if [ -n "$engine" ] && [ -z "${KEEP_ENGINE:-}" ]; then deploy/local-engine.sh stop "$engine"; fi
    rm -rf "$scratch"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

free_port() {
    "$PYTHON" -c 'import socket
with socket.create_server(("127.0.0.1", 0)) as s: print(s.getsockname()[1])'
}
# until_true SECONDS COMMAND...: try every half second.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.5
    done
}

find_engine() {
    DOCKER=${DOCKER:-docker}
    network=()
    build=()
    if "$DOCKER" info > /dev/null 2>&1; then
        return
    fi
    engine=${KEEP_ENGINE:-$scratch/engine}
    DOCKER=/usr/bin/docker
    export DOCKER_HOST=unix://$engine/docker.sock
    if ! "$DOCKER" info > /dev/null 2>&1; then
        say "no Docker engine runs here: starting one"
        deploy/local-engine.sh start "$engine"
    fi
    local base
    base=$(sed -n 's/^FROM \([^ ]*:[^ ]*\) AS base$/\1/p' Dockerfile)
    "$DOCKER" image inspect "$base" > /dev/null 2>&1 ||
        deploy/local-engine.sh base "$engine" "$base"
    network=(--network host)
    PIP_CONF=${PIP_CONF:-$engine/pip.conf}
}

find_prometheus() {
    if ! command -v prometheus promtool > /dev/null; then
        say "installing Debian's prometheus"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus \
            > /dev/null
    fi
    promtool check config deploy/prometheus/prometheus.yml
    promtool test rules deploy/prometheus/alerts_test.yml
}

build_image() {
    [ -z "${PIP_CONF:-}" ] || build+=(--secret "id=pip,src=$PIP_CONF")
    local start=$SECONDS
    DOCKER_BUILDKIT=1 "$DOCKER" build --progress plain "${network[@]}" "${build[@]}" \
        --build-arg "VARIANT=$variant" --tag "$image" . > "$scratch/build.log" 2>&1 ||
        { tail -n 60 "$scratch/build.log" >&2; fail "the image does not build"; }
    say "built $image in $((SECONDS - start)) s," \
        "$(("$("$DOCKER" image inspect --format '{{.Size}}' "$image")" / 1000000)) MB"
    [ "$("$DOCKER" image inspect --format '{{.Config.User}}' "$image")" = 10001:10001 ] ||
        fail "the image runs as root"
}

# From within: what could be used against it, and whether its list of packages is true.
check_image() {
    "$DOCKER" run --rm --interactive --network none --read-only --cap-drop ALL --tmpfs /tmp \
        --entrypoint /venv/bin/python "$image" - < deploy/image_check.py ||
        fail "the image holds what it must not"
    say "$("$DOCKER" run --rm --network none --entrypoint /bin/cat "$image" \
        /usr/share/tidegate/sbom.json | wc -c) bytes of SBOM name every package; no pip, no setuid file"
}

on_gpu() { [ "$variant" = gpu ] && nvidia-smi > /dev/null 2>&1; }

# Whatever of CUDA's does not load onnxruntime prints; the driver alone is the host's.
check_cuda() {
    local said
    said=$("$DOCKER" run --rm --network none --read-only --cap-drop ALL --entrypoint /venv/bin/python \
        "$image" -c 'import onnxruntime; onnxruntime.preload_dlls()') || fail "onnxruntime does not load"
    [ -z "$said" ] || fail "$said"
    say "CUDA's libraries load"
}

healthy() { [ "$("$DOCKER" inspect --format '{{.State.Health.Status}}' "$name")" = healthy ]; }

run_image() {
    grpc_port=$(free_port)
    metrics_port=$(free_port)
    local ports=(--publish "127.0.0.1:$grpc_port:50051" --publish "127.0.0.1:$metrics_port:9095"
        --env TIDEGATE_INSECURE=true)
    if [ ${#network[@]} != 0 ]; then
        ports=("${network[@]}" --env TIDEGATE_HOST=127.0.0.1 --env "TIDEGATE_PORT=$grpc_port"
            --env "TIDEGATE_METRICS_PORT=$metrics_port" --env "TIDEGATE_HEALTH_PORT=$(free_port)")
    fi
    local memory=512m
    [ "$variant" = cpu ] || memory=4g # CUDA's libraries live in the host's memory too
    ! on_gpu || ports+=(--gpus all)
    container=$("$DOCKER" run --detach --name "$name" --read-only --cap-drop ALL \
        --security-opt no-new-privileges --tmpfs /tmp --memory "$memory" --pids-limit 256 \
        --health-interval 1s --env TIDEGATE_DRAIN_SECONDS=$drain "${ports[@]}" "$image")
    local start=$SECONDS
    until_true 60 healthy || fail "the container does not become healthy"
    say "healthy after $((SECONDS - start)) s: read-only root, no capabilities, user 10001"
    if [ "$variant" = gpu ] && ! on_gpu; then
        "$DOCKER" logs "$name" > "$scratch/server.log" 2>&1
        grep -o 'running on the CPU: .*' "$scratch/server.log" ||
            fail "without a GPU the server does not say that it runs on the CPU"
    fi
}

prometheus_value() {  # the sum that an expression has, or nothing
    "$PYTHON" -c 'import sys
sys.path.insert(0, "deploy")
from dashboard_check import values
print(int(sum(values(*sys.argv[1:]))))' "http://127.0.0.1:$prometheus_port" "$1" 2> /dev/null
}
value_is() { [ "$(prometheus_value "$1")" = "$2" ]; }

start_prometheus() {
    prometheus_port=$(free_port)
    cp deploy/prometheus/alerts.yml "$scratch/"
    # The same settings, but with one server at a known place and not by its name.
    sed "/dns_sd_configs:/,\$c\\    static_configs: [{targets: ['127.0.0.1:$metrics_port']}]
        s/scrape_interval: .*/scrape_interval: 1s/" \
        deploy/prometheus/prometheus.yml > "$scratch/prometheus.yml"
    prometheus --config.file "$scratch/prometheus.yml" --storage.tsdb.path "$scratch/tsdb" \
        --web.listen-address "127.0.0.1:$prometheus_port" > "$scratch/prometheus.log" 2>&1 &
    prometheus_pid=$!
    until_true 30 value_is 'up{job="tidegate"}' 1 ||
        { tail "$scratch/prometheus.log" >&2; fail "Prometheus does not scrape the server"; }
}

stream_session() {
    local steps start=$SECONDS
    steps=$("$PYTHON" deploy/stream_check.py "127.0.0.1:$grpc_port" examples/watch.csv)
    say "streamed a session of $steps steps in $((SECONDS - start)) s"
    until_true 15 value_is tidegate_steps_total "$steps" ||
        fail "Prometheus has $(prometheus_value tidegate_steps_total) steps, not $steps"
    say "Prometheus read tidegate_steps_total $steps"
    "$PYTHON" deploy/dashboard_check.py "http://127.0.0.1:$prometheus_port"
}

stop_server() {
    local start=$SECONDS code
    "$DOCKER" stop --time $((drain + 5)) "$name" > /dev/null
    local took=$((SECONDS - start))
    code=$("$DOCKER" inspect --format '{{.State.ExitCode}}' "$name")
    [ "$code" = 0 ] || fail "stopped by SIGTERM, the server exited $code"
    [ "$took" -lt "$drain" ] || fail "stopping took $took s"
    say "stopped by SIGTERM in $took s, exit code 0, a session live"
}

find_engine
find_prometheus
build_image
check_image
[ "$variant" = cpu ] || check_cuda
run_image
start_prometheus
stream_session
stop_server
say "container-check passed"
