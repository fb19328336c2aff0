#!/bin/bash
# The real programs under `cowslip up`, seen from outside: who they are, what they refuse, what they survive, and the command
# line's answers. CLONES and CLIENTS may be set, and PARTS to the functions below that are wanted. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

clones=${CLONES:-64} clients=${CLIENTS:-8}


# view: what requests can change, without what changes by itself (a device is put away when it has been idle).
view() {
  ask ls
  ask leases
  ask pool status --json | json '{key: d[key] for key in ("name", "uuid", "state", "mode", "volumes", "snapshots_taken")}'
}
pids() { ask status --json | json 'd["pid"], sorted(actor["pid"] for actor in d["actors"])'; }

# part WHAT: with its time. Each part leaves things as it found them.
part_begun=$SECONDS
part() {
  echo "$((SECONDS - part_begun)) s  $1"
  part_begun=$SECONDS
}

# refused STATUS CODE ARGUMENT...: the command line ends with STATUS, says CODE as JSON on stderr and nothing on stdout.
refused() {
  local wanted=$1 code=$2 status=0
  shift 2
  ask --json "$@" >"$folder/stdout" 2>"$folder/stderr" || status=$?
  expect "status of $*" "$wanted" "$status"
  expect_match "error of $*" "$code ?*" "$(json '"{code} {message}".format(**d["error"])' <"$folder/stderr")"
  expect "stdout of $*" '' "$(cat "$folder/stdout")"
}

# ---- the processes ---------------------------------------------------------------------------------------------------

a_second_one_refuses() {
  local before status
  before=$(pids)
  status=0
  cowslip-pool-manager --state "$COWSLIP_STATE" --run "$COWSLIP_STATE/run" >"$folder/second" 2>&1 || status=$?
  expect 'status of a second manager' 5 "$status"
  expect_match 'message of a second manager' "*another pool manager (pid $manager) has this state folder*" \
    "$(cat "$folder/second")"
  status=0
  cowslip up --state "$COWSLIP_STATE" >"$folder/second" 2>&1 || status=$?
  expect 'status of a second up' 5 "$status"
  expect_match 'message of a second up' '*another one serves this folder*' "$(cat "$folder/second")"
  expect 'the processes' "$before" "$(pids)"
  part 'a second manager and a second up refuse to start'
}

# not_to_be_opened PID ACCOUNT: its open files above 2 that the account could not open in the same way, one a line.
not_to_be_opened() {
  local fd file how
  for fd in "/proc/$1/fd"/*; do
    file=$(readlink "$fd")
    if ((${fd##*/} <= 2)) || [[ $file != /* ]]; then continue; fi  # Not sockets, pipes and the like: these have no name.
    case $(($(sed -n 's/^flags:\s*//p' "/proc/$1/fdinfo/${fd##*/}") & 3)) in
      0) how='<' ;;
      1) how='>>' ;;
      *) how='<>' ;;
    esac
    setpriv --reuid "$2" --regid "$2" --clear-groups sh -c "exec 3$how\"\$1\"" sh "$file" 2>/dev/null || echo "$file"
  done
}

the_manager_is_nobody() {
  local uid gid field own
  uid=$(id -u cowslip) gid=$(id -g cowslip)
  ((uid > 0 && gid > 0))
  # The sockets know who answers there as well.
  expect 'account in status' cowslip "$(ask status --json | json 'd["account"]')"
  of_manager() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$manager/status" | tr '\t' ' '; }
  expect uids "$uid $uid $uid $uid" "$(of_manager Uid)"
  expect gids "$gid $gid $gid $gid" "$(of_manager Gid)"
  expect groups '' "$(of_manager Groups | tr -d ' ')"
  for field in CapInh CapPrm CapEff CapBnd CapAmb; do expect "$field" 0000000000000000 "$(of_manager "$field")"; done
  expect NoNewPrivs 1 "$(of_manager NoNewPrivs)"
  # Shown first a process that has what it should not have.
  touch "$folder/secret"
  chmod 600 "$folder/secret"
  # shellcheck disable=SC2094  # Nothing is written.
  sleep 600 3<"$folder/secret" 4>"$folder/secret" 5</etc/passwd 6>>/etc/passwd &
  own=$!
  wait_for 20 test "$(cat "/proc/$own/comm")" = sleep
  expect 'files that the check finds' "$folder/secret $folder/secret /etc/passwd" \
    "$(not_to_be_opened "$own" cowslip | tr '\n' ' ' | sed 's/ $//')"
  kill "$own"
  expect_match 'files of the manager' '*/store/store.db*' "$(readlink "/proc/$manager/fd"/*)"
  expect 'files that the manager could not have opened' '' "$(not_to_be_opened "$manager" cowslip)"
  part 'the manager is an ordinary user without capabilities, and its open files are his'
}

noise() {
  /usr/bin/python3 - "$COWSLIP_STATE/run" <<'PYTHON'
import os, random, socket, struct, sys

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
WANTED = 10_000_000


def frame(flags, data):
    if len(data) < 256:
        return bytes([flags, len(data)]) + data
    return bytes([flags | 2]) + struct.pack(">Q", len(data)) + data


def ready(kind):
    def field(name, value):
        return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
    return frame(4, b"\x05READY" + field(b"Socket-Type", kind) + field(b"Identity", b""))


# Whole messages of random bytes, now and then of a map's beginning, so that they come as far as they can.
def messages(kind):
    data = b""
    while len(data) < 200_000:
        body = os.urandom(random.choice((0, 1, 10, 300, 5000, 70000)))
        data += frame(0, random.choice((b"", b"\x85", b"\xdf\xff\xff\xff\xff", b"\x81\xa1v", b"\x01")) + body)
    return GREETING + ready(kind) + data


def throw(path, make):
    """Until so many bytes were taken; the other side hangs up again and again. Returns bytes and connections."""
    taken = connections = 0
    while taken < WANTED:
        connections += 1
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(20)
            door.connect(path)
            data = make()
            try:
                while data:
                    sent = door.send(data)
                    taken += sent
                    data = data[sent:]
            except (BrokenPipeError, ConnectionResetError):
                pass
    return taken, connections


for name, kind in (("clients", b"DEALER"), ("actors", b"DEALER"), ("events", b"SUB")):
    path = f"{sys.argv[1]}/{name}.sock"
    for what, make in (("bytes", lambda: os.urandom(200_000)), ("messages", lambda: messages(kind))):
        print("%s.sock took %d random %s in %d connections" % (name, *(lambda n: (n[0], what, n[1]))(throw(path, make))))
PYTHON
}

noise_changes_nothing() {
  local before
  ask create quiet --parent base --label a=b
  ask get quiet >/dev/null
  before=$(view; pids)
  noise
  expect 'what there is after 60 MB of noise' "$before" "$(view; pids)"
  ask put quiet --rm
  expect 'restarts' '' "$(grep 'starting it again' "$folder/up.log" || true)"
  part '10 MB of random bytes, and 10 MB of random messages, at each socket change nothing'
}

# ---- volumes ---------------------------------------------------------------------------------------------------------

# As containers' runtimes did: 50 private mount namespaces are copied while it is mounted.
a_leaked_mount() {
  local path device leak leaks=() last
  ask create leaked --parent base
  path=$(ask get leaked)
  device=$(ask show leaked --json | json 'd["device"]')
  while ((${#leaks[@]} < 50)); do
    unshare -m --propagation private sleep 600 &
    leaks+=($!)
  done
  for leak in "${leaks[@]}"; do
    wait_for 60 sh -c "[ \$(readlink /proc/$leak/ns/mnt) != $(readlink "/proc/$$/ns/mnt") ] && grep -q sleep /proc/$leak/comm"
    grep -q -F " $path " "/proc/$leak/mountinfo" || fail 'the mount did not leak'
  done
  echo kept >"$path/file"
  ask put leaked
  expect 'mounted after put' '' "$(grep -F " $path " /proc/self/mountinfo || true)"
  for leak in "${leaks[@]}"; do
    expect 'mounted elsewhere after put' '' "$(grep -F " $path" "/proc/$leak/mountinfo" || true)"
  done
  expect 'what was written' kept "$(cat "$(ask get leaked --read-only)/file")"
  last=$(last_event)
  ask put leaked --rm
  ask rm leaked --wait
  wait_for 20 test ! -e "$device"
  # A removal that has to be tried again is told of.
  expect 'tries that were in vain' '' "$(ask events --json --since "$last" | grep '"type":"finding' || true)"
  expect_match 'what happened' '*volume.deleted*' "$(ask events --json --since "$last")"
  for leak in "${leaks[@]}"; do
    kill -0 "$leak" || fail 'a leak ended by itself'
    kill "$leak"
  done
  part 'a volume whose mount leaked into 50 other namespaces can be put and removed, at the first try'
}

many_clients() {
  local i begun=$SECONDS workers=()
  for ((i = 0; i < clients; ++i)); do
    for ((number = i; number < clones; number += clients)); do
      ask create "clone-$number" --parent base || echo "status $?" >&2
    done 2>"$folder/client.$i" &
    workers+=($!)
  done
  for i in "${workers[@]}"; do wait "$i"; done
  expect 'what the clients were told' '' "$(cat "$folder"/client.*)"
  echo "$clones clones in $((SECONDS - begun)) s by $clients clients"
  expect 'the clones' "$(for ((i = 0; i < clones; ++i)); do echo "clone-$i"; done | sort)" \
    "$(ask ls --json | json '"\n".join(v["id"] for v in d if v["state"] == "ready" and v["parent"] == "base")' | sort)"
  ask ls | cut -f 1 | grep ^clone- | xargs cowslip --timeout 300s rm --wait --must-exist
  part "$clones clones by $clients parallel clients without an error"
}

odd_ids() {
  local id path
  for id in 'a/b:c d' '..' '[ü,€]' "$(printf '%0255d' 0)" "$(printf '/%.0s' {1..255})"; do
    ask create --parent base -- "$id"
    path=$(ask get -- "$id")
    expect_match "path of '$id'" "$COWSLIP_STATE/mnt/*/rootfs" "$path"
    expect "depth of the path of '$id'" "$COWSLIP_STATE/mnt" "$(dirname "$(dirname "$path")")"
    expect "id beside the mount of '$id'" "$id" "$(cat "$(dirname "$path")/id")"
    echo "$id" >"$path/file"
    expect "show '$id'" "id	$id|mount	$path" "$(ask show -- "$id" | grep -E '^(id|mount)	' | paste -s -d '|')"
    ask put -- "$id"
    ask rm --wait --must-exist -- "$id"
  done
  for id in '' $'a\nb' "$(printf '%0256d' 0)"; do refused 2 invalid_argument create --parent base -- "$id"; done
  part 'volumes with odd ids'
}

# ---- the command line ------------------------------------------------------------------------------------------------

# answers EXPRESSION ARGUMENT...: JSON of which that is true.
answers() {
  local expression=$1
  shift
  ask --json "$@" >"$folder/answer" || fail "cowslip $* ended with $?"
  expect "cowslip $*: $expression" True "$(json "$expression" <"$folder/answer")"
}

every_command_once() {
  local device status seq operation actors waiting
  seq=$(ask status --json | json 'd["event_seq"]')
  answers 'd["id"] == "one" and d["parent"] == "base" and d["state"] == "ready"' create one --parent base --label k=v
  answers 'd["changed"] and d["device"].startswith("/dev/mapper/cowslip-")' attach one --holder me
  device=$(ask attach one --holder me)
  expect 'size of the device' 67108864 "$(blockdev --getsize64 "$device")"
  answers '[(l["id"], l["holder"], l["mode"], l["path"]) for l in d] == [("one", "me", "attached_rw", "'"$device"'")]' leases
  answers '[v["id"] for v in d] == ["one"]' ls --filter k=v
  answers 'd["leases"] == [{"holder": "me", "mode": "attached_rw"}] and d["mount"] is None' show one
  answers '[v["id"] for v in d] == ["base", "one"]' tree
  answers 'd["leases"] == 1 and d["findings"] == [] and d["pool"]["state"] == "ready"' status
  answers 'd["mode"] == "rw" and d["data"]["used_bytes"] > 0' pool status
  answers 'd["changed"]' detach one --holder me
  answers 'not d["changed"]' detach one --holder me
  answers 'd == {"exists": True}' exists one
  status=0
  ask exists nobody || status=$?
  expect 'status of exists' 1 "$status"
  # Accepted, but nobody can do it; then waited for by another.
  mapfile -t actors < <(pgrep -P "$up" -f /cowslip-device-actor)
  kill -STOP "${actors[@]}"
  status=0
  cowslip --json --timeout 3s rm one --wait >"$folder/answer" 2>"$folder/stderr" || status=$?
  expect 'status of a removal that takes too long' 8 "$status"
  operation=$(json 'd["error"]["details"]["operation"][0]' <"$folder/stderr")
  answers '"one" in [o["subject"] for o in d["operations"] if str(o["number"]) == "'"$operation"'"]' operations
  ask wait "$operation" &
  waiting=$!
  sleep 1
  kill -0 "$waiting" || fail "wait $operation did not wait"
  kill -CONT "${actors[@]}"
  wait "$waiting" || fail "wait $operation ended with $?"
  refused 3 not_found wait 999999999
  refused 3 not_found show one
  ask --json events --since "$seq" >"$folder/events"
  # shellcheck disable=SC2016
  expect events 'volume.created lease.taken lease.ended volume.removed volume.deleted' "$(/usr/bin/python3 -c '
import json, sys
events = [json.loads(line) for line in sys.stdin]
assert [e["seq"] for e in events] == list(range(int(sys.argv[1]) + 1, int(sys.argv[1]) + 1 + len(events)))
print(*(e["type"] for e in events))' "$seq" <"$folder/events")"
  answers 'd["id"] == "base"' bus call volume.show '{"id": "base"}'
  answers '"volume.create" in [m["type"] for m in d]' bus describe
  answers '"parent" in d["request"] and "path" in d["reply"]' bus describe volume.create
  part 'each command answers, with valid JSON'
}

errors() {
  local before
  ask create held --parent base
  ask get held --holder somebody >/dev/null
  before=$(view)
  refused 2 invalid_argument nonsense
  refused 2 invalid_argument create x --fs fat
  refused 2 invalid_argument create x --parent base --size 1M
  refused 2 invalid_argument bus call volume.create '{"id": 7}'
  refused 3 not_found create x --parent nobody
  refused 3 not_found get nobody
  refused 4 already_exists create base
  refused 5 in_use rm held
  expect_match 'the holder in the details' 'somebody*' "$(json '" ".join(d["error"]["details"]["holders"])' <"$folder/stderr")"
  refused 5 in_use attach held
  refused 11 unimplemented bus call no.such.request
  refused 7 unavailable --state "$folder/nowhere" ls
  expect 'what there is after all that was refused' "$before" "$(view)"
  ask put held --holder somebody --rm
  part 'errors have their exit status and code, and change nothing'
}

start_services --device-actors 4 --mount-actors 4
ask pool create --loop 2G
ask create base --size 64M
manager=$(ask status --json | json 'd["pid"]')
part 'services, a pool and a base'
all='a_second_one_refuses the_manager_is_nobody noise_changes_nothing a_leaked_mount many_clients odd_ids every_command_once errors'
for function in ${PARTS:-$all}; do "$function"; done
ask rm base --wait
expect volumes '' "$(ask ls)"
expect findings '[]' "$(ask status --json | json 'd["findings"]')"
expect 'the manager' "$manager" "$(ask status --json | json 'd["pid"]')"
clean_up
part 'nothing is left'
