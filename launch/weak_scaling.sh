#!/usr/bin/env bash
# Prints how the pre-training step scales with the devices, at an equal share of
# the batch for each: launch/weak_scaling.sh [--dry_run] [flags of python -m
# bt4rec.benchmark]
# WEAK_SCALING_DEVICES='1 2 4 8' are the numbers, WEAK_SCALING_BATCH=256 is the
# share; efficiency is the rate of a device against that of the first number.
# On a CPU the devices are simulated and share its cores: what can be seen there
# is the cost of splitting, at a total rate that can only fall; not a speed-up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
share="${WEAK_SCALING_BATCH:-256}" run='' flags=()
for flag in "$@"; do
  case "$flag" in
    --dry_run) run='show' ;;
    *) flags+=("$flag") ;;
  esac
done
show() {
  printf '%q ' "$@"
  echo
}
measure() {
  local devices
  for devices in ${WEAK_SCALING_DEVICES:-1 2 4 8}; do
    # Of GPUs these are the first ones; a TPU host always uses all it has.
    $run env \
      XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices" \
      CUDA_VISIBLE_DEVICES="$(seq -s, 0 $((devices - 1)))" \
      .venv/bin/python -m bt4rec.benchmark --only=pretrain_step \
      --batch=$((share * devices)) ${flags[@]+"${flags[@]}"}
  done
}
if [ -n "$run" ]; then
  measure
  exit
fi
make_env
if [ "${BT4REC_ACCELERATOR:-cpu}" = cpu ]; then
  echo 'simulated devices, which share the cores of this machine' >&2
fi
measure | .venv/bin/python -c '
import json, sys
print("| devices | batch | packed | sequences/s | a device | efficiency |")
print("| --- | --- | --- | --- | --- | --- |")
first = {}
for line in map(json.loads, sys.stdin):
  if line["name"] != "pretrain_step":
    continue
  rate = line["sequences_per_second"]
  each = rate / line["num_devices"]
  share = each / first.setdefault(line["packed"], each)
  print(
    "|", line["num_devices"], "|", line["batch"], "|", line["packed"], "|",
    rate, "|", round(each, 1), "|", f"{share:.0%}", "|", flush=True,
  )
'
