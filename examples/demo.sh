#!/bin/sh
# The demo: a server over models/, held-out people's sessions streamed through it side by side.
#   examples/demo.sh VENV/bin
set -eu
cd "$(dirname "$0")/.."
bin=$1
log=$(mktemp)

"$bin/python" -m server --model-repository models --port 0 --metrics-port 0 2>"$log" &
server=$!
stop() {
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" || { echo "the server did not stop cleanly:"; cat "$log"; }
    rm -f "$log"
}
trap stop EXIT

for _ in $(seq 300); do
    address=$(sed -n 's/.*serving grpc=\([^ ]*\) .*/\1/p' "$log")
    [ -z "$address" ] || break
    kill -0 "$server" 2>/dev/null || { cat "$log"; exit 1; }
    sleep 0.1
done
[ -n "$address" ] || { echo "the server did not become ready:"; cat "$log"; exit 1; }

sed -n 's/.*\(sessions are kept in .*\)/\1/p' "$log"
echo "server ready at $address; streaming examples/watch.csv"
"$bin/tidegate" stream examples/watch.csv --address "$address" --model exercise \
    --session-column session --label-column label --prefix "demo-$$-"
echo "server stopping"
