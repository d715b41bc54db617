#!/usr/bin/env bash
# Runs every check: launch/test.sh [flags of pytest].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
make_env test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy bt4rec configs
# One file a worker at a time: files share fixtures that take seconds to make.
exec .venv/bin/python -m pytest --numprocesses=2 --dist=loadfile "$@"
