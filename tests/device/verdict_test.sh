#!/bin/bash
# Stores and pools that do not belong together, on the real kernel: an older store, older metadata, a zeroed superblock,
# another pool's metadata, a foreign transaction id, a planted thin id, deleted thin ids. Each has its verdict by name,
# nothing of the pool is changed, and the way out works. And a store that was lost, made anew from the pool: every volume is
# there with what was written to it. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

store=$COWSLIP_STATE/store metadata=$COWSLIP_STATE/pool/metadata

# A pool that was put away is started by the first request that wants it.
start() {
  start_services --device-actors 2 --mount-actors 1
  ask pool start >/dev/null 2>&1 || true
}
# The pool put away and the services stopped: what lies on the disk is all there is.
halt() {
  ask cleanup
  stop_services || fail 'the services did not end with 0'
}
# The same, with nobody asked: what was not written down yet never is.
crash() {
  kill -STOP "$up"
  pkill -KILL -P "$up" || true
  kill -KILL "$up"
  wait "$up" 2>/dev/null || true
  up=''
  wait_for 20 remove_devices || fail "devices are left: $(dmsetup ls)"
  losetup --list --noheadings --output NAME,BACK-FILE | grep -F " $folder/" | cut -d ' ' -f 1 | xargs losetup --detach
}
# Volumes before the pool that they hold. Called by wait_for.
# shellcheck disable=SC2317
remove_devices() {
  dmsetup ls | cut -f 1 | grep '^cowslip-' | sort | xargs --no-run-if-empty --max-args=1 dmsetup remove 2>/dev/null || true
  ! dmsetup ls | grep -q '^cowslip-'
}
pool_device() { dmsetup ls | grep -o '^cowslip-[0-9a-f]*-pool'; }
keep() { rm -rf "$1" && cp -a --sparse=always "$2" "$1"; }
# In place: what is attached to a loop device stays so.
put_metadata() { cp --sparse=always "$1" "$metadata"; }
superblock() { dd if="$1" bs=4096 count=1 status=none | sha256sum; }

# expect_frozen VERDICT: the service has started, and does nothing to the pool.
expect_frozen() {
  local before status=0
  before=$(superblock "$metadata")
  expect_match "status" "*\"state\":\"frozen\",\"verdict\":\"$1\"*" "$(ask pool status --json)"
  ask create new >"$folder/out" 2>&1 || status=$?
  expect "exit status of create under $1" 9 "$status"
  expect "superblock under $1" "$before" "$(superblock "$metadata")"
  echo "$SECONDS s: $1 is seen, and nothing is changed: $(cut -c 1-160 "$folder/out")"
}
# shellcheck disable=SC2317  # Called by wait_for.
backed_up() { ask status --json | grep -q '"store_backups":[1-9]'; }
names() { ask ls | cut -f 1 | sort | tr '\n' ' '; }

start
ask pool create --loop 1G
expect verdict normal "$(field 'd["verdict"]')"
expect 'dm devices of a new pool' 1 "$(dmsetup ls | grep -c cowslip)"
ask create base --size 64M
write base 'the base'
halt
keep "$folder/old-store" "$store"
keep "$folder/old-metadata" "$metadata"

start
ask create one --parent base --label team=blue
write one 'the first'
ask create two --parent one --size 128M
write two 'the second'
stop_services
start  # A generation opens, and with it goes a backup of the store into the pool.
wait_for 20 backed_up || fail 'no backup of the store is written'
halt
keep "$folder/new-metadata" "$metadata"
volumes='base one two '

# (a) An older store over a newer pool.
keep "$store" "$folder/old-store"
start
expect_frozen store_older
expect_match 'the event' '*pool.verdict*' "$(ask events --since 0 | grep store_older | head -n 1)"
expect 'volumes that the older store knows' 'base ' "$(names)"
ask pool start --read-only
expect 'state' read_only "$(field 'd["state"]')"
expect 'mode' ro "$(field 'd["mode"]')"
expect 'the base, read-only' 'the base' "$(read_back base --read-only)"
ask cleanup
expect 'superblock after the look' "$(superblock "$folder/new-metadata")" "$(superblock "$metadata")"
ask pool rebuild
expect 'volumes after the rebuild' "$volumes" "$(names)"
expect 'two, rebuilt' 'the second' "$(read_back two)"
expect_match 'labels, rebuilt' '*team*blue*' "$(ask show one --json)"
expect verdict normal "$(field 'd["verdict"]')"
halt

# (b) An older metadata image under a newer store.
keep "$folder/new-metadata" "$metadata"
put_metadata "$folder/old-metadata"
start
expect_frozen pool_older
stop_services
put_metadata "$folder/new-metadata"

# (c) A zeroed superblock: never loaded, so never formatted.
dd if=/dev/zero of="$metadata" bs=4096 count=1 conv=notrunc status=none
start
expect_frozen superblock_zeroed
expect 'dm devices' '' "$(dmsetup ls | grep cowslip || true)"
stop_services
put_metadata "$folder/new-metadata"

# (d) The metadata of another pool, made alike.
other=$folder/other
cowslip up --state "$other" --device-actors 2 --mount-actors 1 >"$folder/other.log" 2>&1 &
other_up=$!
wait_for 60 grep -q ^ready: "$folder/other.log" || fail 'the other service does not start'
ask --state "$other" pool create --loop 1G
ask --state "$other" create base --size 64M
ask --state "$other" cleanup
kill -TERM "$other_up"
wait "$other_up" || fail 'the other service did not end with 0'
put_metadata "$other/pool/metadata"
start
expect_frozen metadata_swapped
expect 'dm devices' '' "$(dmsetup ls | grep cowslip || true)"
stop_services
put_metadata "$folder/new-metadata"
# Its data below our metadata.
mv "$COWSLIP_STATE/pool/data" "$folder/own-data"
cp -a --sparse=always "$other/pool/data" "$COWSLIP_STATE/pool/data"
start
expect_frozen data_swapped
stop_services
mv "$folder/own-data" "$COWSLIP_STATE/pool/data"
put_metadata "$folder/new-metadata"

# (e) A foreign set_transaction_id, seen while the pool is live; given back.
start
ours=$(field 'd["transaction_id"]')
dmsetup message "$(pool_device)" 0 "set_transaction_id $ours 12345"
wait_for 10 grep -q 'pool frozen' "$folder/up.log" || fail 'the foreign transaction id is not seen'
expect_frozen foreign_transaction_id
ask cleanup
stop_services
start
expect verdict foreign_transaction_id "$(field 'd["verdict"]')"
ask pool rebuild
expect verdict normal "$(field 'd["verdict"]')"
expect 'one, after a foreign transaction id' 'the first' "$(read_back one)"

# (f) A planted thin id.
dmsetup message "$(pool_device)" 0 'create_thin 4242'
stop_services
start
expect verdict orphans "$(field 'd["verdict"]')"
ask create three --parent one
id=$(ask show three --json | grep -o '"thin_id":[0-9]*')
[[ ${id#*:} -gt 4242 ]] || fail "the thin id of a new volume is $id"

# (g) Thin ids deleted behind our back.
id=$(ask show three --json | grep -o '"thin_id":[0-9]*')
# Activated behind the reply of its create, and put away again.
wait_for 20 bash -c "! dmsetup ls | grep -q -- '-${id#*:}[^0-9]'" || fail 'the device of an idle volume stays'
dmsetup message "$(pool_device)" 0 "delete ${id#*:}"
stop_services
start
expect verdict lost "$(field 'd["verdict"]')"
expect_match 'the lost volume' '*"state":"lost"*' "$(ask show three --json)"
status=0
ask get three 2>"$folder/out" || status=$?
expect 'exit status of a get of it' 9 "$status"
ask rm --wait three

# A lost store: everything comes back, by name where the newest backup has it.
ask create four --parent two
write four 'the fourth'
stop_services
start
wait_for 20 backed_up || fail 'no backup of the store is written'
ask create five --parent one
write five 'the fifth'
fifth=$(ask show five --json | grep -o '"thin_id":[0-9]*')
crash
rm -rf "$store"
start
expect state none "$(field 'd["state"]')"
status=0
ask pool create --loop 1G 2>"$folder/out" || status=$?
expect 'exit status of pool create over it' 5 "$status"
ask pool rebuild --json >"$folder/rebuilt"
cat "$folder/rebuilt"
expect 'volumes after the rebuild' "base four one recovered-${fifth#*:} two " "$(names)"
expect base 'the base' "$(read_back base)"
expect one 'the first' "$(read_back one)"
expect two 'the second' "$(read_back two)"
expect four 'the fourth' "$(read_back four)"
expect five 'the fifth' "$(read_back "recovered-${fifth#*:}")"
expect_match 'its size' '*"size_bytes":67108864*' "$(ask show "recovered-${fifth#*:}" --json)"
expect_match 'labels' '*team*blue*' "$(ask show one --json)"
ask create six --parent four
expect six 'the fourth' "$(read_back six)"
ask rm --wait six
clean_up
echo "every verdict was given and every volume came back, in $SECONDS s"
