#!/bin/bash
# Nobody reads what another has written (R10): a pool is filled with a pattern by a volume that is then removed; those that
# get its blocks read zeros wherever they have not written themselves. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

block=65536
free_blocks() { field "(d['data']['total_bytes'] - d['data']['used_bytes']) // $block"; }
recycled() { python3 "$root/tests/device/recycled.py" "$@"; }

start_services --device-actors 2 --mount-actors 1
ask pool create --loop 128M
ask create first --fs none --size 1G
device=$(ask attach first)
written=$(($(free_blocks) - 8))
recycled fill "$device" "$written"
ask detach first
ask rm --wait first
grep -c 'another' "$COWSLIP_STATE/pool/data" >/dev/null || fail 'the pattern is not in the pool: this test would see nothing'

# One sector in the midst of each block: the rest of it is what the pool has there. Also of a clone, which copies blocks.
ask create second --fs none --size 1G
device=$(ask attach second)
recycled sectors "$device" $((written / 2)) 20480
ask detach second
ask create clone --parent second
device=$(ask attach clone)
recycled sectors "$device" $((written / 4)) 40960
ask detach clone
for name in second clone; do
  recycled look "$(ask attach "$name" --read-only)"
  ask detach "$name"
done
used=$((written - $(free_blocks)))
((used > written * 2 / 3)) || fail "only $used of the $written blocks were given again"
echo "$used blocks that another had written were given again: nobody reads them"
clean_up
