#!/bin/bash
# Clones made, mounted, written and unmounted by parallel clients while each kind of process is killed with -9, again and
# again: every client gets its answer, every acknowledged volume is there with what was written to it and can be got and
# removed, and nothing is left over. CLONES, CLIENTS and KILLS (of each kind) may be set. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

clones=${CLONES:-64} clients=${CLIENTS:-8} kills=${KILLS:-2}

start_services --device-actors 4 --mount-actors 3
ask pool create --loop 2G
ask create base --size 64M
touch "$folder/errors"

# complain NUMBER WHAT: a client was refused.
complain() { echo "$2 clone-$1" >>"$folder/errors"; }

# make CLIENT: its share of the clones. A line in done.CLIENT for each that was acknowledged.
make() {
  local number path
  for ((number = $1; number < clones; number += clients)); do
    path=$(ask create "clone-$number" --parent base --get --holder "client-$1") || { complain "$number" create; continue; }
    echo "clone-$number" >"$path/name" || { complain "$number" 'write to'; continue; }
    ask put "clone-$number" --holder "client-$1" || { complain "$number" put; continue; }
    echo "clone-$number" >>"$folder/done.$1"
  done
}

# look CLIENT: that its share is what it was.
look() {
  local number path
  for ((number = $1; number < clones; number += clients)); do
    path=$(ask get "clone-$number") || { complain "$number" get; continue; }
    [[ $(cat "$path/name") = "clone-$number" ]] || complain "$number" 'what was written is not in'
    ask put "clone-$number" || complain "$number" 'put after get'
  done
}

# in_parallel FUNCTION: by all clients; what they are told besides answers is in $folder/errors.
workers=()
begin_parallel() {
  local i
  workers=()
  for ((i = 0; i < clients; ++i)); do
    "$1" "$i" 2>>"$folder/errors" &
    workers+=($!)
  done
}
end_parallel() {
  local worker
  for worker in "${workers[@]}"; do wait "$worker" || echo "a client ended with $?" >>"$folder/errors"; done
  [[ ! -s $folder/errors ]] || fail "clients were told: $(cat "$folder/errors")"
}

acknowledged() { cat "$folder"/done.* 2>/dev/null | wc -l || true; }
# shellcheck disable=SC2317  # Called by wait_for.
enough_done() { (($(acknowledged) >= $1)); }
# A process of that program, any, in $victim.
# shellcheck disable=SC2317  # Called by wait_for.
pick() {
  local pids=()
  mapfile -t pids < <(pgrep -P "$up" -f "/$1 ")
  ((${#pids[@]} > 0)) || return 1
  victim=${pids[RANDOM % ${#pids[@]}]}
}

begun=$SECONDS
begin_parallel make
programs=(cowslip-pool-manager cowslip-device-actor cowslip-mount-actor)
total=$((kills * ${#programs[@]}))
# Spread over the work: the first when some is done, the last when some is left.
for ((kill = 1; kill <= total; ++kill)); do
  program=${programs[kill % ${#programs[@]}]}
  wait_for 300 enough_done $((kill * clones / (total + 2))) || fail "no progress: $(acknowledged) of $clones are done"
  wait_for 60 pick "$program" || fail "no $program runs"
  kill -9 "$victim"
  wait_for 20 gone "$victim" || fail "$program $victim survived"
  left=$((clones - $(acknowledged)))
  ((left > 0)) || fail "all work was done before kill $kill of $total: more CLONES are needed"
  echo "killed $program $victim with $left of $clones to be done"
done
end_parallel
echo "made $clones in $((SECONDS - begun)) s with $total kills"

expect 'acknowledged creates' "$clones" "$(acknowledged)"
there=$(ask ls | cut -f 1 | grep '^clone-' | sort)
expect 'the volumes there are' "$(sort "$folder"/done.*)" "$there"
expect leases '' "$(ask leases)"
begun=$SECONDS
begin_parallel look
end_parallel
mapfile -t names <<<"$there"
ask rm --wait --must-exist "${names[@]}"
ask rm --wait --must-exist base
echo "got and removed all $clones in $((SECONDS - begun)) s"
expect findings '"findings":[]' "$(ask status --json | grep -o '"findings":\[[^]]*\]')"
clean_up
echo "all $clones acknowledged clones were there, and nothing is left"
