#!/bin/sh
# Makes the lock files from pyproject.toml, or checks that they still follow from it.
#
#   requirements/compile.sh             write the locks, keeping every pin that still fits
#   requirements/compile.sh --upgrade   write them with the newest versions
#   requirements/compile.sh --check     write nothing; fail with a diff when a lock would change
set -eu

cd "$(dirname "$0")/.."
UV=${UV:-.venv/bin/uv}
PYTHON=${PYTHON:-.venv/bin/python}
mode=${1:-}
case $mode in '' | --upgrade | --check) ;; *) sed -n '2,6p' "$0" >&2; exit 2 ;; esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

# lock NAME ARGUMENTS...: resolve into a copy, for which the present lock holds the preferred pins.
lock() {
    name=$1; shift
    new=$scratch/$name.lock
    [ ! -f "requirements/$name.lock" ] || cp "requirements/$name.lock" "$new"
    [ "$mode" != --upgrade ] || set -- --upgrade "$@"
    "$UV" pip compile --quiet --no-config --universal --python-version 3.11 \
        --no-emit-index-url --no-emit-find-links \
        --custom-compile-command 'make lock' --output-file "$new" "$@"
    if [ "$mode" != --check ]; then
        cp "$new" "requirements/$name.lock"
    elif ! diff -u "requirements/$name.lock" "$new"; then
        failed=1
    fi
}

"$PYTHON" -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], sep="\n")' > "$scratch/build.in"

lock server pyproject.toml --extra server --generate-hashes
lock gpu pyproject.toml requirements/gpu.in --extra server --generate-hashes \
    --constraints requirements/server.lock
lock sbom requirements/sbom.in --generate-hashes
lock build - --generate-hashes < "$scratch/build.in"
lock dev pyproject.toml requirements/torch.in --extra server --extra cli --extra training \
    --extra dev --excludes requirements/torch-excluded.txt

[ "$failed" = 0 ] || { echo 'the locks are behind pyproject.toml: run make lock' >&2; exit 1; }
