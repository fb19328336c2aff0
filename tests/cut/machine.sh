# What the rig's scripts in the machine with device-mapper share: `. tests/cut/machine.sh`, in bash, as root.
#
# Sets $root (the checkout), $disk (a file in memory), $state (the service's folder) and PATH.
#
#   put_disk_in                 prints the loop device of $disk
#   lay_out_disk DEVICE         cut-state, cut-metadata and cut-data on it
#   boot                        a new boot id, and the state's file system mounted
#   start_services LOGFILE [PREFIX...]  `cowslip up` over $state, until it answers; its process is $up
#   stop_services               kills all that runs, and takes away volumes and pool
#   take_disk_out               unmounts the state, and takes away all devices above $disk
# shellcheck shell=bash
set -Eeuo pipefail

root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
PATH=$root/build/release/bin:$PATH:/usr/sbin:/sbin
disk=/dev/shm/disk state=/tmp/cut-state up='' booted='' actors=(--device-actors 3 --mount-actors 2)

fail() {
  printf 'cut: %s\n' "$*"
  exit 1
} >&2
trap 'fail "${BASH_SOURCE[0]##*/}, line $LINENO: $BASH_COMMAND"' ERR

put_disk_in() { losetup --find --show "$disk"; }

sectors() { blockdev --getsz "$1"; }

# The sizes are those of recording.h.
lay_out_disk() {
  dmsetup create --concise \
    "cut-state,,,rw,0 98304 linear $1 0;cut-metadata,,,rw,0 16384 linear $1 98304;cut-data,,,rw,0 409600 linear $1 114688"
}

# What ends leases is a boot id that the service does not know.
boot() {
  cp /proc/sys/kernel/random/uuid /run/boot-id
  [[ -n $booted ]] || mount --bind /run/boot-id /proc/sys/kernel/random/boot_id
  booted=yes
  mkdir -p "$state"
  mount /dev/mapper/cut-state "$state"
}

start_services() {
  local log=$1 end=$((SECONDS + 60))
  shift
  "$@" cowslip up --state "$state" "${actors[@]}" >"$log" 2>&1 &
  up=$!
  until grep -q ^ready: "$log"; do
    if ((SECONDS >= end)) || ! kill -0 "$up"; then
      tail -n 30 "$log" >&2
      return 1
    fi
    sleep 0.05
  done
}

# try_to COMMAND...: until it succeeds, for some seconds.
try_to() {
  local tries
  for tries in {1..100}; do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.05
  done
  fail "after $tries tries: $*"
}

ours() { dmsetup ls | sed -n 's/^\(cowslip-[^[:space:]]*\).*/\1/p'; }
# Volumes hold the pool.
# shellcheck disable=SC2317  # Called by try_to.
remove_ours() {
  local names
  mapfile -t names < <(ours | sort)
  ((${#names[@]} == 0)) || dmsetup remove "${names[@]}"
}

# shellcheck disable=SC2317  # Called by try_to.
remove_parts() {
  local names
  mapfile -t names < <(dmsetup ls | sed -n 's/^\(cut[^[:space:]]*\).*/\1/p' | sort -r)
  ((${#names[@]} == 0)) || dmsetup remove "${names[@]}"
}

# shellcheck disable=SC2317  # Called by try_to.
are_gone() { ! ps --no-headers -p "$1" >/dev/null; }

# The supervisor is stopped first, so that it starts nobody again. Who is in a system call ends when that does, and what
# it mounts is there by then.
stop_services() {
  local path pids mount mounts
  if [[ -n $up ]]; then
    kill -STOP "$up"
    pids=$(pgrep -d, -P "$up" || true)
    pkill -KILL -P "$up" || true
    kill -KILL "$up"
    wait "$up" 2>/dev/null || true
    up=''
    [[ -z $pids ]] || try_to are_gone "$pids"
  fi
  # All of it before the first umount: who reads on would miss some.
  mapfile -t mounts </proc/mounts
  for mount in "${mounts[@]}"; do
    read -r _ path _ <<<"$mount"
    case $path in "$state"/mnt/*) try_to umount "$path" ;; esac
  done
  try_to remove_ours
}

take_disk_out() {
  try_to umount "$state"
  try_to remove_parts
  losetup --detach-all
}
