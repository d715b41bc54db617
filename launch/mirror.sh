#!/usr/bin/env bash
# Runs a job and keeps a copy of its workdir in a bucket of Google Cloud:
#
#   launch/mirror.sh --bucket=gs://BUCKET/FOLDER [--every=300] [--dry_run] \
#     -- launch/run.sh --config=CONFIG --workdir=DIR
#
# Before the job starts, a workdir in which no job has run is fetched from the
# bucket: after a machine and its disk are lost, the same command goes on on
# another. It is copied every so many seconds, and once more at the end; the
# exit status is the job's, and SIGTERM is handed on to it.
#
# The bucket always holds a workdir from which the job can go on, whenever this
# is killed: what is copied is a snapshot of whole checkpoints, and what is out
# of date is deleted there after the rest has arrived. So the folder must be
# the mirror's alone. Of several processes (--distributed) each has a mirror,
# and the one that holds the workdir copies.
#
# Needs `gcloud` and the GNU tools. Tested with a stand-in for gcloud, and its
# commands checked by gcloud itself; not yet run on a real bucket.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/flags.sh

bucket='' every=300 dry_run='' words=() job=()
parse_flags 'bucket every' 'dry_run' "$@"
[ ${#words[@]} -eq 0 ] ||
  refuse "'${words[0]}' is no flag; the command of the job stands after --."
require bucket
require_number every
[[ "$bucket" =~ ^gs://[^/]+ ]] ||
  refuse "--bucket='$bucket' is no folder of a bucket; write" \
    "gs://BUCKET/FOLDER."
bucket="${bucket%/}"
[ ${#job[@]} -gt 0 ] ||
  refuse 'there is no job to run; its command stands after --.'
workdir="$(workdir_of "${job[@]}")"
workdir="${workdir%/}"
[ -n "$workdir" ] ||
  refuse 'the job has no --workdir=…; name the folder to be mirrored.'
snapshot="$workdir.snapshot"

if [ -n "$dry_run" ]; then
  echo '# Unless a job has run in the workdir already:'
  quoted gcloud storage ls "$bucket/"
  quoted gcloud storage cat "$bucket/mirror_id"
  quoted gcloud storage rsync "$bucket" "$workdir" --recursive
  echo "# The job; every $every seconds, and at its end, what follows it:"
  quoted "${job[@]}"
  quoted gcloud storage cp "$workdir/mirror_id" "$bucket/mirror_id"
  quoted gcloud storage rsync "$snapshot" "$bucket" --recursive
  quoted gcloud storage rsync "$snapshot" "$bucket" --recursive \
    --delete-unmatched-destination-objects
  exit
fi
command -v gcloud >/dev/null ||
  refuse 'gcloud is not installed; get the Google Cloud SDK.'

# Runs a gcloud storage command into `found`; 1 if there is no such object.
look() {
  local errors status=0 said
  errors="$(mktemp)"
  found="$(gcloud storage "$@" 2>"$errors")" || status=$?
  said="$(tail -n 3 "$errors")"
  rm -f "$errors"
  [ "$status" -ne 0 ] || return 0
  case "$said" in *'matched no objects'*) return 1 ;; esac
  fail "cannot read $bucket ($said)."
}

# `mirror_id` says whose copy it is: the first line this workdir's, the second
# the one it was fetched from. Another in the bucket means that the job has
# gone on elsewhere, and that a copy of this workdir would undo that.
fetch() {
  local id
  id="$(hostname)-$$-$(date +%s)"
  if look ls "$bucket/"; then
    look cat "$bucket/mirror_id" ||
      refuse "$bucket holds other things than a mirror, which would be" \
        "deleted; name an empty folder."
    local theirs="${found%%$'\n'*}"
    if [ ! -e "$workdir/lock" ]; then
      say "fetching $bucket ..."
      mkdir -p "$workdir"
      gcloud storage rsync "$bucket" "$workdir" --recursive ||
        fail "cannot fetch $bucket; the same command tries again."
      printf '%s\n' "$id" "$theirs" >"$workdir/mirror_id"
    elif ! grep -qxF -- "$theirs" "$workdir/mirror_id" 2>/dev/null; then
      refuse "the copy in $bucket is not of this $workdir, or has gone on" \
        "elsewhere; move $workdir away to take that up, or name another" \
        "--bucket."
    fi
  fi
  if [ ! -e "$workdir/mirror_id" ]; then
    mkdir -p "$workdir"
    echo "$id" >"$workdir/mirror_id"
  fi
}

# Those that a copy should have: no lock, nothing half written.
paths() {
  (cd "$1" && find . -name '*.orbax-checkpoint-tmp*' -prune -o \
    ! -name lock ! -name '*.tmp' -print) 2>/dev/null | LC_ALL=C sort
}

# Hard links, so it takes no time and no room. A checkpoint gets its name when
# it is whole, is never changed, and is deleted after the next one is there. So
# a snapshot in whose course nothing has vanished has a whole one.
take_snapshot() {
  local before path
  for _ in 1 2 3 4 5; do
    rm -rf "$snapshot"
    before="$(paths "$workdir")"
    if cp -al "$workdir" "$snapshot" 2>/dev/null && [ -z "$(
        LC_ALL=C comm -23 <(echo "$before") <(paths "$workdir"))" ]; then
      find "$snapshot" -depth \( -name '*.orbax-checkpoint-tmp*' \
        -o -name lock -o -name '*.tmp' \) -exec rm -rf {} +
      # Files of lines grow; gcloud wants them to stay as they are.
      find "$snapshot" -type f ! -path '*/checkpoints/*' -print0 |
        while IFS= read -r -d '' path; do
          cp -p -- "$path" "$path.tmp" && mv -f -- "$path.tmp" "$path"
        done
      return
    fi
    sleep 1
  done
  say "$workdir changes too fast to be copied; left out this time."
  return 1
}

storage() {  # Silent unless it fails.
  local said
  said="$(gcloud storage "$@" 2>&1)" || {
    say "cannot copy to $bucket ($(tail -n 1 <<<"$said"))."
    return 1
  }
}

copy() {
  # Another process of the job has the workdir.
  [ -e "$workdir/lock" ] || return 0
  # The id first: a folder without is taken for somebody else's.
  take_snapshot &&
    storage cp "$workdir/mirror_id" "$bucket/mirror_id" &&
    storage rsync "$snapshot" "$bucket" --recursive &&
    storage rsync "$snapshot" "$bucket" --recursive \
      --delete-unmatched-destination-objects &&
    rm -rf "$snapshot"
}

# Until this script is gone, however it went: the copier then has another parent.
copy_now_and_then() {
  local parent
  while sleep "$every"; do
    read -r _ _ _ parent _ <"/proc/$BASHPID/stat"
    [ "$parent" = $$ ] || return
    copy || true
  done
}

# The exit status of a child, whatever signals come in between.
wait_for() {
  local status
  while true; do
    status=0
    wait "$1" || status=$?
    kill -0 "$1" 2>/dev/null || break
  done
  status=0
  wait "$1" || status=$?
  return "$status"
}

# In braces it is read as a whole, whatever becomes of this file meanwhile.
{
  fetch
  "${job[@]}" &
  pid=$!
  trap 'kill -TERM "$pid" 2>/dev/null || true' TERM INT HUP
  set -m  # A group of its own, to end it with what it runs.
  copy_now_and_then &
  copier=$!
  set +m
  status=0
  wait_for "$pid" || status=$?
  kill -TERM -- "-$copier" 2>/dev/null || true
  wait "$copier" 2>/dev/null || true
  for pause in 5 20 0; do
    if copy; then
      exit "$status"
    fi
    sleep "$pause"
  done
  say "the last copy to $bucket has failed; the same command copies again."
  [ "$status" -ne 0 ] || status=1
  exit "$status"
}
