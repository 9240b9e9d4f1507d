#!/usr/bin/env bash
# The whole test suite with the gate on the core's coverage. pytest's summary is the last that is printed.
# Usage: scripts/pytest.sh [BIN_OF_THE_ENVIRONMENT] [PYTEST_ARGUMENTS...]
set -euo pipefail

bin=${1:-.venv/bin}
# Many processes of Python are started here, and none needs to compile what another one has compiled.
unset PYTHONDONTWRITEBYTECODE
exec "$bin/python" -m pytest --core-gate -p no:benchmark --numprocesses auto --dist worksteal "${@:2}"
