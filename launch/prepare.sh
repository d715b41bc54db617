#!/usr/bin/env bash
# Prepares a log larger than memory: launch/prepare.sh [flags of python -m
# bt4rec.prepare]. Makes an environment of its own, `.venv-beam`, first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
make_env_at .venv-beam beam
exec .venv-beam/bin/python -m bt4rec.prepare "$@"
