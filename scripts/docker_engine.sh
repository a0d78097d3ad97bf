#!/usr/bin/env bash
# Makes a Docker Engine answer on a Debian machine that has no service manager (development machines, CI).
# Installs docker.io when dockerd is missing, starts it when none runs, and never starts a second one:
# two engines on one machine delete each other's network bridge.
#
#   scripts/docker_engine.sh          make sure that one answers; exit 0 when it does
#   scripts/docker_engine.sh stop     end the one this script started
set -euo pipefail

pid_file=/var/run/docker.pid            # dockerd's own
ours=/var/run/serving-harness-dockerd.pid
log=${DOCKERD_LOG:-/var/log/serving-harness-dockerd.log}
start_deadline_s=60

fail() { echo "docker_engine.sh: $*" >&2; exit 1; }
answers() { docker info >/dev/null 2>&1; }
runs() { [ -s "$1" ] && [ "$(cat "/proc/$(cat "$1")/comm" 2>/dev/null)" = dockerd ]; }

install_engine() {
    command -v apt-get >/dev/null || fail "dockerd is missing and this is not a Debian system: install Docker Engine by hand"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends docker.io iptables >/dev/null \
        || fail "apt-get could not install docker.io: read its words above"
}

start_engine() {
    [ "$(id -u)" = 0 ] || fail "the Docker Engine does not answer and only root can start it: run 'sudo $0'"
    command -v dockerd >/dev/null || install_engine
    if ! runs "$pid_file"; then
        setsid nohup dockerd >"$log" 2>&1 </dev/null &
        echo $! >"$ours"
    fi
    for ((i = 0; i < start_deadline_s * 2; i++)); do
        answers && return
        sleep 0.5
    done
    tail -n 5 "$log" >&2 || true
    fail "dockerd did not answer within ${start_deadline_s} s: its last words are above, its log is $log"
}

case "${1:-start}" in
    start) answers || start_engine; echo "Docker Engine $(docker version --format '{{.Server.Version}}') answers" ;;
    stop)
        runs "$ours" && kill "$(cat "$ours")"
        rm -f "$ours" ;;
    *) fail "unknown word '$1': use start or stop" ;;
esac
