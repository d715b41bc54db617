#!/usr/bin/env bash
# Measures the Barlow Twins step against PyTorch's: launch/compare_torch.sh
# [flags of launch/compare_torch.py]. Makes an environment for PyTorch,
# `.venv-torch`, first.
#
# On Linux, pip's PyTorch is the one for CUDA (gigabytes). The one for the CPU:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu (with uv
# UV_TORCH_BACKEND=cpu). torch.compile needs a C++ compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
case " $* " in
  # They measure nothing.
  *' --dry_run '* | *' --help '*) exec "$(find_python)" launch/compare_torch.py "$@" ;;
esac
make_env
fill_env .venv-torch torch-2.13 'torch>=2.13,<2.14' 'numpy>=2.1,<3'
prefer_huge_pages
exec .venv/bin/python launch/compare_torch.py "$@"
