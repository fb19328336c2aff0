#!/bin/bash
# Each way to make a pool: made, used, grown while somebody writes, put away with all processes as a reboot would, and there
# again with what was written. In files (sparse, or with their blocks allocated ahead), on two block devices, with
# block devices of its own, adopted. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

data_mib() { field 'd["data"]["total_bytes"] // 1048576'; }
allocated_mib() { stat -c '%b %B' "$1" | { read -r blocks size && echo $((blocks * size / 1048576)); }; }
services() { start_services --device-actors 2 --mount-actors 2; }

# Writes and syncs pieces of 1 MiB until it is told to stop; then what it wrote is compared.
start_writer() {
  path=$(ask get written)
  rm -f "$folder/enough" "$folder/pieces"
  (
    pieces=0
    until [[ -e $folder/enough ]] && ((pieces >= 4)); do
      dd if="$folder/random" of="$path/piece-$((pieces % 12))" bs=1M conv=fsync status=none || fail 'a write failed'
      pieces=$((pieces + 1))
      echo "$pieces" >"$folder/pieces"
    done
  ) &
  writer=$!
  wait_for 20 test -e "$folder/pieces"
}
end_writer() {
  touch "$folder/enough"
  wait "$writer" || fail 'the writer got an error'
}
check_pieces() {
  local file number=0
  for file in "$1"/piece-*; do
    cmp "$file" "$folder/random"
    number=$((number + 1))
  done
  ((number >= 4)) || fail "only $number pieces in $1"
}

# use NAME GROW...: with a pool that was just made; GROW makes it larger. $meanwhile is done before it is started again.
meanwhile=true
use() {
  local name=$1 before after
  shift
  before=$(data_mib)
  ask create written --size 64M
  start_writer
  "$@"
  end_writer
  after=$(data_mib)
  ((after > before)) || fail "$name: $before MiB of data before, $after after its growth"
  check_pieces "$path"
  ask put written
  # As a reboot does.
  ask cleanup
  stop_services || fail 'the services did not end with 0'
  expect "$name: our devices" '' "$(dmsetup ls | grep -E '^(cowslip|COWSLIP)' || true)"
  "$meanwhile"
  services
  check_pieces "$(ask get written --read-only)"
  expect "$name: data after the restart" "$after" "$(data_mib)"
  ask put written
  ask create later --parent written --get >/dev/null
  ask put later --rm
  ask rm --wait later written
  echo "$SECONDS s: $name: $before to $after MiB under a writer, and there after a restart"
}

end_pool() {
  ask pool destroy --yes
  stop_services || fail 'the services did not end with 0'
}

head -c 1M /dev/urandom >"$folder/random"

# ---- in files

services
ask pool create --loop 96M
expect 'features' '[]' "$(field 'd["features"]')"
((allocated=$(allocated_mib "$COWSLIP_STATE/pool/data"), allocated < 32)) || fail "a sparse file has $allocated MiB"
use 'sparse files' ask pool grow --data 160M
end_pool

# ---- in files with all their blocks: what is free below is used up by others meanwhile, and it is no loss

truncate -s 384M "$folder/below"
mkfs.ext4 -q -F -m 0 "$folder/below"  # What is kept for root the manager could not have.
mkdir "$folder/mounted"
mount -o loop "$folder/below" "$folder/mounted"
chmod 711 "$folder/mounted"
state=$COWSLIP_STATE
COWSLIP_STATE=$folder/mounted/state
services
status=0
ask pool create --loop 1G --preallocate 2>"$folder/refused" || status=$?
expect 'exit status without room' 6 "$status"
expect_match 'what is said' '*free*' "$(cat "$folder/refused")"
# What a device-actor that died in a create has left was refused as somebody's data, and its room was wanted once more.
fallocate -l 240M "$COWSLIP_STATE/pool/data"
ask pool create --loop 96M --preallocate
expect 'features' "['no_discard_passdown', 'preallocated']" "$(field 'd["features"]')"
file=$COWSLIP_STATE/pool/data
((allocated=$(allocated_mib "$file"), allocated >= 96)) || fail "of 96 MiB $allocated are allocated"
grow_and_fill() {
  local free
  ask pool grow --data 160M
  free=$(df --output=avail -BM "$folder/mounted" | tail -n 1 | tr -dc 0-9)
  head -c "$((free - 8))M" /dev/zero >"$folder/mounted/others"
  sync -f "$folder/mounted"
  rm -f "$folder/pieces"
  wait_for 20 test -e "$folder/pieces"  # It writes still.
}
use 'files allocated ahead' grow_and_fill
((allocated=$(allocated_mib "$file"), allocated >= 160)) || fail "of 160 MiB $allocated are allocated after a removal"
# A manager that ended on a file system without a free block could not start again: it made its lock file empty first.
dd if=/dev/zero of="$folder/mounted/others" bs=4K oflag=append conv=notrunc status=none 2>/dev/null || true
kill -9 "$(ask status --json | json 'd["pid"]')"
wait_for 60 timeout 5 cowslip --timeout 3s ls >/dev/null
rm "$folder/mounted/others"
end_pool
umount "$folder/mounted"
COWSLIP_STATE=$state

# ---- on two block devices

device_of() {
  truncate -s "$2" "$folder/$1"
  losetup --find --show "$folder/$1"
}
grow_device() {
  truncate -s "$2" "$folder/$1"
  losetup --set-capacity "$(losetup --noheadings --output NAME --associated "$folder/$1")"
}
data=$(device_of data 96M)
metadata=$(device_of metadata 8M)
services
ask pool create --data "$data" --metadata "$metadata"
grow_pair() {
  grow_device data 160M
  ask pool grow
}
use 'two block devices' grow_pair
end_pool
expect 'what is on the devices' '' "$(blkid -p "$data" "$metadata" || true)"
losetup --detach "$data"
losetup --detach "$metadata"

# ---- with a part of block devices of its own, of which one becomes larger

one=$(device_of one 96M)
other=$(device_of other 96M)
services
ask pool create --device "$one" "$other" --data-size 32M --metadata-size 4M
expect 'data at first' 32 "$(data_mib)"
grow_from_reserve() {
  ask pool grow --data 80M --metadata 8M
  expect 'data' 80 "$(data_mib)"
  expect 'metadata' 8 "$(field 'd["metadata"]["total_bytes"] // 1048576')"
  grow_device one 192M
  rm -f "$folder/pieces"
  wait_for 20 test -e "$folder/pieces"  # It writes still.
  ask pool grow
  expect 'what is in reserve' 0 "$(field 'd["reserve_bytes"]')"
}
use 'a part of its own devices' grow_from_reserve
end_pool

# By itself.
services
ask pool create --device "$one" "$other" --data-size 32M --max-size 160M --grow-step 16M
fill_up() {
  ask create filler --size 256M --fs none
  dd if=/dev/zero of="$(ask attach filler)" bs=1M count=64 conv=fsync status=none
  ask detach filler
  ask rm --wait filler
}
use 'a part of its own devices, by itself' fill_up
end_pool
losetup --detach "$one"
losetup --detach "$other"

# ---- with block devices of its own, which are called otherwise after a restart

one=$(device_of one 96M)
other=$(device_of other 96M)
services
ask pool create --device "$one" --metadata-size 8M
swap_names() {
  losetup --detach "$one"
  losetup --detach "$other"
  expect 'the name of the other' "$one" "$(device_of other 96M)"
  expect 'the name of the one' "$other" "$(device_of one 96M)"
}
meanwhile=swap_names
use 'block devices of its own' ask pool grow --device "$other"
meanwhile=true
expect 'where its devices are' "['$other', '$one']" "$(field 'd["devices"]')"
# Its metadata are written anew into the other areas.
ask create kept
write kept 'a text'
ask cleanup
ask pool rewind
ask pool start
expect 'a text after the rewind' 'a text' "$(read_back kept)"
# The store is lost: one of its devices is named, and the other one is found.
ask cleanup
stop_services || fail 'the services did not end with 0'
rm -r "$COWSLIP_STATE"/store/*
services
ask pool rebuild --device "$other"
expect 'a text after the rebuild' 'a text' "$(read_back kept)"
end_pool
expect 'what is on the devices' '' "$(blkid -p "$one" "$other" || true)"
for device in "$one" "$other"; do cmp --bytes=1048576 "$device" /dev/zero; done
losetup --detach "$one"
losetup --detach "$other"

# ---- adopted: made and grown by its owner

data=$(device_of data 96M)
metadata=$(device_of metadata 8M)
dd if=/dev/zero of="$metadata" bs=4096 count=1 conv=fsync status=none
table() { echo "0 $1 thin-pool $metadata $data 128 64 1 error_if_no_space"; }
dmsetup create owners --table "$(table 196608)"
services
ask pool create --adopt owners
grow_adopted() {
  grow_device data 160M
  dmsetup reload owners --table "$(table 327680)"
  dmsetup suspend owners
  dmsetup resume owners
  wait_for 10 sh -c 'cowslip pool status --json | grep -q "\"total_bytes\": *167772160"'
}
use 'an adopted pool' grow_adopted
end_pool
expect_match 'the pool, which is given back' '0 327680 thin-pool *' "$(dmsetup status owners)"
dmsetup remove owners
losetup --detach "$data"
losetup --detach "$metadata"
