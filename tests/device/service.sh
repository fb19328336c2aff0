# What the scripts here share, read in by bash as root where device-mapper is: `. tests/device/service.sh`. Ends the script
# with 77 where there is no device-mapper; an error that nobody handles ends it with 1 and the place.
#
# Sets $root (the checkout), $folder (temporary; stays after a failure), PATH and COWSLIP_STATE.
#
#   start_services [OPTION...]  `cowslip up`, until its start is done; its process is $up, what it says is in $folder/up.log
#   stop_services               by SIGTERM; fails unless it ends with 0
#   ask ARGUMENT...             the command line, bounded
#   write VOLUME TEXT           puts a text into it, which
#   read_back VOLUME [OPTION]   prints again, with the option for its get
#   json EXPRESSION             of the document d at stdin, in Python
#   field EXPRESSION            of the pool's status d
#   last_event                  the number of the last event so far
#   expect WHAT WANTED GOT      fails unless they are the same
#   expect_match WHAT P GOT     fails unless GOT matches the pattern P
#   wait_for SECONDS COMMAND... until COMMAND succeeds
#   in_python FILE WORD...      one of the programs here, which starts and ends services of its own
#   clean_up                    puts the pool away and checks that nothing is left of it, then stops the services
#   fail WORD...                also in a subshell: the script ends with 1 then, whatever it does before
# shellcheck shell=bash
set -Eeuo pipefail

root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
PATH=$root/build/release/bin:$PATH:/usr/sbin:/sbin
[[ -e /dev/mapper/control ]] || { echo "no device-mapper: skipped"; exit 77; }

folder=$(mktemp -d)
chmod 711 "$folder"  # The service's account must get through it, where a test acts as that account.
export COWSLIP_STATE=$folder/state
unset COWSLIP_SOCKET
up=''

fail() {
  trap - ERR
  printf 'FAILED: %s\n' "$*"
  touch "$folder/failed"
  if [[ -e $folder/up.log ]]; then
    echo '--- the end of up.log:'
    tail -n 40 "$folder/up.log"
  fi
  exit 1
} >&2
trap 'fail "${BASH_SOURCE[0]##*/}, line $LINENO: $BASH_COMMAND"' ERR

tidy() {
  local status=$?
  trap - EXIT ERR
  if [[ -e $folder/failed ]]; then status=1; fi
  if [[ -n $up ]]; then
    timeout 60 cowslip --timeout 50s cleanup >/dev/null 2>&1 || true
    stop_services || true
  fi
  # Not where something may be mounted below it still.
  if [[ $status = 0 ]]; then rm -rf "$folder"; fi
  exit "$status"
}
trap tidy EXIT

ask() { timeout 310 cowslip --timeout 300s "$@"; }

write() {
  local path
  path=$(ask get "$1")
  echo "$2" >"$path/name"
  ask put "$1"
}
read_back() {
  local path
  path=$(ask get "$1" "${@:2}")
  cat "$path/name"
  ask put "$1"
}

# Debian's Python, which starts sooner than a wrapper in PATH.
json() { /usr/bin/python3 -I -S -c 'import json, sys; d = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"; }
field() { ask pool status --json | json "$1"; }
last_event() { ask events --json | grep -o '"seq":[0-9]*' | tail -n 1 | cut -d : -f 2; }

expect() { [[ $2 == "$3" ]] || fail "$1: wanted '$2', got '$3'"; }
# shellcheck disable=SC2053  # A pattern is meant.
expect_match() { [[ $3 == $2 ]] || fail "$1: wanted '$2', got '$3'"; }

wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    if ((SECONDS >= end)); then return 1; fi
    sleep 0.1
  done
}
gone() { ! kill -0 "$1" 2>/dev/null; }

start_services() {
  cowslip up --state "$COWSLIP_STATE" "$@" >"$folder/up.log" 2>&1 &
  up=$!
  wait_for 60 grep -q ^ready: "$folder/up.log" || fail 'the services do not start'
  ask leases >/dev/null || fail 'their start does not end'
}

stop_services() {
  local status=0
  kill -TERM "$up"
  wait_for 40 gone "$up" || kill -KILL "$up"
  wait "$up" || status=$?
  up=''
  return "$status"
}

in_python() {
  command -v strace >/dev/null || fail 'strace is missing: apt-get install strace'
  PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$root/tests/device/$1" "${@:2}" || fail "$1 ends with $?"
}

clean_up() {
  local metadata
  ask cleanup
  expect 'dm devices' '' "$(dmsetup ls | grep cowslip || true)"
  expect 'loop devices' '' "$(losetup --list --noheadings --output NAME,BACK-FILE | grep -F " $folder/" || true)"
  # Through a loop device: thin_check reads past the page cache, which tmpfs does not do.
  metadata=$(losetup --find --show --read-only "$COWSLIP_STATE/pool/metadata")
  thin_check "$metadata" >"$folder/check" 2>&1 || fail "thin_check: $(cat "$folder/check")"
  losetup --detach "$metadata"
  stop_services || fail 'the services did not end with 0'
  expect 'mount folders' '' "$(ls "$COWSLIP_STATE/mnt")"
}
