#!/bin/bash
# Many volumes removed with one command: COUNT of them (10,000) made by eight clients, and removed by `rm --filter`, with
# how long that took, what the command showed meanwhile, and how long a request of somebody else waits. The manager is
# killed after 5 s of it: when another one answers, and when its start is over. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/../device/service.sh"

count=${COUNT:-10000}
start_services --device-actors 4 --mount-actors 1
ask pool create --loop 8G --metadata-size 512M
ask create base --size 64M --fs none

cat >"$folder/create.py" <<'END'
import sys, threading
sys.path.insert(0, sys.argv[1])
from bus_client import Service
def make(first):
    service = Service(sys.argv[2])
    for number in range(first, int(sys.argv[3]), 8):
        service.ask("volume.create", {"id": f"many-{number}", "parent": "base", "labels": {"job": "many"}})
threads = [threading.Thread(target=make, args=(first,)) for first in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
END
began=$(date +%s%3N)
PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$folder/create.py" "$root/tests/device" "$COWSLIP_STATE/run/clients.sock" "$count"
took=$(($(date +%s%3N) - began))
expect 'volumes' "$((count + 1))" "$(field 'd["volumes"]')"
echo "$count created in $took ms: $((count * 1000 / took)) a second"
began=$(date +%s%3N)
expect 'listed' "$((count + 1))" "$(ask ls | wc -l)"
echo "listed in $(($(date +%s%3N) - began)) ms"

(
  slowest=0
  until [[ -e $folder/enough ]]; do
    asked=$(date +%s%3N)
    ask exists base
    answered=$(($(date +%s%3N) - asked))
    if ((answered > slowest)); then slowest=$answered; fi
    echo "$slowest" >"$folder/slowest"
    sleep 0.2
  done
) &
asker=$!
(
  sleep 5
  read -r pid operations < <(ask status --json | json 'f"""{d["pid"]} {d["operations"]}"""')
  killed=$(date +%s%3N)
  kill -KILL "$pid"
  ask exists base
  answered=$(($(date +%s%3N) - killed))
  ask leases >/dev/null
  echo "killed with $operations operations unfinished, another manager answered after $answered ms; its start was over" \
    "after $(($(date +%s%3N) - killed)) ms" >"$folder/killed"
) &
killer=$!
began=$(date +%s%3N)
# On a terminal: it shows how many are gone.
script --quiet --return --command "cowslip --timeout 600s rm --filter job=many" "$folder/shown" >/dev/null
took=$(($(date +%s%3N) - began))
touch "$folder/enough"
wait "$asker"
wait "$killer"
expect 'volumes' 1 "$(field 'd["volumes"]')"
echo "$count removed by one command in $took ms: $((count * 1000 / took)) a second; $(tr '\r' '\n' <"$folder/shown" | grep -c 'removed .* of') times it showed how many"
cat "$folder/killed"
echo "somebody else's request took at most $(cat "$folder/slowest") ms, with the program's start"
no_work_behind() { [[ -z $(ask operations) ]]; }
wait_for 3000 no_work_behind || fail "there is work left: $(ask operations)"
took=$(($(date +%s%3N) - began))
echo "their space was back $took ms after the command began"
expect 'space that is used' 1 "$(field 'd["data"]["used_bytes"] < 64 << 20 and 1')"
clean_up
