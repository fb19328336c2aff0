#!/bin/bash
# Backups of the store on the real kernel: made while the service works, verified, damaged ones told, the manager killed in
# the middle; and one restored after volumes were made and removed: nothing is served before a rebuild, and after it every
# volume that the pool has is there with what was written to it. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

store=$COWSLIP_STATE/store

start() { start_services --device-actors 2 --mount-actors 1; }
names() { ask ls | cut -f 1 | sort | tr '\n' ' '; }
# status_of WORD...: of a command that fails; what it says is in $folder/out.
status_of() {
  local status=0
  ask "$@" >"$folder/out" 2>&1 || status=$?
  echo "$status"
}
# Of all files below the store but what a process that runs writes: their names, sizes, times and contents.
traces() { (cd "$store" && find . -type f -exec stat --format '%n %s %y' {} + -exec sha256sum {} + | sort); }

# Where there is no service yet there is nothing to verify.
expect 'exit status of a verify of nothing' 3 "$(status_of store verify)"
start
expect 'exit status of a verify before there is a backup' 5 "$(status_of store verify)"
ask pool create --loop 1G
ask create base --size 64M
write base 'the base'
ask create one --parent base --label team=blue
write one 'the first'
ask create two --parent one
write two 'the second'

# A backup, and a copy of it elsewhere.
file=$folder/mine.db
expect 'path of a backup' "$file" "$(ask store backup "$file")"
expect 'exit status of another there' 4 "$(status_of store backup "$file")"
ask store backup "$file" --force
expect 'backups' 2 "$(ask store list | wc -l)"
expect_match 'the list' '*"sequence":2,*"volumes":3*' "$(ask store list --json)"
expect "mode of the folder of backups" 700 "$(stat --format %a "$store/backups")"
expect_match 'the copy' "*\"path\":\"$file\"*\"volumes\":3*" "$(ask store verify "$file" --json)"
expect_match 'the newest backup' "*$store/backups/000002-*" "$(ask store verify)"
expect 'exit status of a restore below a service' 5 "$(status_of store restore "$file")"
ask get one --holder somebody >/dev/null
ask put one --holder somebody

# Since then: one removed, one made.
ask rm --wait two
ask create three --parent one
write three 'the third'

# Killed in the middle of backups, each is whole or not there. What works meanwhile goes on.
for ((kill = 1; kill <= 5; ++kill)); do
  ask store backup >"$folder/backup.$kill" 2>&1 &
  asked=$!
  sleep "0.0$kill"
  pkill -9 -P "$up" -f /cowslip-pool-manager
  wait "$asked" || true
  ask create "kill-$kill" --parent base >/dev/null
  ask rm --wait "kill-$kill"
  for backup in "$store"/backups/*-*.db; do
    ask store verify "$backup" >/dev/null || fail "$backup is not whole after kill $kill"
  done
  (($(ask store list | wc -l) <= 3)) || fail "more than three backups: $(ask store list)"
done
expect 'unfinished backups' '' "$(find "$store/backups" -name '*.tmp*')"
echo "$SECONDS s: backups are whole after kills"
ask store backup >/dev/null

# Damaged ones are told, and not restored.
dumps=$COWSLIP_STATE/pool/backups
expect 'mode of the folder of dumps' 700 "$(stat --format %a "$dumps")"
# shellcheck disable=SC2012  # Names of ours.
expect 'dumps of the newest backups' "$(cd "$store/backups" && ls -- *.with-dump.db | sed 's/.with-dump.db//' | sort)" \
  "$(cd "$dumps" && ls | sed 's/.xml.gz//' | sort)"
# The newest makes metadata again, in a file of the same size, that are whole and have the volumes.
newest=$(find "$dumps" -name '*.xml.gz' | sort | tail -n 1)
gzip -dc "$newest" >"$folder/dump.xml"
truncate --size "$(stat --format %s "$COWSLIP_STATE/pool/metadata")" "$folder/scratch"
scratch=$(losetup --find --show "$folder/scratch")
thin_restore -i "$folder/dump.xml" -o "$scratch" >"$folder/out" 2>&1 || fail "thin_restore: $(cat "$folder/out")"
thin_check "$scratch" >"$folder/out" 2>&1 || fail "thin_check of the dump: $(cat "$folder/out")"
thin_ls --no-headers -o DEV "$scratch" | tr -d ' ' >"$folder/in-dump"
losetup --detach "$scratch"
for name in base one three; do
  id=$(ask show "$name" --json | grep -o '"thin_id":[0-9]*')
  grep -qx "${id#*:}" "$folder/in-dump" || fail "$name is not in the dump: $(cat "$folder/in-dump")"
done
echo "$SECONDS s: the dump makes whole metadata"

stop_services
cp "$file" "$folder/damaged.db"
dd if=/dev/urandom of="$folder/damaged.db" bs=4096 seek=3 count=1 conv=notrunc status=none
expect 'exit status of a verify of a damaged one' 9 "$(status_of store verify "$folder/damaged.db")"
echo 'no store' >"$folder/none.db"
expect 'exit status of a verify of something else' 9 "$(status_of store verify "$folder/none.db")"
expect 'exit status of a verify of what is not there' 3 "$(status_of store verify "$folder/absent.db")"
before=$(traces)
expect 'exit status of a restore of a damaged one' 9 "$(status_of store restore "$folder/damaged.db")"
expect_match 'the store, without the service' '*"volumes":3*' "$(ask store verify --json)"
expect 'what verify and a refused restore leave' "$before" "$(traces)"

# Restored: the service starts, and nothing is served before a rebuild.
replaced=$(ask store restore "$file")
expect 'where the old one is' "$store/store.db.replaced-1" "$replaced"
expect_match 'the old one' '*"volumes":3*' "$(ask store verify "$replaced" --json)"
start
expect state frozen "$(field 'd["state"]')"
expect verdict store_restored "$(field 'd["verdict"]')"
expect 'exit status of create' 9 "$(status_of create new)"
expect_match 'the way out' '*cowslip pool rebuild*' "$(cat "$folder/out")"
expect 'exit status of get' 9 "$(status_of get one)"
expect 'exit status of pool start' 9 "$(status_of pool start)"
stop_services
start
expect 'exit status of get after another start' 9 "$(status_of get one)"
ask pool rebuild --json >"$folder/rebuilt"
cat "$folder/rebuilt"
expect_match 'what is gone' '*"dropped":\["two"\]*' "$(cat "$folder/rebuilt")"
expect verdict normal "$(field 'd["verdict"]')"
expect 'volumes' 'base one three ' "$(names)"  # A clean stop has written down what the last minute brought.
expect base 'the base' "$(read_back base)"
expect one 'the first' "$(read_back one)"
expect three 'the third' "$(read_back three)"
expect_match labels '*team*blue*' "$(ask show one --json)"
ask create four --parent one
expect four 'the first' "$(read_back four)"
ask rm --wait four
clean_up
echo "every backup was whole, and the restored one came to the pool as it was, in $SECONDS s"
