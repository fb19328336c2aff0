#!/bin/bash
# Faults of the metadata of a real pool: they cannot be written for a second under clients; they are damaged; they fail
# while a volume is leased. What was acknowledged is there afterwards, whoever has a lease is told, and the pool is in
# service again by itself or by the one command that status names. FAULTS may be set: how often the first of them happens.
# Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

faults=${FAULTS:-3}
clients=8

now_ms() { date +%s%3N; }
json() { /usr/bin/python3 -c "import json, sys; d = json.load(sys.stdin); print($1)"; }
fault() { cowslip status --json | json 'd["pool"]["fault"]'; }
mode_is_rw() { [[ $(cowslip pool status --json | json 'd["mode"]') == rw ]]; }
# table_of_metadata PARAMETERS: in place of the old one, with I/O going on.
table_of_metadata() {
  dmsetup load faulty --table "0 $metadata_sectors $*"
  dmsetup suspend --noflush --nolockfs faulty
  dmsetup resume faulty
}
break_metadata() { table_of_metadata "flakey $metadata_loop 0 0 3600 1 error_writes"; }
mend_metadata() { table_of_metadata "linear $metadata_loop 0"; }

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
    head -c 300000 /dev/urandom >"$path/file" && mkdir "$path"/{1..20} 2>/dev/null || true
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
# When the fault was told of, after MILLISECOND: of the event itself.
told_after() {
  cowslip events --json | /usr/bin/python3 -c '
import datetime, json, sys
for line in sys.stdin:
    event = json.loads(line)
    time = datetime.datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp() * 1000
    if event["type"] == "finding.pool" and time >= int(sys.argv[1]):
        print(round(time - int(sys.argv[1])))
        break
' "$1"
}

for ((turn = 1; turn <= faults; ++turn)); do
  rm -f "$folder/enough" "$folder"/log.*
  : >"$folder/errors"
  for ((i = 0; i < clients; ++i)); do client "$turn$i" >"$folder/log.$i" & jobs[i]=$!; done
  sleep 4
  broken=$(now_ms)
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
  told=$(told_after "$broken")
  for name in "${!absent[@]}"; do
    if cowslip exists "$name"; then fail "turn $turn: '$name' is there again"; fi
  done
  for name in "${!wanted[@]}"; do
    path=$(ask get "$name") || fail "turn $turn: '$name' was acknowledged, and cannot be mounted"
    got=$(sha256sum <"$path/file") || fail "turn $turn: '$name' has lost its file"
    expect "turn $turn: the contents of '$name'" "${wanted[$name]}" "${got%% *}"
    ask put "$name"
  done
  echo "turn $turn: ${#wanted[@]} volumes acknowledged, 0 lost, ${#absent[@]} removed; told after $told ms, in service $((back - mended)) ms after the fault's end"
done
