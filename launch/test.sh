#!/usr/bin/env bash
# Runs every check: launch/test.sh [flags of pytest].
# Without flags: also the tests of the Beam pipeline, in `.venv-beam`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
make_env test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy bt4rec configs
# One file a worker at a time: files share fixtures that take seconds to make. In
# the order of their names: by their number of tests, one test of minutes would
# come last, with nothing beside it.
.venv/bin/python -m pytest --numprocesses=2 --dist=loadfile \
  --no-loadscope-reorder --durations=10 "$@"
if [ $# -eq 0 ]; then
  make_env_at .venv-beam beam test
  .venv-beam/bin/python -m pytest --numprocesses=2 tests/beam_job_test.py
fi
