#!/bin/bash
# A pool of each kind is made, used, stopped, checked and destroyed: its files are gone, its devices show nothing of it to
# libblkid and take another pool without --force, an adopted one is empty again; also where the manager is killed
# meanwhile.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

use_it() {
  ask create base --size 300M
  write base "$1"
  ask create a --parent base
  expect 'what the clone holds' "$1" "$(read_back a)"
}

disk() {
  local file=/dev/shm/destroy-$1
  truncate -s "$2" "$file"
  losetup --find --show "$file"
}

start_services --device-actors 2 --mount-actors 1

echo 'in files'
ask pool create --loop 1G
use_it loop
path=$(ask get a)
status=0
ask pool destroy --yes 2>"$folder/refused" || status=$?
expect 'status while a volume is leased' 5 "$status"
expect_match 'who has it' '*a (mounted_rw by default)*' "$(cat "$folder/refused")"
ask put a
[[ ! -e $path ]] || fail "$path is there still"
ask pool stop
ask pool check
ask pool destroy --yes
[[ ! -e $COWSLIP_STATE/pool/data && ! -e $COWSLIP_STATE/pool/metadata ]] || fail 'its files are there still'
expect 'loop devices of it' '' "$(losetup --associated "$COWSLIP_STATE/pool/data" 2>/dev/null || true)"
expect 'volumes' '[]' "$(ask --json ls)"

echo 'on two devices'
data=$(disk data 2G) metadata=$(disk metadata 64M)
for round in 1 2; do
  ask pool create --data "$data" --metadata "$metadata"
  use_it "pair $round"
  ask pool destroy --yes
  for device in "$data" "$metadata"; do
    expect "what is on $device" '' "$(blkid --probe "$device" || true)"
  done
done

echo 'with the manager killed in the middle'
for round in 1 2 3 4; do
  ask pool create --data "$data" --metadata "$metadata"
  use_it "killed $round"
  ask pool destroy --yes &
  sleep "0.$((round * 2))"
  pkill -KILL -x -P "$up" cowslip-pool-ma || true
  wait "$!" || fail "it is not destroyed in round $round"
  expect 'the pool' none "$(ask --json pool status | sed -n 's/.*"state": *"\([a-z_]*\)".*/\1/p')"
done

echo 'adopted'
dmsetup create theirs --table "0 $(blockdev --getsz "$data") thin-pool $metadata $data 128 0"
ask pool create --adopt theirs
use_it adopted
status=0
ask pool destroy --yes 2>"$folder/refused" || status=$?
expect 'status while it has volumes' 5 "$status"
ask rm --wait a base
ask pool destroy --yes
expect_match 'its status' '0 * thin-pool 0 */* 0/*' "$(dmsetup status theirs)"
dmsetup remove theirs

stop_services
losetup --detach "$data" "$metadata"
rm /dev/shm/destroy-*
