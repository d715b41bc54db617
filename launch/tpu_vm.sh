#!/usr/bin/env bash
# Runs a job on a Cloud TPU VM or pod slice, from its making to its deletion:
#
#   launch/tpu_vm.sh run --name=NAME --zone=ZONE --type=v5litepod-8 \
#     --spot \
#     -- --config=configs/pretrain.py:ml20m --workdir=gs://BUCKET/ml20m
#
# What stands after -- are the flags of bt4rec.main; each worker of a slice is
# a process of the job (--distributed). `run` asks for the TPU as a queued
# resource, waits for it, copies this checkout there (what git ignores stays
# here), makes the environment, starts the job, shows what it prints, and
# deletes the TPU when it is done, with the job's exit status. Where a spot TPU
# is preempted, another is asked for, and the job goes on from its workdir, which
# with --spot must be in a bucket, since a preempted TPU loses its disk. The
# same command goes on too after it was interrupted itself: the job does not
# need it. The steps by themselves: create, install, start, follow, delete.
#
#   --spot            cheaper, and may be taken away at any time
#   --keep            leave the TPU there at the end; it costs
#   --runtime=…       of the TPU; by default the one that fits --type
#   --project=…       of Google Cloud; by default that of gcloud
#   --poll=30         seconds between two looks
#   --dry_run         print the commands, and do nothing
#
# Needs `gcloud` with a project that may use TPUs, and for a slice `ssh-add
# ~/.ssh/google_compute_engine`. Tested with a stand-in for gcloud, and its
# commands checked by gcloud itself; not yet run on a real TPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh
source launch/flags.sh

name='' zone='' type='' runtime='' project='' poll=30
spot='' keep='' dry_run='' words=() job=()
parse_flags 'name zone type runtime project poll' 'spot keep dry_run' "$@"
actions='run, create, install, start, follow or delete'
[ ${#words[@]} -eq 1 ] || refuse "say what to do once: $actions."
action="${words[0]}"
case "$action" in
  run) needed='name zone type' ;;
  create) needed='name zone type' ;;
  install|start|follow|delete) needed='name zone' ;;
  *) refuse "'$action' is not known; use $actions." ;;
esac
# shellcheck disable=SC2086
require $needed
require_number poll
[[ "$name" =~ ^[a-z][-a-z0-9]*$ ]] ||
  refuse "--name='$name' is no name of a TPU: lower-case letters, digits and -."

if [ "$action" = run ] || [ "$action" = start ]; then
  [ ${#job[@]} -gt 0 ] ||
    refuse 'there is no job to run; the flags of bt4rec.main stand after --.'
  workdir="$(workdir_of "${job[@]}")"
  [ -n "$workdir" ] ||
    refuse 'the job has no --workdir=…; name its output directory.'
  [ -z "$spot" ] || [[ "$workdir" == *://* ]] ||
    refuse '--spot needs --workdir=gs://BUCKET/FOLDER: a TPU that is' \
      'preempted loses its disk, and the job goes on from there.'
else
  [ ${#job[@]} -eq 0 ] || refuse "$action takes no flags of the job."
fi
if [ -n "$type" ] && [ -z "$runtime" ]; then
  # https://cloud.google.com/tpu/docs/runtimes
  case "$type" in
    v2-*|v3-*|v4-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) refuse "--type=$type is not known; name its software with --runtime=…." ;;
  esac
fi
place=(--zone="$zone" ${project:+"--project=$project"})

tpu() {  # gcloud compute tpus, or its command line.
  if [ -n "$dry_run" ]; then
    quoted gcloud compute tpus "$@"
  else
    gcloud compute tpus "$@"
  fi
}

on_workers() {  # Runs a line on every worker.
  tpu tpu-vm ssh "$name" "${place[@]}" --worker=all --command="$1" \
    --quiet
}

create() {
  tpu queued-resources create "$name" --node-id="$name" "${place[@]}" \
    --accelerator-type="$type" --runtime-version="$runtime" \
    ${spot:+--spot} --quiet
}

delete() {
  tpu queued-resources delete "$name" "${place[@]}" --force --quiet
}

state() {  # Of the queued resource; nothing if there is none.
  tpu queued-resources list "${place[@]}" --filter="name~/$name\$" \
    --format='value(state.state)'
}

# How a line on a worker begins. The images have an older Python; uv brings one.
# shellcheck disable=SC2016
environment='set -e; export PATH="$HOME/.local/bin:$PATH";'\
' command -v uv >/dev/null || python3 -m pip install --quiet --user uv;'\
' uv python install --quiet 3.12;'\
' export BT4REC_PYTHON="$(uv python find 3.12)" BT4REC_ACCELERATOR=tpu;'

# This checkout as an archive: what git tracks or would, as it is now, and the
# commit without its past, since results name it.
pack() {
  local folder status=0
  folder="$(mktemp -d)"
  git clone --quiet --depth=1 --no-checkout "file://$PWD" "$folder/bt4rec" &&
    git ls-files -z --cached --others --exclude-standard |
    tar --create --null --files-from=- |
    tar --extract --directory="$folder/bt4rec" &&
    git -C "$folder/bt4rec" reset --quiet &&
    tar --create --gzip --file="$1" --directory="$folder" bt4rec ||
    status=$?
  rm -rf "$folder"
  return "$status"
}

install() {
  local archive="${TMPDIR:-/tmp}/bt4rec-$name.tar.gz"
  local line="$environment tar -xzf bt4rec.tar.gz; cd bt4rec;"
  local extras
  extras="$(extras_of ${job[@]+"${job[@]}"})"
  line+=" source launch/env.sh; make_env${extras:+ $extras}"
  [ -n "$dry_run" ] || pack "$archive" || return
  tpu tpu-vm scp "$archive" "$name:bt4rec.tar.gz" "${place[@]}" --worker=all \
    --quiet && on_workers "$line"
}

# The job holds `job.lock`, and leaves its exit status where it is looked for.
# One that runs already is left alone.
start() {
  local command=(launch/run.sh --distributed "${job[@]}")
  on_workers "$environment cd bt4rec; $(
    )if flock --nonblock job.lock true; then rm -f job.status; $(
    )setsid flock job.lock bash -c $(
      quoted "$(quoted "${command[@]}"); echo \$? >job.status"
    ) >job.log 2>&1 </dev/null & echo \$! >job.pid; fi"
}

show() {
  # shellcheck disable=SC2016
  on_workers 'cd bt4rec && tail --pid="$(cat job.pid)" -n +1 -f job.log'
}

# A line of each worker: running, lost, or the exit status of its job.
ask() {
  # shellcheck disable=SC2016
  on_workers 'cd bt4rec && echo "job: $('\
'if ! flock --nonblock job.lock true; then echo running;'\
' elif [ -e job.status ]; then cat job.status; else echo lost; fi)"'
}

# Shows what the job prints until it is done, its exit status in `result`;
# 1 if it was interrupted, or nobody is there to answer.
follow() {
  local answers
  while true; do
    show || true
    answers="$(ask | sed -n 's/^job: //p' | sort -u | tr '\n' ' ')" || return 1
    case " $answers" in
      *' running '*) sleep "$poll" ;;
      ' 0 ') result=0; return 0 ;;
      # 143: SIGTERM, as before a preemption; the same command goes on.
      ' '|*' lost '*|*' 143 '*) return 1 ;;
      # The others of a slice fail too where one is taken away.
      *) result="${answers#0 }"
         result="${result%% *}"
         [ "$(state)" = ACTIVE ]
         return ;;
    esac
  done
}

run() {
  local failures=0 now='' before
  while true; do
    before="$now"
    now="$(state)" || now='not known'
    [ "$now" = "$before" ] || say "TPU $name: ${now:-none yet}"
    case "$now" in
      ACTIVE)
        if ! install || ! start; then
          failures=$((failures + 1))
        elif follow; then
          return
        else
          failures=0
          say 'the job was interrupted; it goes on.'
        fi ;;
      '') create || failures=$((failures + 1)) ;;
      'not known') failures=$((failures + 1)) ;;
      FAILED) failures=$((failures + 1)); delete || true ;;
      # Preempted.
      SUSPENDED) delete || true ;;
    esac
    [ "$failures" -lt 10 ] ||
      fail "TPU $name cannot be used, as said above; if it is there, it costs" \
        "until '$0 delete --name=$name --zone=$zone'."
    sleep "$poll"
  done
}

leave() {
  say "the TPU and its job go on, and cost; the same command follows them" \
    "again, and '$0 delete --name=$name --zone=$zone' ends them."
  exit 130
}

result=''
if [ -n "$dry_run" ]; then
  if [ "$action" = run ]; then
    echo "# Every $poll seconds; made if there is none, and again if SUSPENDED:"
    state
    create
    echo '# When it is ACTIVE:'
    install
    start
    show
    ask
    echo '# When the job is done:'
    [ -n "$keep" ] || delete
  elif [ "$action" = follow ]; then
    show
    ask
  else
    "$action"
  fi
  exit
fi
command -v gcloud >/dev/null ||
  refuse 'gcloud is not installed; get the Google Cloud SDK.'
if [ "$action" = run ] || [ "$action" = install ]; then
  git rev-parse --git-dir >/dev/null 2>&1 ||
    refuse "$PWD is no git checkout, which says what is copied to the TPU."
fi
case "$action" in
  run)
    trap leave INT TERM
    run
    trap - INT TERM
    say "the job has ended with status $result."
    [ -n "$keep" ] || delete
    exit "$result" ;;
  follow)
    follow || fail "the job is not running; '$0 run' goes on with it."
    exit "$result" ;;
  *) "$action" ;;
esac
