#!/usr/bin/env bash
# Submits a job to a SLURM cluster with GPUs:
#
#   launch/slurm.sh --gpus=8 --nodes=2 --time=12:00:00 \
#     -- --config=configs/pretrain.py:ml20m --workdir=runs/ml20m
#
# What stands after -- are the flags of bt4rec.main. On one node it is one
# process with all --gpus of the node; on several, one process a GPU
# (--distributed, pre-training alone). Before the time limit the job gets
# SIGTERM, saves and is queued again; also where it is preempted or a node
# fails. The same command goes on with it after anything else.
#
#   --name=bt4rec     of the job
#   --nodes=1         nodes, and --gpus of each
#   --cpus=…          cores of each process; the cluster's default
#   --time=…          limit, as SLURM writes it; the partition's default
#   --grace=120       seconds before the limit in which the job may save
#   --partition=… --account=…
#   --sbatch='…'      further options of sbatch, such as --qos=long
#   --dry_run         print the script and the command, and do nothing
#
# The environment .venv is made here first, since nodes may have no network;
# the checkout must lie on a disk that they share. The script is left in
# runs/slurm/, beside the log. Tested with stand-ins for sbatch, srun, scancel
# and scontrol; not yet run on a real cluster.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
source launch/flags.sh

name=bt4rec nodes=1 gpus='' cpus='' time='' grace=120 partition='' account=''
sbatch='' dry_run='' words=() job=()
parse_flags 'name nodes gpus cpus time grace partition account sbatch' \
  'dry_run' "$@"
[ ${#words[@]} -eq 0 ] ||
  refuse "'${words[0]}' is no flag; those of the job stand after --."
require gpus
require_number nodes gpus grace ${cpus:+cpus}
[[ "$name" =~ ^[-_.a-zA-Z0-9]+$ ]] ||
  refuse "--name='$name' is no name of a job: letters, digits, -, _ and . only."
[ ${#job[@]} -gt 0 ] ||
  refuse 'there is no job to run; the flags of bt4rec.main stand after --.'
[ -n "$(workdir_of "${job[@]}")" ] ||
  refuse 'the job has no --workdir=…; name its output directory.'

tasks=1
if [ "$nodes" -gt 1 ]; then
  # JAX gives each process the GPU of its number on the node.
  tasks="$gpus"
  job=(--distributed "${job[@]}")
fi

print_script() {
  local option
  echo '#!/usr/bin/env bash'
  for option in "--job-name=$name" "--nodes=$nodes" \
      "--ntasks-per-node=$tasks" "--gpus-per-node=$gpus" \
      ${cpus:+"--cpus-per-task=$cpus"} ${time:+"--time=$time"} \
      ${partition:+"--partition=$partition"} ${account:+"--account=$account"} \
      --requeue "--signal=B:USR1@$grace" --open-mode=append \
      '--output=runs/slurm/%x-%j.log' $sbatch; do
    echo "#SBATCH $option"
  done
  echo "cd $(quoted "$PWD") || exit"
  echo "command=($(quoted .venv/bin/python -m bt4rec.main "${job[@]}"))"
  cat <<'END'
# Only this shell gets USR1. scancel hands SIGTERM to the processes; srun, if
# it got it, would kill them.
limit=''
trap 'limit=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
END
  echo '# JAX ends the others where one fails; srun might kill one that saves.'
  # shellcheck disable=SC2016
  echo "srun --kill-on-bad-exit=0${cpus:+ --cpus-per-task=$cpus}" \
    '"${command[@]}" &'
  cat <<'END'
srun=$!
while true; do  # A signal ends the waiting, not the job.
  wait "$srun"
  status=$?
  kill -0 "$srun" 2>/dev/null || break
done
wait "$srun"
status=$?
# 143: saved after SIGTERM. SLURM itself does this where it preempts, and not
# where the user cancels.
if [ -n "$limit" ] && [ "$status" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
END
}

script="runs/slurm/$name.sbatch"
if [ -n "$dry_run" ]; then
  print_script
  echo "# $script is this script; submitted by:"
  quoted sbatch --parsable "$script"
  exit
fi
command -v sbatch >/dev/null ||
  refuse 'sbatch is not installed; run this where jobs are submitted.'
# shellcheck disable=SC2046
BT4REC_ACCELERATOR="${BT4REC_ACCELERATOR:-cuda}" make_env \
  $(extras_of "${job[@]}")
mkdir -p runs/slurm
print_script >"$script"
id="$(sbatch --parsable "$script")"
# Of a federation the cluster follows.
id="${id%%;*}"
say "job $id is submitted. Follow: tail -F runs/slurm/$name-$id.log." \
  "End: scancel $id."
