#!/bin/bash
# `cowslip fsck` on a real pool: each kind of difference made by hand, seen, and put right or left alone as the rules say;
# and nothing found while clients make and remove volumes. SECONDS_OF_LOAD may be set. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

load_seconds=${SECONDS_OF_LOAD:-15}

# fsck [--repair]: what it says in `found`, one "KIND SUBJECT" a line, and its exit status in `status`.
fsck() {
  status=0
  ask fsck "$@" >"$folder/fsck" 2>"$folder/fsck.errors" || status=$?
  found=$(cut -f 1,2 "$folder/fsck" | tr '\t' ' ')
}
# expect_found WHAT STATUS FOUND, of the last fsck.
expect_found() {
  expect "$1" "$3" "$found"
  expect "exit status of fsck, $1 ($(cat "$folder/fsck.errors"))" "$2" "$status"
}
# repaired WHAT FOUND: seen, put right, and gone.
repaired() {
  fsck
  expect_found "$1" 9 "$2"
  fsck --repair
  expect_found "$1, put right" 0 ''
  fsck
  expect_found "$1, afterwards" 0 ''
  echo "seen and put right: $2"
}
# kept WHAT FOUND: seen, and left alone by --repair.
kept() {
  fsck
  expect_found "$1" 9 "$2"
  fsck --repair
  expect_found "$1, left alone" 9 "$2"
}
went() {
  fsck
  expect_found "$1" 0 ''
  echo "seen, left alone, and gone: $1"
}
volume_field() { ask show "$1" --json | json "d['$2']"; }

cat >"$folder/config" <<'TOML'
reconcile = "1s"
TOML
cowslip --config "$folder/config" up --state "$COWSLIP_STATE" --device-actors 3 --mount-actors 2 >"$folder/up.log" 2>&1 &
up=$!
wait_for 60 grep -q ^ready: "$folder/up.log" || fail 'the services do not start'
fsck
expect_found 'without a pool' 0 ''
ask pool create --loop 1G
ask create base --size 64M
for name in mounted attached free; do ask create "$name" --parent base; done
path=$(ask get mounted)
device=$(ask attach attached)
fsck
expect_found 'a pool in order' 0 ''
pool=$(dmsetup ls | cut -f 1 | grep '^cowslip-.*-pool$')
uuid=$(field 'd["uuid"]')
# The dm name of a volume's device, and as somebody with dmsetup makes it.
name_of() { echo "${pool%-pool}-$(volume_field "$1" thin_id)"; }
activate() { dmsetup create "$(name_of "$1")" --uuid "COWSLIP-$uuid-$(volume_field "$1" thin_id)" --table "0 $2 thin $(pool_number) $(volume_field "$1" thin_id)"; }
pool_number() { dmsetup info --columns --noheadings -o major,minor --separator : "$pool" | tr -d ' '; }

# --- put right
dmsetup suspend "$device"
repaired 'a suspended device' "suspended $(volume_field attached thin_id)"
dmsetup suspend "$pool"
repaired 'a suspended pool' 'suspended default'
umount "$path"
repaired 'a mount that is gone' 'broken-lease mounted'
expect 'the mount of a lease' "$path" "$(findmnt --noheadings --output TARGET "$path")"
dmsetup remove "$device"
repaired 'a device that is gone' 'broken-lease attached'
[[ -b $device ]] || fail 'the device of a lease is not back'
activate free 131072
repaired 'a device without a lease' 'stray-device free'
dmsetup create "$(name_of free)" --uuid "COWSLIP-$uuid-$(volume_field free thin_id)" --notable
repaired 'a device without a table' 'stray-device free'
activate free 131072
mkdir -p "$COWSLIP_STATE/mnt/free/rootfs"
mount "/dev/mapper/$(name_of free)" "$COWSLIP_STATE/mnt/free/rootfs"
repaired 'a mount without a lease' 'stray-mount free'
mkdir "$COWSLIP_STATE/mnt/left"
repaired 'a directory left over' 'stray-mount left'
# Each look of the service's own holds one for a moment.
wait_for 20 dmsetup message "$pool" 0 reserve_metadata_snap 2>"$folder/held" || fail "reserve: $(cat "$folder/held")"
repaired 'a held metadata snapshot' 'held-snapshot default'
# shellcheck disable=SC2317  # Called by wait_for.
nothing_held() { [[ $(dmsetup status "$pool" | cut -d ' ' -f 7) = - ]]; }
wait_for 20 nothing_held || fail 'a metadata snapshot is held still'

# --- left alone
activate free 131072
exec 7<"/dev/mapper/$(name_of free)"
kept 'a device that is open' 'stray-device free'
exec 7<&-
# shellcheck disable=SC2317  # Called by wait_for.
not_active() { ! dmsetup info "$(name_of free)" >/dev/null 2>&1; }
wait_for 20 not_active || fail 'a device that was open is not put away'
went 'a device that was open'
mkdir -p "$COWSLIP_STATE/mnt/theirs/rootfs"
mount -t tmpfs tmpfs "$COWSLIP_STATE/mnt/theirs/rootfs"
kept 'a mount of something else' 'foreign-mount theirs'
umount "$COWSLIP_STATE/mnt/theirs/rootfs"
rm -r "$COWSLIP_STATE/mnt/theirs"
went 'a mount of something else'
ask create short --parent base
id=$(volume_field short thin_id)
ask rm --wait short
dmsetup message "$pool" 0 "create_thin $id"
kept 'a thin id without a row' "foreign-thin $id"
dmsetup message "$pool" 0 "delete $id"
went 'a thin id without a row'
id=$(volume_field free thin_id) base_id=$(volume_field base thin_id)
dmsetup message "$pool" 0 "delete $id"
kept 'a thin id that is gone' 'lost free'
expect 'state of a lost volume' lost "$(volume_field free state)"
dmsetup message "$pool" 0 "create_snap $id $base_id"
went 'a thin id that is gone'
expect 'state of one that is there again' ready "$(volume_field free state)"
dmsetup suspend "$device"
dmsetup reload "$device" --table "0 65536 thin $(pool_number) $(volume_field attached thin_id)"
dmsetup resume "$device"
kept 'a device of another size' 'wrong-size attached'
dmsetup suspend "$device"
dmsetup reload "$device" --table "0 131072 thin $(pool_number) $(volume_field attached thin_id)"
dmsetup resume "$device"
went 'a device of another size'
told=$(ask events --json | grep -o '"type":"finding[^"]*"' | sort | uniq -c)
echo "$told"
for kind in broken-lease foreign-mount foreign-thin held-snapshot lost stray-device stray-mount suspended wrong-size; do
  [[ $told == *"finding.$kind\""* ]] || fail "no event has told of $kind"
done
last=$(last_event)

echo "every kind of difference made in $SECONDS s"

# --- under load, with a look every second and those that are asked for
work() {
  local i=0 end=$((SECONDS + load_seconds))
  while ((SECONDS < end)); do
    i=$((i + 1))
    ask create "work-$1-$i" --parent base --get --holder "worker-$1" >/dev/null || return
    if ((i % 3 == 0)); then ask put "work-$1-$i" --holder "worker-$1" || return; fi
    ask rm --wait "work-$1-$((i - 4))" || return
    ask put "work-$1-$((i - 2))" --holder "worker-$1" || return
  done
  echo "$i" >"$folder/worked.$1"
}
workers=()
for worker in 1 2 3; do
  work "$worker" 2>"$folder/work-errors.$worker" &
  workers+=($!)
done
looks=0
until ! kill -0 "${workers[0]}" 2>/dev/null; do
  fsck
  expect_found 'under load' 0 ''
  looks=$((looks + 1))
done
for worker in "${workers[@]}"; do wait "$worker" || fail "a client was refused: $(cat "$folder"/work-errors.*)"; done
found_meanwhile=$(ask events --json --since "$last" | grep '"type":"finding' || true)
expect 'findings under load' '' "$found_meanwhile"
echo "$looks comparisons while $(cat "$folder"/worked.* | awk '{ sum += $1 } END { print sum }') volumes were made: nothing was found, $SECONDS s"

ask put mounted
ask detach attached
clean_up
echo "every difference was seen, and put right or left alone, in $SECONDS s"
