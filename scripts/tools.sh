#!/usr/bin/env bash
# Puts the programs that the tests run on this machine: Redis, Chromium, node, nginx, HAProxy, Caddy.
# NATS comes with the test dependencies, and so does the oldest Redis that is supported; sharded pub/sub needs a newer one.
# Without root it names the command instead. Usage: scripts/tools.sh [BIN_OF_THE_ENVIRONMENT]
set -euo pipefail

bin=${1:-.venv/bin}

have() {
  for name in "$@"; do
    if command -v "$name" >/dev/null || [ -x "/usr/sbin/$name" ]; then return 0; fi
  done
  return 1
}

# Whether there is one besides the environment's own.
have_redis() {
  local folders=":$PATH:" own
  own=$(cd "$bin" 2>/dev/null && pwd) || own=none
  PATH=${folders//:$own:/:} have redis-server valkey-server
}

wanted=()
have_redis || wanted+=(redis-server)
have chromium chromium-browser google-chrome || wanted+=(chromium)
have node nodejs || wanted+=(nodejs)
have npm || wanted+=(npm)
have nginx || wanted+=(nginx-light)
have haproxy || wanted+=(haproxy)
have caddy || wanted+=(caddy)

if [ ${#wanted[@]} -eq 0 ]; then exit 0; fi

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "The tests need programs that are not here. Install them, then run make again:" >&2
  echo "  sudo apt-get update && sudo apt-get install --no-install-recommends ${wanted[*]}" >&2
  echo "or by your system's own means; any Chromium or Chrome, and node 18 or later, will do." >&2
  exit 1
fi

echo "installing ${wanted[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# The tests start servers of their own: in single-user mode an installation starts no service.
export RUNLEVEL=1
if ! { apt-get -o DPkg::Lock::Timeout=300 update &&
  apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "${wanted[@]}"; } >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  exit 1
fi
