#!/bin/bash
# Many volumes removed with one command: COUNT of them (10,000) made by eight clients, and removed by `rm --filter`, with
# how long that took, what the command showed meanwhile, and how long a request of somebody else waits. The manager is
# killed after 5 s of it: when another one answers, and when its start is over. Before that, the same of a service that was
# killed whole while a tenth of them were attached. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/../device/service.sh"

count=${COUNT:-10000}
actors=(--device-actors 4 --mount-actors 1)
start_services "${actors[@]}"
ask pool create --loop 8G --metadata-size 512M
ask create base --size 64M --fs none

cat >"$folder/many.py" <<'END'
import sys, threading
sys.path.insert(0, sys.argv[1])
from bus_client import Service
kind, count = sys.argv[3], int(sys.argv[4])
body = {"parent": "base", "labels": {"job": "many"}} if kind == "volume.create" else {}
def ask(first):
    service = Service(sys.argv[2])
    for number in range(first, count, 8):
        service.ask(kind, {"id": f"many-{number}", **body})
threads = [threading.Thread(target=ask, args=(first,)) for first in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
END
# many REQUEST COUNT: for so many volumes, by eight clients.
many() {
  PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$folder/many.py" "$root/tests/device" "$COWSLIP_STATE/run/clients.sock" "$@"
}
began=$(date +%s%3N)
many volume.create "$count"
took=$(($(date +%s%3N) - began))
expect 'volumes' "$((count + 1))" "$(field 'd["volumes"]')"
echo "$count created in $took ms: $((count * 1000 / took)) a second"
began=$(date +%s%3N)
expect 'listed' "$((count + 1))" "$(ask ls | wc -l)"
echo "listed in $(($(date +%s%3N) - began)) ms"

active=$((count / 10))
many volume.attach "$active"
kill -STOP "$up"  # So that it starts nobody again.
pkill -KILL -P "$up"
kill -KILL "$up"
wait "$up" 2>/dev/null || true
began=$(date +%s%3N)
cowslip up --state "$COWSLIP_STATE" "${actors[@]}" >"$folder/up.log" 2>&1 &
up=$!
until ask exists base 2>/dev/null; do sleep 0.02; done
took=$(($(date +%s%3N) - began))
expect 'leases' "$active" "$(ask leases | wc -l)"
echo "all killed while $active were attached, and started again: answered after $took ms, the start was over after" \
  "$(($(date +%s%3N) - began)) ms"
many volume.detach "$active"

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
