#!/bin/bash
# The removal of a volume of 1,000,000 blocks, and what a neighbour's fsync has of it: as the kernel deletes it, in one step,
# and through the service, which gives it back in parts. Its metadata are made by thin_restore. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/../device/service.sh"

blocks=1000000
services() { start_services --device-actors 2 --mount-actors 2; }
thin_id() { ask show "$1" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["thin_id"])'; }
dm_name() { dmsetup ls | sed -n 's/^\(cowslip-[0-9a-f]*-pool\)[[:space:]].*/\1/p'; }

# neighbour WHAT: until the file `enough` is there, writes 4 KiB and syncs them; then says how long that took.
neighbour() {
  rm -f "$folder/enough" "$folder/begun"
  python3 - "$(ask get neighbour)/file" "$folder/enough" "$1" "$folder/begun" <<'END' &
import os
import sys
import time

file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
took = []
while not os.path.exists(sys.argv[2]) or len(took) < 10:
    began = time.monotonic()
    os.pwrite(file, os.urandom(4096), len(took) % 1000 * 65536)
    os.fsync(file)
    took.append((time.monotonic() - began) * 1000)
    if len(took) == 10:
        open(sys.argv[4], "w").close()
took.sort()
print(f"{sys.argv[3]}: a neighbour's fsync: {len(took)} of them, p50 {took[len(took) // 2]:.0f} ms, "
      f"p99 {took[len(took) * 99 // 100]:.0f} ms, longest {took[-1]:.0f} ms")
END
  neighbour=$!
  wait_for 60 test -e "$folder/begun"
}
end_neighbour() {
  touch "$folder/enough"
  wait "$neighbour"
  ask put neighbour
}

# fill THIN_ID: gives it its blocks, with the pool put away. The tools want a device: there is no O_DIRECT on a tmpfs.
fill() {
  local id=$1 metadata
  ask cleanup
  stop_services || fail 'the services did not end with 0'
  metadata=$(losetup --find --show "$COWSLIP_STATE/pool/metadata")
  thin_dump "$metadata" | python3 -c "
import re, sys
text = sys.stdin.read()
device = re.search(r'<device dev_id=\"$id\" mapped_blocks=\"0\"[^>]*>\s*</device>|<device dev_id=\"$id\" mapped_blocks=\"0\"[^>]*/>', text)
head = device.group(0).split('>')[0].rstrip('/').replace('mapped_blocks=\"0\"', 'mapped_blocks=\"$blocks\"')
filled = head + '>\n<range_mapping origin_begin=\"0\" data_begin=\"100000\" length=\"$blocks\" time=\"0\"/>\n</device>'
sys.stdout.write(text.replace(device.group(0), filled))" >"$folder/xml"
  thin_restore -i "$folder/xml" -o "$metadata" >/dev/null
  losetup --detach "$metadata"
  services
  ask pool start
}

services
ask pool create --loop 80G --metadata-size 512M --keep-discarded
ask create neighbour --size 256M

ask create large --size 64G --fs none
id=$(thin_id large)
fill "$id"
neighbour 'in one step, by the kernel'
began=$EPOCHREALTIME
dmsetup message "$(dm_name)" 0 "delete $id"
echo "in one step, by the kernel: deleted after $(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }') s"
end_neighbour
ask rm --wait large

ask create large --size 64G --fs none
fill "$(thin_id large)"
neighbour 'in parts, by the service'
began=$EPOCHREALTIME
timeout 900 cowslip --timeout 890s rm --wait large
echo "in parts, by the service: deleted after $(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }') s"
end_neighbour
