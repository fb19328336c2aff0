#!/bin/bash
# The snapshot clock of a real pool whose metadata say that it is far on: told of once for each level, refused before the
# end, and rewound offline, also over kill -9 of everything: every volume has what it had, and what shares blocks still
# copies them on write. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

lifetime=$((1 << 24))
metadata=$COWSLIP_STATE/pool/metadata

# set_clock TIME: in the metadata of a stopped pool. Through a loop device: the tools read past the page cache, which tmpfs
# does not do.
set_clock() {
  local loop
  loop=$(losetup --find --show "$metadata")
  thin_dump "$loop" >"$folder/was.xml"
  sed -E "s/(<superblock .* time=\")[0-9]+/\1$1/" "$folder/was.xml" >"$folder/far.xml"
  thin_restore -i "$folder/far.xml" -o "$loop" >/dev/null
  sync "$loop"
  losetup --detach "$loop"
}
clock() { field 'd["snapshots_taken"]'; }
# The levels that events have told of, in their order.
levels() { ask events --json | grep '"type":"finding.snapshot-clock"' | grep -o 'more than [0-9]*' | cut -d ' ' -f 3 | tr '\n' ' ' || true; }
findings() { ask status --json | grep -o '"findings":\[[^]]*\]'; }
# sums: a checksum of what each volume holds.
volumes=(base first second third)
sums() {
  local name device
  for name in "${volumes[@]}"; do
    device=$(ask attach "$name" --read-only)
    echo "$name $(sha256sum <"$device" | cut -d ' ' -f 1)"
    ask detach "$name"
  done
}
# fill VOLUME BLOCK COUNT: with bytes that no other has.
fill() {
  local device
  device=$(ask attach "$1")
  dd if=/dev/urandom of="$device" bs=64K seek="$2" count="$3" oflag=direct conv=notrunc status=none
  ask detach "$1"
}

start_services --device-actors 2 --mount-actors 1
ask pool create --loop 1G
ask create base --size 16M --fs none
fill base 0 64
ask create gone --parent base
ask create first --parent base
fill first 10 20
ask create second --parent first
fill first 20 20
ask create third --parent second
fill base 5 10
fill third 40 5
ask rm --wait gone
before=$(sums)
expect 'volumes with contents of their own' 4 "$(cut -d ' ' -f 2 <<<"$before" | sort -u | wc -l)"
expect 'levels told of at first' '' "$(levels)"

# --- told of
told() { [[ $(levels) = "$1" ]]; }
ask cleanup
set_clock $((lifetime * 50 / 100 + 1))
ask pool start
wait_for 10 told '50 ' || fail "half of the clock was told of as '$(levels)'"
ask cleanup
set_clock $((lifetime * 96 / 100))
ask pool start
wait_for 10 told '50 95 ' || fail "96 % were told of as '$(levels)'"
sleep 3
expect 'levels told of' '50 95 ' "$(levels)"
expect_match 'findings' '*snapshot-clock*' "$(findings)"

# --- refused
ask cleanup
set_clock $((lifetime - 65536 - 1))
ask pool start
ask create last --parent base
sleep 2
expect 'the clock' $((lifetime - 65536)) "$(clock)"
status=0
ask create refused --parent base 2>"$folder/refused" || status=$?
expect 'exit status of a refused create' 6 "$status"
expect_match 'the way out' '*cowslip pool rewind*' "$(cat "$folder/refused")"
ask rm --wait last
expect 'the clock after a refusal' $((lifetime - 65536)) "$(clock)"

# --- rewound
status=0
ask pool rewind 2>/dev/null || status=$?
expect 'exit status of a rewind in service' 5 "$status"
highest=$(ask show third --json | grep -o '"thin_id":[0-9]*' | cut -d : -f 2)
ask cleanup
expect 'what thin_check says before' 0 "$(loop=$(losetup --find --show "$metadata"); s=0; thin_check "$loop" >/dev/null 2>&1 || s=$?; losetup --detach "$loop"; echo "$s")"
cp "$metadata" "$folder/metadata"
ask pool rewind
cmp "$COWSLIP_STATE/pool/metadata.before-rewind" "$folder/metadata" || fail 'the old metadata were not kept as they were'
expect 'files beside the pool' '' "$(find "$COWSLIP_STATE/pool" -name 'rewind*' -o -name '*.rewound')"
ask pool start
((highest > $(ask show third --json | grep -o '"thin_id":[0-9]*' | cut -d : -f 2))) || fail 'thin ids were not counted anew'
expect 'contents after the rewind' "$before" "$(sums)"
(($(clock) < 20)) || fail "the clock is at $(clock)"
sleep 2
expect 'findings after the rewind' '"findings":[]' "$(findings)"
ask fsck
echo "rewound: the clock is at $(clock), and every volume has what it had"

# --- copied on write
for name in base second; do
  fill "$name" 12 3
  after=$(sums)
  expect "what the others have after a write to $name" "$(grep -v "^$name " <<<"$before")" "$(grep -v "^$name " <<<"$after")"
  [[ $(grep "^$name " <<<"$before") != "$(grep "^$name " <<<"$after")" ]] || fail "the write to $name is not there"
  before=$after
done
ask create fourth --parent third
volumes+=(fourth)
fill third 0 8
before=$(sums)
fill fourth 3 2
after=$(sums)
expect 'what the others have after a write to fourth' "$(grep -v '^fourth ' <<<"$before")" "$(grep -v '^fourth ' <<<"$after")"
before=$after

# --- killed
# shellcheck disable=SC2317  # Called by wait_for.
finished() { [[ -z $(ask operations) ]]; }
for wait in 0.05 0.3 0.6 1; do
  ask cleanup
  set_clock $((lifetime - 65536))
  mapfile -t all < <(pgrep -P "$up"; echo "$up")
  timeout 60 cowslip --timeout 30s pool rewind >/dev/null 2>&1 &
  client=$!
  sleep "$wait"
  kill -9 "${all[@]}" 2>/dev/null || true
  wait "$up" 2>/dev/null || true
  kill "$client" 2>/dev/null || true
  wait "$client" 2>/dev/null || true
  start_services --device-actors 2 --mount-actors 1
  wait_for 60 finished || fail "the rewind does not end: $(ask operations)"
  ask pool start
  now=$(clock)
  if ((now > 1000)); then
    ask cleanup
    ask pool rewind
    ask pool start
  fi
  (($(clock) < 1000)) || fail "the clock is at $(clock)"
  expect "contents after a rewind killed after $wait s" "$before" "$(sums)"
  ask fsck
  echo "killed after $wait s, when the clock was at $now: every volume has what it had"
done
for name in "${volumes[@]}"; do ask rm --wait "$name"; done
clean_up
echo 'the clock was told of, refused and rewound; contents are identical'
