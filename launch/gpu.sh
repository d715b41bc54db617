#!/usr/bin/env bash
# Measures the pre-training step on an NVIDIA GPU, all of it in one command:
# launch/gpu.sh [--dry_run] [sizes, such as --batch=512; see python -m
# bt4rec.benchmark --help]
#
# * the step by attention (XLA's, cuDNN's) and by steps a call, against its
#   floor: the longer of its operations at the measured matmul rate and its
#   bytes at the measured copy rate;
# * the input pipeline, as a share of the step if nothing overlapped;
# * PyTorch's step, eager and compiled, in turn with ours.
#
# GPU_LINES is where the lines go, gpu.jsonl by default. Not run on a GPU yet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export BT4REC_ACCELERATOR="${BT4REC_ACCELERATOR:-cuda}"
source launch/env.sh
lines="${GPU_LINES:-gpu.jsonl}" run=''
sizes=(--batch=1024 --length=200 --dim=512 --heads=8 --dtype=bfloat16)
for flag in "$@"; do
  case "$flag" in
    --dry_run) run=echo lines=/dev/null ;;
    *) sizes+=("$flag") ;;  # The last one of a name wins.
  esac
done
if [ -z "$run" ]; then
  make_env
  .venv/bin/python -c 'import jax; jax.devices("gpu")' 2>/dev/null || {
    echo 'bt4rec: launch/gpu.sh needs an NVIDIA GPU, and JAX sees none; check' \
      'nvidia-smi.' >&2
    exit 2
  }
  : >"$lines"
fi
measure() {
  $run .venv/bin/python -m bt4rec.benchmark "${sizes[@]}" --lengths=full "$@" |
    tee -a "$lines"
}
for attention in xla cudnn; do
  for steps in 1 10; do
    measure --only=pretrain_step --attention="$attention" \
      --steps_per_call="$steps"
  done
done
measure --only=pipeline
[ -n "$run" ] || .venv/bin/python launch/gpu_table.py "$lines"
$run launch/compare_torch.sh "${sizes[@]}" --device=cuda --attention=cudnn \
  --steps_per_call=10 --lengths=full,uniform
