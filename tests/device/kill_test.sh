#!/bin/bash
# Clones made by parallel clients while each kind of process is killed with -9 in turn: every client gets its answer, every
# acknowledged volume is there and can be got and removed, and nothing is left over.
# CLONES and CLIENTS may be set. Needs root and device-mapper; runs in deploy/sandbox.
set -euo pipefail

root=$(realpath "$(dirname "$0")/../..")
PATH=$root/build/release/bin:$PATH:/usr/sbin:/sbin
clones=${CLONES:-48} clients=${CLIENTS:-8}
[[ -e /dev/mapper/control ]] || { echo "no device-mapper: skipped"; exit 77; }

folder=$(mktemp -d)
export COWSLIP_STATE=$folder/state
mkdir "$COWSLIP_STATE"
cowslip up --state "$COWSLIP_STATE" --device-actors 4 --mount-actors 3 >"$folder/up.log" 2>&1 &
up=$!

fail() {
  echo "kill_test: $*"
  tail -n 40 "$folder/up.log"
  kill -TERM "$up" 2>/dev/null || true
  exit 1
}

for ((i = 0; i < 300; ++i)); do
  if [[ -S $COWSLIP_STATE/run/clients.sock ]]; then break; fi
  sleep 0.2
done
cowslip --timeout 60s pool create --loop 512M || fail "pool create"
cowslip --timeout 60s create base --size 64M || fail "create base"

client() {
  local number
  for ((number = $1; number < clones; number += clients)); do
    cowslip --timeout 120s create "clone-$number" --parent base && echo "clone-$number" >>"$folder/acknowledged.$1"
  done
}
workers=()
for ((i = 0; i < clients; ++i)); do
  client "$i" 2>>"$folder/errors" &
  workers+=($!)
done
for program in cowslip-pool-manager cowslip-device-actor cowslip-mount-actor cowslip-pool-manager cowslip-device-actor; do
  sleep 2
  victim=$(pgrep -P "$up" -f "$program" | shuf -n 1)
  if [[ -n $victim ]]; then kill -9 "$victim"; fi
  echo "killed $program $victim"
done
wait "${workers[@]}"
[[ ! -s $folder/errors ]] || fail "a client was told: $(cat "$folder/errors")"

acknowledged=$(cat "$folder"/acknowledged.* | sort)
there=$(cowslip --timeout 60s ls --json | grep -o '"id":"clone-[0-9]*"' | cut -d '"' -f 4 | sort)
[[ $(wc -l <<<"$acknowledged") -eq $clones ]] || fail "$(wc -l <<<"$acknowledged") of $clones creates were acknowledged"
[[ $acknowledged == "$there" ]] || fail "acknowledged and there differ"

mapfile -t names <<<"$acknowledged"
for name in "${names[@]:0:${GETS:-8}}"; do
  path=$(cowslip --timeout 60s get "$name") || fail "get $name"
  echo "$name" >"$path/name" || fail "write to $name"
  cowslip --timeout 60s put "$name" || fail "put $name"
done
cowslip --timeout 120s rm --wait "${names[@]}" || fail "rm"
cowslip --timeout 60s rm --wait base || fail "rm base"
findings=$(cowslip status --json | grep -o '"findings":\[[^]]*\]')
[[ $findings == '"findings":[]' ]] || fail "$findings"
cowslip --timeout 120s cleanup || fail "cleanup"
[[ -z $(dmsetup ls | grep cowslip || true) ]] || fail "dm devices are left: $(dmsetup ls)"
# Through a loop device: thin_check reads past the page cache, which tmpfs does not do.
metadata=$(losetup --find --show --read-only "$COWSLIP_STATE/pool/metadata")
thin_check "$metadata" >"$folder/check" 2>&1 || fail "thin_check: $(cat "$folder/check")"
losetup --detach "$metadata"
kill -TERM "$up"
wait "$up" || fail "up ended with $?"
[[ -z $(ls "$COWSLIP_STATE/mnt") ]] || fail "mount folders are left"
rm -rf "$folder"
echo "all $clones acknowledged clones were there, and nothing is left"
