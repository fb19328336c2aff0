#!/bin/bash
# Faults of the metadata of a real pool: they cannot be written for a second under clients; they are damaged; they fail
# while a volume is leased. What was acknowledged is there afterwards, whoever has a lease is told, and the pool is in
# service again by itself or by the one command that status names. FAULTS may be set: how often the first of them happens.
# Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

faults=${FAULTS:-2}
clients=8

now_ms() { date +%s%3N; }
exit_status() { "$@" >"$folder/said" 2>&1 && echo 0 || echo $?; }
finding() { cowslip status --json | json 'next((f["detail"] for f in d["findings"] if f["kind"] == "pool"), "")'; }
is_found() { [[ $(finding) == *$1* ]]; }
mode_is_rw() { [[ $(cowslip pool status --json | json 'd["mode"]') == rw ]]; }
# table_of_metadata PARAMETERS: in place of the old one, with I/O going on.
table_of_metadata() {
  dmsetup load faulty --table "0 $metadata_sectors $*"
  dmsetup suspend --noflush --nolockfs faulty
  dmsetup resume faulty
}
break_metadata() { table_of_metadata "flakey $metadata_loop 0 0 3600 1 error_writes"; }
mend_metadata() { table_of_metadata "linear $metadata_loop 0"; }

# wipe_counts DEVICE: of used blocks, which thin_repair can make anew.
wipe_counts() {
  /usr/bin/python3 - "$1" <<'PYTHON'
import os, sys
# A block that knows its own number and is no node of a tree counts blocks (dm-space-map-common.c).
with open(sys.argv[1], "r+b", buffering=0) as disk:
    size, damaged = disk.seek(0, os.SEEK_END), 0
    for block in range(1, size // 4096):
        disk.seek(block * 4096)
        head = disk.read(4096)[:16]
        if head[4:8] == bytes(4) and int.from_bytes(head[8:], "little") == block:
            disk.seek(block * 4096)
            disk.write(os.urandom(4096))
            damaged += 1
    os.fsync(disk.fileno())
    assert damaged > 0
PYTHON
}

# --- a pool whose metadata lie on a device that can be made to fail
truncate -s 2G "$folder/data"
truncate -s 64M "$folder/metadata"
data=$(losetup --find --show "$folder/data")
metadata_loop=$(losetup --find --show "$folder/metadata")
metadata_sectors=$(blockdev --getsz "$metadata_loop")
dmsetup create faulty --table "0 $metadata_sectors linear $metadata_loop 0"
start_services --device-actors 8 --mount-actors 4
ask pool create --data "$data" --metadata /dev/mapper/faulty
ask create base --size 64M

# client NUMBER: volumes made, written, put, and one of three removed, until it is told to stop. Into a file of its own:
#   put NAME SUM     the put was acknowledged, and the volume holds that
#   gone NAME        the removal was acknowledged
#   unknown NAME     an answer said that writes may be lost, or there was none
client() {
  local number name path sum
  for ((number = 0; ; ++number)); do
    if [[ -e $folder/enough ]]; then break; fi
    name=c$1-$number
    path=$(cowslip create "$name" --parent base --get 2>>"$folder/errors") || { echo "unknown $name" && continue; }
    { head -c 300000 /dev/urandom >"$path/file" && mkdir "$path"/{1..20}; } 2>/dev/null || true
    sum=$(sha256sum <"$path/file") || sum=none
    if cowslip put "$name" 2>>"$folder/errors"; then
      echo "put $name ${sum%% *}"
    else
      echo "unknown $name"
      cowslip put "$name" --force 2>>"$folder/errors" || true
    fi
    if ((number % 3 == 2)); then
      if cowslip rm "$name" 2>>"$folder/errors"; then echo "gone $name"; else echo "unknown $name"; fi
    fi
  done
}

# Into `wanted` (name: sum) and `absent`.
read_client_log() {
  local what name sum
  while read -r what name sum; do
    case $what in
      put) wanted[$name]=$sum ;;
      gone) unset "wanted[$name]"; absent[$name]=1 ;;
      unknown) unset "wanted[$name]" ;;
    esac
  done <"$1"
}
# How long after the kernel's own word the fault was told of, in milliseconds; of the last one.
told_after() {
  local aborted
  aborted=$(dmesg --time-format iso | grep 'aborting current metadata transaction' | tail -n 1 | cut -d ' ' -f 1)
  cowslip events --json | /usr/bin/python3 -c '
import datetime, json, sys
parse = lambda text: datetime.datetime.fromisoformat(text.replace(",", ".").replace("Z", "+00:00")).timestamp()
told = [e["time"] for e in map(json.loads, sys.stdin) if e["type"] == "finding.pool"]
print(round((parse(told[-1]) - parse(sys.argv[1])) * 1000))
' "$aborted"
}

for ((turn = 1; turn <= faults; ++turn)); do
  rm -f "$folder/enough" "$folder"/log.*
  : >"$folder/errors"
  for ((i = 0; i < clients; ++i)); do client "$turn$i" >"$folder/log.$i" & jobs[i]=$!; done
  sleep 4
  break_metadata
  sleep 1
  mend_metadata
  mended=$(now_ms)
  wait_for 60 mode_is_rw || fail "turn $turn: not in service again: $(cowslip status)"
  back=$(now_ms)
  sleep 3
  touch "$folder/enough"
  for ((i = 0; i < clients; ++i)); do wait "${jobs[i]}" || fail "client $i"; done
  declare -A wanted=() absent=()
  for ((i = 0; i < clients; ++i)); do read_client_log "$folder/log.$i"; done
  told=$(told_after)
  for name in "${!absent[@]}"; do
    if cowslip exists "$name"; then fail "turn $turn: '$name' is there again"; fi
  done
  for name in "${!wanted[@]}"; do
    path=$(ask get "$name") || fail "turn $turn: '$name' was acknowledged, and cannot be mounted"
    got=$(sha256sum <"$path/file") || fail "turn $turn: '$name' has lost its file"
    expect "turn $turn: the contents of '$name'" "${wanted[$name]}" "${got%% *}"
    ask put "$name"
  done
  echo "turn $turn: ${#wanted[@]} volumes acknowledged, 0 lost, ${#absent[@]} removed; told $told ms after the kernel, in service $((back - mended)) ms after the fault's end"
done

# --- with a lease: told, refused in time, read, repaired at an operator's word
path=$(ask create leased --parent base --get --holder web)
head -c 100000 /dev/urandom >"$path/kept"
sync -f "$path"
sum=$(sha256sum <"$path/kept")
sleep 2
break_metadata
head -c 1000000 /dev/urandom >"$path/lost"  # New blocks: the next commit fails.
sync -f "$path" 2>/dev/null || true
wait_for 10 is_found needs_check || fail "the fault is not told of: $(finding)"
mend_metadata
expect 'exit status of a create' 9 "$(exit_status cowslip --timeout 5s create other --parent base)"
expect_match 'its words' '*leased*--evict*' "$(tr '\n' ' ' <"$folder/said")"
expect 'exit status of a put' 9 "$(exit_status cowslip --timeout 5s put leased --holder web)"
expect_match 'its words' '*may be lost*put leased --force*' "$(cat "$folder/said")"
expect 'exit status of a repair' 9 "$(exit_status cowslip --timeout 5s pool repair)"
expect_match 'its words' '*web*' "$(tr '\n' ' ' <"$folder/said")"
expect 'what is read meanwhile' "$sum" "$(sha256sum <"$path/kept")"
ask exists leased
ask pool repair --evict
mode_is_rw || fail 'the pool is not in service after the repair'
expect 'leases' '' "$(ask leases)"
path=$(ask get leased)
expect 'the contents of a volume whose lease was ended' "$sum" "$(sha256sum <"$path/kept")"
ask put leased
echo "with a lease: told, refused, read, repaired by --evict"

# --- damaged while it is in service
path=$(ask get leased)
break_metadata
head -c 1000000 /dev/urandom >"$path/lost2"
sync -f "$path" 2>/dev/null || true
wait_for 10 is_found needs_check || fail "the fault is not told of: $(finding)"
mend_metadata
wipe_counts "$metadata_loop"
truncate -s 64M "$folder/spare"
spare=$(losetup --find --show "$folder/spare")
expect 'exit status of a repair without a spare device' 9 "$(exit_status cowslip --timeout 100s pool repair --evict)"
expect_match 'its words' '*--spare*' "$(cat "$folder/said")"
before=$(sha256sum <"$metadata_loop")
ask pool repair --spare "$spare"
expect 'the damaged metadata' "$before" "$(sha256sum <"$metadata_loop")"
mode_is_rw || fail 'the pool is not in service after the repair of damaged metadata'
expect 'where its metadata lie' "$spare" "$(cowslip pool status --json | json 'd["metadata_device"]')"
path=$(ask get leased)
expect 'the contents of a volume' "$sum" "$(sha256sum <"$path/kept")"
ask put leased
ask create other --parent leased
expect 'exit status of fsck' 0 "$(exit_status cowslip fsck)"
echo 'damaged: mended onto the spare device, the damaged ones kept'

# --- and counted anew onto a third
ask cleanup
truncate -s 64M "$folder/third"
third=$(losetup --find --show "$folder/third")
expect 'exit status of a rewind without a spare device' 2 "$(exit_status cowslip pool rewind)"
expect_match 'its words' '*--spare*' "$(cat "$folder/said")"
before=$(sha256sum <"$spare")
ask pool rewind --spare "$third"
expect 'the old metadata' "$before" "$(sha256sum <"$spare")"
path=$(ask get leased)
expect 'the contents of a volume after the rewind' "$sum" "$(sha256sum <"$path/kept")"
ask put leased
expect 'where the metadata lie after the rewind' "$third" "$(cowslip pool status --json | json 'd["metadata_device"]')"
expect 'exit status of fsck after the rewind' 0 "$(exit_status cowslip fsck)"
echo 'rewound: onto another device, the old metadata kept'

ask cleanup
expect 'dm devices' faulty "$(dmsetup ls | cut -f 1)"
thin_check "$third" >"$folder/check" 2>&1 || fail "thin_check: $(cat "$folder/check")"
stop_services || fail 'the services did not end with 0'
dmsetup remove faulty
losetup --detach "$data" "$metadata_loop" "$spare" "$third"

# --- a pool in files, damaged while it is put away
export COWSLIP_STATE=$folder/state2
start_services
ask pool create --loop 512M
ask create base --size 64M
path=$(ask create kept --parent base --get)
head -c 100000 /dev/urandom >"$path/kept"
sum=$(sha256sum <"$path/kept")
ask put kept
ask cleanup
wipe_counts "$COWSLIP_STATE/pool/metadata"
before=$(sha256sum <"$COWSLIP_STATE/pool/metadata")
cowslip --timeout 60s pool start >/dev/null 2>&1 || true  # It may be refused while it is mended.
wait_for 60 mode_is_rw || fail "not in service again: $(cowslip status)"
path=$(ask get kept)
expect 'the contents of a volume' "$sum" "$(sha256sum <"$path/kept")"
expect 'the damaged metadata' "$before" "$(sha256sum <"$COWSLIP_STATE/pool/metadata.damaged-1")"
ask put kept
clean_up
echo 'damaged while put away: mended, the damaged ones kept'
