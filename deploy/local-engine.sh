#!/bin/bash
# A Docker engine of one's own, for machines without a running engine or a registry.
#
#   deploy/local-engine.sh start FOLDER          start an engine that keeps everything in FOLDER
#   deploy/local-engine.sh base FOLDER IMAGE     make IMAGE, the base of the Dockerfile, from Debian
#   deploy/local-engine.sh stop FOLDER           stop it and remove FOLDER
#
# Needs root on Debian; missing packages are installed. It has no bridge and touches no firewall, so
# build and run with `--network host`. The client is /usr/bin/docker with
# DOCKER_HOST=unix://FOLDER/docker.sock; give FOLDER/pip.conf to a build as its secret `pip`.
set -euo pipefail

need() {  # need FILE PACKAGE
    [ ! -e "$1" ] || return 0
    echo "installing $2" >&2
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" > /dev/null
}

start() {
    need /usr/sbin/dockerd docker.io
    mkdir -p "$folder"
    setsid /usr/sbin/dockerd --data-root "$folder/data" --exec-root "$folder/exec" \
        --host "$DOCKER_HOST" --pidfile "$folder/docker.pid" --bridge=none --iptables=false \
        --ip6tables=false --ip-forward=false > "$folder/docker.log" 2>&1 < /dev/null &
    for _ in $(seq 60); do
        ! /usr/bin/docker info > /dev/null 2>&1 || return 0
        sleep 0.5
    done
    tail -n 20 "$folder/docker.log" >&2
    return 1
}

# Debian's Python under the name that the Dockerfile starts from, with this machine's certificates
# and, apart from the image, this machine's settings of pip.
base() {
    local certificates=/etc/ssl/certs/ca-certificates.crt
    need /usr/bin/mmdebstrap mmdebstrap
    need "$certificates" ca-certificates
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
        --customize-hook="copy-in $certificates /etc/ssl/certs" trixie "$folder/base.tar"
    /usr/bin/docker import --change 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        "$folder/base.tar" "$1" > /dev/null
    rm "$folder/base.tar"
    { echo '[global]'; pip_settings; } > "$folder/pip.conf"
}

pip_settings() {
    printf 'cert = %s\n' /etc/ssl/certs/ca-certificates.crt
    python3 -m pip config list 2> /dev/null |
        sed -nE "s/^[^=]*\.(index-url|extra-index-url|trusted-host|proxy)='(.*)'$/\1 = \2/p" |
        grep -v 'file:' || true
}

stop() {
    local pid
    [ -d "$folder/data" ] || { echo "$folder holds no engine" >&2; return 1; }
    if pid=$(cat "$folder/docker.pid" 2> /dev/null); then
        kill "$pid"
        while kill -0 "$pid" 2> /dev/null; do sleep 0.2; done
    fi
    # The engine leaves the host's network namespace mounted where containers used it.
    awk -v under="$folder/" 'index($2, under) == 1 { print $2 }' /proc/mounts | xargs -r umount
    rm -rf "$folder"
}

[ $# -ge 2 ] || { sed -n '2,10p' "$0" >&2; exit 2; }
action=$1 folder=$(realpath -m "$2")
shift 2
export DOCKER_HOST=unix://$folder/docker.sock
case $action in
    start | base | stop) "$action" "$@" ;;
    *) echo "unknown action $action" >&2; exit 2 ;;
esac
