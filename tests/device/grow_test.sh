#!/bin/bash
# A pool's room on the real kernel. With extension on: writers at full speed fill a small pool up to its limit, without one
# error, and what they wrote is there after a restart. With extension off: what is lost is told by fsync and by an event, the
# service answers all the time and removes, and `pool grow` brings the writer back within 5 s. Metadata filled to the last
# blocks, then grown: in service, and thin_check finds nothing. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

# pattern KEY MIB: what is written; it can be made again.
pattern() {
  local i
  [[ -e $folder/random-$1 ]] || head -c 1M /dev/urandom >"$folder/random-$1"
  for ((i = 0; i < $2; ++i)); do cat "$folder/random-$1"; done
}
fill() { pattern "$2" "$3" | dd of="$1" bs=1M conv=fsync,notrunc status=none "${@:4}"; }
# Called by wait_for.
# shellcheck disable=SC2317
mode_is() { [[ $(field 'd["mode"]') == "$1" ]]; }
events() { ask events --since 0 | grep -c "$1" || true; }
now() { date +%s%3N; }

# ---- extension on

start_services --device-actors 2 --mount-actors 2
ask pool create --loop 32M --max-size 96M --grow-step 16M
ask create base --size 256M
first=$(ask create first --parent base --get)
second=$(ask create second --parent base --get)
began=$(now)
fill "$first/file" a 26 &
writer=$!
fill "$second/file" b 26 || fail 'the second writer got an error'
wait "$writer" || fail 'the first writer got an error'
took=$(($(now) - began))
data=$(field 'd["data"]["total_bytes"] // 1048576')
((data > 52 && data <= 96)) || fail "the pool has $data MiB of data"
expect 'mode' rw "$(field 'd["mode"]')"
extensions=$(events pool.extended)
((extensions >= 2)) || fail "the pool was extended $extensions times"
events=$(ask status --json | json 'd["counters"].get("pool_events", 0)')
((events >= 1)) || fail 'the kernel has told of no event of the pool'
cmp "$first/file" <(pattern a 26)
ask put first
ask put second
# At the limit nobody is kept waiting: there is an error, told in time.
ask create raw --size 512M --fs none
device=$(ask attach raw)
if fill "$device" c 80 2>"$folder/dd"; then fail 'no error beyond the limit'; fi
expect 'data at the limit' 96 "$(field 'd["data"]["total_bytes"] // 1048576')"
expect_match 'the events before' '*pool.space_low*' "$(ask events --since 0)"
ask detach raw
ask rm raw --wait
wait_for 5 mode_is rw || fail 'the pool is full still'
echo "$SECONDS s: 52 MiB written by two in $took ms, the pool extended $extensions times, no error"

# As after a reboot.
ask cleanup
stop_services || fail 'the services did not end with 0'
start_services --device-actors 2 --mount-actors 2
ask pool start
expect 'data after a restart' 96 "$(field 'd["data"]["total_bytes"] // 1048576')"
first=$(ask get first)
second=$(ask get second)
cmp "$first/file" <(pattern a 26)
cmp "$second/file" <(pattern b 26)
ask cleanup
stop_services || fail 'the services did not end with 0'
echo "$SECONDS s: all of it is there after a restart"

# ---- extension off

rm -rf "$COWSLIP_STATE"
start_services --device-actors 2 --mount-actors 2
ask pool create --loop 32M --metadata-size 4M --min-free-metadata 4K
ask create small --size 16M --fs none
ask create raw --size 256M --fs none
device=$(ask attach raw)
if fill "$device" d 40 2>"$folder/dd"; then fail 'no error from a full pool'; fi
expect_match 'what fsync says' '*dd:*' "$(cat "$folder/dd")"
wait_for 2 mode_is out_of_data_space || fail 'the pool is not said to be full'
expect_match 'the event' '*out_of_data_space*' "$(ask events --since 0 | grep pool.mode)"
expect_match 'who is told that he may be writing to it' '*raw*fail*' "$(ask events --since 0 | grep volume.no_space)"
# Still hammered, and answering.
(until [[ -e $folder/enough ]]; do fill "$device" e 1 seek=128 2>/dev/null || true; done) &
hammer=$!
slowest=0
for request in status 'pool status' ls 'show raw' 'exists raw' operations; do
  began=$(now)
  # shellcheck disable=SC2086  # Words.
  timeout 10 cowslip --timeout 5s $request >/dev/null || fail "no answer to '$request' from a full pool"
  took=$(($(now) - began))
  ((took <= slowest)) || slowest=$took
done
status=0
timeout 10 cowslip --timeout 5s create more --size 16M --fs none >"$folder/out" 2>&1 || status=$?
expect 'exit status of create' 6 "$status"
expect_match 'what create says' '*cowslip pool grow*' "$(cat "$folder/out")"
ask rm small --wait --must-exist
echo "$SECONDS s: a full pool answers within $slowest ms, and removes"
began=$(now)
ask pool grow --data 96M
fill "$device" d 1 || fail 'an error after the growth'
took=$(($(now) - began))
((took <= 5000)) || fail "service came back after $took ms"
fill "$device" d 40 || fail 'an error after the growth'
ask create more --size 16M --fs none
touch "$folder/enough"
wait "$hammer" || true
cmp <(head -c 40M "$device") <(pattern d 40)
expect mode rw "$(field 'd["mode"]')"
echo "$SECONDS s: in service $took ms after pool grow was asked"

# ---- metadata filled to the last blocks

# Each snapshot of what is spread over many leaves, and a write into each of them, takes copies of them.
cat >"$folder/fill_metadata.py" <<'P'
import os, subprocess, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
for number in range(1, 300):
    made = subprocess.run(["timeout", "20", "cowslip", "--timeout", "10s", "create", f"clone-{number}", "--parent", "raw"],
                          capture_output=True, text=True)
    if made.returncode != 0:
        print(f"{number - 1} snapshots, then exit {made.returncode}: {made.stderr.strip()}")
        break
    try:
        for i in range(24):
            os.pwrite(fd, os.urandom(4096), i * 4 << 20)
        os.fsync(fd)
    except OSError as error:
        print(f"a write at snapshot {number}: {error}")
P
ask pool grow --data 384M
dd if=/dev/zero of="$device" bs=1M count=96 conv=fsync,notrunc status=none
/usr/bin/python3 "$folder/fill_metadata.py" "$device" >"$folder/filled"
used=$(field '"%d of %d, %s%s" % (d["metadata"]["used_bytes"] // 4096, d["metadata"]["total_bytes"] // 4096, d["mode"], " needs_check" * d["needs_check"])')
grep -q 'then exit' "$folder/filled" || fail "the metadata do not fill up: $used"
echo "$SECONDS s: metadata filled to $used blocks by $(cat "$folder/filled")"
began=$(now)
ask pool grow --metadata 8M
if [[ $(field 'd["needs_check"]') = True ]]; then
  echo 'the kernel has marked them'
  ask detach raw || true
  ask pool repair --evict
fi
wait_for 5 mode_is rw || fail "the pool is not in service: $(field 'd["warnings"]')"
took=$(($(now) - began))
ask create last --size 16M --fs none
expect 'metadata' 2048 "$(field 'd["metadata"]["total_bytes"] // 4096')"
echo "$SECONDS s: in service $took ms after the growth of metadata was asked"
if ask exists raw && ask leases | grep -q raw; then ask detach raw; fi
clean_up
echo "$SECONDS s: thin_check finds nothing"
