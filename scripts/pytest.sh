#!/usr/bin/env bash
# The whole test suite with the gate on the core's coverage. pytest's summary is the last that is printed.
# Usage: scripts/pytest.sh [BIN_OF_THE_ENVIRONMENT] [PYTEST_ARGUMENTS...]
set -euo pipefail

bin=${1:-.venv/bin}
exec "$bin/python" -m coverage run -m pytest --core-gate "${@:2}"
