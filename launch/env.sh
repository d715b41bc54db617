# shellcheck shell=bash
# Makes a virtual environment at the repository, or finds it made.
#
# Sourced by the other scripts, which name the extras they need:
#   make_env [EXTRA...]            `.venv`, with plots and the accelerator's JAX
#   make_env_at FOLDER [EXTRA...]  another one
#   prefer_huge_pages              for the training that is started next
#   extras_of FLAG...              prints those that a job needs
# A stamp of setup.cfg and pyproject.toml tells whether there is work to do, so
# a second start costs milliseconds. BT4REC_ACCELERATOR=cpu|cuda|tpu picks the
# JAX build, BT4REC_PYTHON the interpreter (3.11 or newer).

# A step on a CPU takes fresh memory for all that it keeps for the gradient, and
# spent a quarter of its time in the faults of 4 KiB pages. This asks for huge
# ones for what is started next; whoever has set the variable decides otherwise.
prefer_huge_pages() {
  export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"
}

find_python() {
  local candidate
  for candidate in "${BT4REC_PYTHON:-}" python3 python3.13 python3.12 \
      python3.11 python; do
    if [ -n "$candidate" ] && "$candidate" -c \
        'import sys, venv; sys.exit(sys.version_info < (3, 11))' \
        >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo 'bt4rec: no Python 3.11 or newer with the venv module was found;' \
    'install one or name it in BT4REC_PYTHON.' >&2
  return 1
}

make_env() {
  local accelerator="${BT4REC_ACCELERATOR:-cpu}"
  case "$accelerator" in
    cpu) make_env_at .venv plots "$@" ;;
    cuda|tpu) make_env_at .venv plots "$accelerator" "$@" ;;
    *) echo "bt4rec: BT4REC_ACCELERATOR='$accelerator' is not known; use" \
         'cpu, cuda or tpu.' >&2
       return 1 ;;
  esac
}

extras_of() {  # The extras that the flags of a job need.
  case " $* " in *[=\ ]gs://* | *[=\ ]gcs://*) echo gcs ;; esac
}

make_env_at() {
  local folder="$1" extras
  shift
  extras=$(echo "$*" | tr ' ' ',')
  fill_env "$folder" \
    "$(cat setup.cfg pyproject.toml | cksum | tr ' ' '-')-${extras:-base}" \
    -e ".${extras:+[$extras]}"
}

# fill_env FOLDER STAMP WORD...: the words are what pip is to install.
fill_env() {
  local folder="$1" stamp="$1/bt4rec-$2" python
  shift 2
  [ ! -e "$stamp" ] || return 0
  (
    # Two starts at once must not install into one folder.
    if command -v flock >/dev/null 2>&1 && ! flock --nonblock 9; then
      echo "bt4rec: waiting for another start, which makes $folder ..." >&2
      flock 9 || true  # Not every network file system has locks.
    fi
    [ ! -e "$stamp" ] || exit 0
    echo "bt4rec: making the environment $folder (once, about a minute) ..." >&2
    python=$(find_python) || exit 1
    if command -v uv >/dev/null 2>&1; then
      [ -x "$folder/bin/python" ] ||
        uv venv --quiet --python "$python" "$folder" || exit 1
      uv pip install --quiet --compile-bytecode --python "$folder/bin/python" \
        "$@" || exit 1
    else
      [ -x "$folder/bin/python" ] || "$python" -m venv "$folder" || exit 1
      "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
        "$@" || exit 1
    fi
    touch "$stamp"
  ) 9<launch/env.sh
}
