#!/usr/bin/env bash
# Runs a job: launch/run.sh [flags of python -m bt4rec.main].
# Without flags: the quickstart (synthetic data, no download, about 2 minutes).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
# shellcheck disable=SC2046
make_env $(extras_of "$@")
prefer_huge_pages
exec .venv/bin/python -m bt4rec.main "$@"
