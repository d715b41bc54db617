# shellcheck shell=bash disable=SC2034
# Reads the flags of the scripts that start jobs elsewhere; sourced by them.
#
#   parse_flags 'VALUE...' 'SWITCH...' "$@"
# sets the variable KEY for every --KEY=VALUE or --SWITCH (to 1), the array
# `words` to the other words before `--`, and the array `job` to those after.
# --help prints the comment at the top of the script. Bash 4.4 or newer.

refuse() {  # Bad input: one sentence, status 2.
  echo "bt4rec: $*" >&2
  exit 2
}

fail() {  # What went wrong elsewhere: one sentence, status 1.
  echo "bt4rec: $*" >&2
  exit 1
}

say() {
  echo "bt4rec: $*" >&2
}

parse_flags() {
  local values=" $1 " switches=" $2 " word key known
  known="--${1// /=…, --}=…, --${2// /, --} and --help"
  words=()
  shift 2
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    word="$1"
    key="${word%%=*}"
    key="${key#--}"
    case "$word" in
      --help)
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
        exit ;;
      --*=*)
        [[ "$values" == *" $key "* ]] ||
          refuse "$0 does not know --$key=; its flags are $known; those of" \
            "the job stand after --."
        [ -n "${word#*=}" ] || refuse "--$key is empty; give it a value."
        printf -v "$key" %s "${word#*=}" ;;
      --*)
        [[ "$values" != *" $key "* ]] ||
          refuse "--$key has no value; write --$key=VALUE."
        [[ "$switches" == *" $key "* ]] ||
          refuse "$0 does not know --$key; its flags are $known; those of" \
            "the job stand after --."
        printf -v "$key" %s 1 ;;
      *) words+=("$word") ;;
    esac
    shift
  done
  # Without the --.
  job=("${@:2}")
}

require() {  # The flags that must be there.
  local key
  for key; do
    [ -n "${!key}" ] || refuse "$0 needs --$key=…; $0 --help has an example."
  done
}

require_number() {  # The flags that must be whole numbers.
  local key
  for key; do
    [[ "${!key}" =~ ^[0-9]+$ ]] ||
      refuse "--$key='${!key}' is not a whole number."
  done
}

quoted() {  # Words as one line that a shell reads back.
  local word line=''
  for word; do
    [[ "$word" =~ ^[a-zA-Z0-9_./:=,@%+-]+$ ]] || word="${word@Q}"
    line+="$word "
  done
  echo "${line% }"
}

workdir_of() {  # The workdir that a command names, '' if none.
  local word previous='' found=''
  for word; do
    case "$word" in --workdir=*) found="${word#*=}" ;; esac
    [ "$previous" != --workdir ] || found="$word"
    previous="$word"
  done
  # As bt4rec.main reads it.
  echo "${found/#\~\//$HOME/}"
}
