#!/bin/bash
# Volumes over time, on the kernel: grown under writers, frozen as images, renamed, labelled, counted against thin_dump,
# trimmed, kept ready as clones. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

refused() {
  local status=0
  ask "${@:2}" >"$folder/refused" 2>&1 || status=$?
  expect "exit status of '${*:2}'" "$1" "$status"
}
kib() { df --output=size "$1" | tail -n 1; }
used() { ask pool status --json | json 'd["data"]["used_bytes"]'; }

# Each file is synced, and its sum is kept elsewhere.
write_files() {
  local number
  for ((number = 0; ; ++number)); do
    if [[ -e $folder/enough ]]; then break; fi
    head -c 20000 /dev/urandom >"$1/file-$((number % 50))"
    sync "$1/file-$((number % 50))"
  done
  (cd "$1" && sha256sum file-*) >"$folder/sums"
}
check_files() { (cd "$1" && sha256sum --quiet --check "$folder/sums") || fail "a file in $1 is not what was written"; }

cat >"$folder/cowslip.toml" <<'END'
mkfs-xfs = 'inode-size=1024'
mount-ext4 = 'nosuid'
END
start_services --device-actors 2 --mount-actors 1 --config "$folder/cowslip.toml"
ask pool create --loop 2G

# ---- resize

# grow FS SIZE LARGER
grow() {
  local path before device
  rm -f "$folder/enough"
  path=$(ask create "$1" --fs "$1" --size "$2" --get)
  before=$(kib "$path")
  write_files "$path" 2>"$folder/errors" &
  local writer=$!
  sleep 0.5
  ask resize "$1" "$3"
  (($(kib "$path") > before * 3 / 2)) || fail "the $1 has $(kib "$path") KiB, and had $before"
  sleep 0.5
  touch "$folder/enough"
  wait "$writer" || fail "the writer: $(cat "$folder/errors")"
  expect 'errors of the writer' '' "$(cat "$folder/errors")"
  check_files "$path"
  ask put "$1"
  check_files "$(ask get "$1" --read-only)"
  ask put "$1"
  device=$(ask attach "$1" --read-only)
  expect 'size of the device' "$(numfmt --from=iec "$3")" "$(blockdev --getsize64 "$device")"
  if [[ $1 == ext4 ]]; then e2fsck -fn "$device" >"$folder/fsck" 2>&1 || fail "e2fsck: $(cat "$folder/fsck")"; fi
  if [[ $1 == xfs ]]; then xfs_repair -n "$device" >"$folder/fsck" 2>&1 || fail "xfs_repair: $(cat "$folder/fsck")"; fi
  ask detach "$1"
  echo "$1 grown from $2 to $3 under a writer: $(wc -l <"$folder/sums") files are what was written"
}
grow ext4 64M 256M
grow xfs 320M 640M
refused 2 resize ext4 128M
device=$(ask create raw --size 8M --fs none && ask attach raw)
ask resize raw 16M
expect 'size of the raw device' $((16 << 20)) "$(blockdev --getsize64 "$device")"
ask detach raw
ask rm --wait ext4 xfs raw

# ---- options of file systems, as configured and as asked for

options_of() { findmnt --noheadings --output OPTIONS "$(ask show "$1" --json | json 'd["mount"]')"; }
ask create plain --size 64M --get >/dev/null
expect_match 'configured options of a mount' '*nosuid*' "$(options_of plain)"
ask create chosen --size 64M --mkfs bytes-per-inode=65536 --mount-options data=journal,noexec --get >/dev/null
expect_match 'options of a mount' '*noexec*data=journal*' "$(options_of chosen)"
expect 'inodes' 1024 "$(df --output=itotal "$(ask show chosen --json | json 'd["mount"]')" | tail -n 1 | tr -d ' ')"
ask create large --size 320M --fs xfs --mount-options '' --get >/dev/null
expect_match 'configured inodes of xfs' '*isize=1024*' "$(xfs_info "$(ask show large --json | json 'd["mount"]')")"
ask create clone --parent chosen --get >/dev/null
expect_match 'options of the mount of a clone' '*noexec*data=journal*' "$(options_of clone)"
refused 2 create other --mount-options errors=panic
refused 2 create other --parent chosen --mkfs inode-size=512
for id in plain chosen large clone; do ask put "$id" --rm; done
echo 'file systems were made and mounted with the options that were configured, asked for, or the parent had'

# ---- freeze: a volume whose file system was not unmounted

ask create base --size 64M
device=$(ask attach base)
mkdir "$folder/there"
mount "$device" "$folder/there"
echo frozen >"$folder/there/name"
sync "$folder/there/name"
/usr/bin/python3 - "$folder/there" <<'END'
import fcntl, os, struct, sys
XFS_IOC_GOINGDOWN = 0x8004587D  # ext4's, too: as after a power cut.
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), XFS_IOC_GOINGDOWN, struct.pack("I", 1))
END
umount "$folder/there"
dumpe2fs -h "$device" 2>/dev/null | grep -q needs_recovery || fail 'its journal is clean: nothing is tested'
refused 5 freeze base
ask detach base
ask freeze base
expect 'kind of the image' image "$(ask show base --json | json 'd["kind"]')"
refused 2 get base
refused 2 attach base
expect 'what the image holds' frozen "$(read_back base --read-only)"
device=$(ask attach base --read-only)
expect 'the device of an image is read-only' 1 "$(blockdev --getro "$device")"
ask detach base
refused 2 resize base 128M
echo 'a volume with a journal to replay was frozen, and can be read from its read-only device'

# ---- rename and labels, and a chain of clones

ask create one --parent base
device=$(ask attach one)
ask rename one chain-1
expect 'the device of a renamed volume' "$device" "$(ask show chain-1 --json | json 'd["device"]')"
ask detach chain-1
ask rename base image
expect 'the parent by its new name' image "$(ask show chain-1 --json | json 'd["parent"]')"
path=$(ask get chain-1)
refused 5 rename chain-1 other
head -c 3000000 /dev/urandom >"$path/one"
ask put chain-1
for ((i = 2; i <= 4; ++i)); do
  ask create "chain-$i" --parent "chain-$((i - 1))"
  path=$(ask get "chain-$i")
  head -c "${i}000000" /dev/urandom >"$path/$i"
  head -c 1000000 /dev/urandom >"$path/one"  # What was shared.
  ask put "chain-$i"
done
expect 'what a clone of a clone holds' frozen "$(read_back chain-4)"
ask label chain-4 team=blue tier=1
ask label chain-4 tier-
expect 'labels' "{'team': 'blue'}" "$(ask show chain-4 --json | json 'd["labels"]')"

# ---- df: equal to what is counted from thin_dump

# shellcheck disable=SC2317  # Called by wait_for.
idle() { [[ $(dmsetup ls | grep -c '^cowslip-.*-[0-9]') = 0 ]]; }
wait_for 20 idle || fail "still active: $(dmsetup ls)"
ask df --exact --json >"$folder/df"
pool=$(dmsetup ls | awk '/^cowslip-.*-pool/ { print $1 }')
dmsetup message "$pool" 0 reserve_metadata_snap
metadata=/dev/$(basename "$(realpath "/sys/dev/block/$(dmsetup table "$pool" | awk '{ print $4 }')")")
thin_dump --metadata-snap "$metadata" >"$folder/dump"
dmsetup message "$pool" 0 release_metadata_snap
ask ls --json >"$folder/ls"
/usr/bin/python3 - "$folder" <<'END'
import collections, json, sys, xml.etree.ElementTree
folder = sys.argv[1]
blocks = {}
for device in xml.etree.ElementTree.parse(folder + "/dump").getroot():
    mine = blocks.setdefault(int(device.get("dev_id")), set())
    for mapping in device:
        if mapping.tag == "single_mapping":
            mine.add(int(mapping.get("data_block")))
        else:
            begin = int(mapping.get("data_begin"))
            mine.update(range(begin, begin + int(mapping.get("length"))))
users = collections.Counter(block for mine in blocks.values() for block in mine)
thin_ids = {volume["id"]: volume["thin_id"] for volume in json.load(open(folder + "/ls"))}
volumes = json.load(open(folder + "/df"))["volumes"]
assert len(volumes) == len(thin_ids) == 5, volumes
for volume in volumes:
    mine = blocks[thin_ids[volume["id"]]]
    exclusive = sum(users[block] == 1 for block in mine)
    counted = [65536 * count for count in (len(mine), exclusive, len(mine) - exclusive)]
    shown = [volume[key] for key in ("mapped_bytes", "exclusive_bytes", "shared_bytes")]
    assert counted == shown, (volume, counted)
    assert volume["as_of"] and shown[1] > 0 or volume["id"] == "image", volume
assert [volume["exclusive_bytes"] for volume in volumes] == sorted(
    (volume["exclusive_bytes"] for volume in volumes), reverse=True)
print("exact figures of", len(volumes), "volumes are those of thin_dump:",
      {volume["id"]: volume["exclusive_bytes"] for volume in volumes})
END
before=$(used)
exclusive=$(json '[v for v in d["volumes"] if v["id"] == "chain-4"][0]["exclusive_bytes"]' <"$folder/df")
ask rm --wait chain-4
expect 'what a removal gives back' "$exclusive" $((before - $(used)))
expect 'another has kept what it shared' frozen "$(read_back chain-3)"

# ---- trim

path=$(ask create full --size 512M --get)
head -c 100M /dev/urandom >"$path/large"
sync "$path/large"
before=$(used)
rm "$path/large"
sync -f "$path"
ask trim full --json >"$folder/trimmed"
expect_match 'what is trimmed' '[{"id":"full","trimmed_bytes":*' "$(cat "$folder/trimmed")"
(($(json 'd[0]["trimmed_bytes"]' <"$folder/trimmed") >= 100 << 20)) || fail "trimmed: $(cat "$folder/trimmed")"
((before - $(used) >= 95 << 20)) || fail "the pool had $before bytes in use, and has $(used)"
echo "a trim gave $((before - $(used))) bytes back"
refused 2 trim chain-1
expect 'trim of all' full "$(ask trim --all | cut -f 1)"
# By itself, where the configuration says so.
head -c 100M /dev/urandom >"$path/large"
sync "$path/large"
rm "$path/large"
sync -f "$path"
before=$(used)
stop_services
echo "trim = '2s'" >"$folder/config.toml"
start_services --device-actors 2 --mount-actors 1 --config "$folder/config.toml"
# shellcheck disable=SC2317  # Called by wait_for.
given_back() { ((before - $(used) >= 95 << 20)); }
wait_for 30 given_back || fail "the pool had $before bytes in use, and has $(used)"
expect_match 'the event' '*pool.trimmed*' "$(ask events)"
ask put full

# ---- warm clones

# shellcheck disable=SC2317  # Called by wait_for.
ready() { [[ $(ask show image --json | json 'd["warm"]["ready"]') = 3 ]]; }
hidden() { find "$COWSLIP_STATE/mnt" -maxdepth 1 -name '.warm-*' | wc -l; }
manager() { ask status --json | json 'd["pid"]'; }
ask freeze image --warm 3 --warm-mounted
wait_for 60 ready || fail "no clones are ready: $(ask show image)"
expect 'mounts of warm clones' 3 "$(hidden)"
path=$(ask create warm-1 --parent image --get)
expect 'the path of a clone that was ready' "$COWSLIP_STATE/mnt/warm-1/rootfs" "$path"
expect 'what it holds' frozen "$(cat "$path/name")"
expect 'its id' warm-1 "$(cat "$COWSLIP_STATE/mnt/warm-1/id")"
expect 'clones that were taken' 1 "$(ask status --json | json 'd["counters"]["warm_taken"]')"
echo changed >"$path/name"
kill -KILL "$(manager)"
ask create warm-2 --parent image
wait_for 60 ready || fail "no clones are ready after a kill: $(ask show image)"
expect 'what was written to it' changed "$(cat "$path/name")"
ask put warm-1
expect 'what it holds when it is got again' changed "$(read_back warm-1)"
expect 'what another holds' frozen "$(read_back warm-2)"
ask put warm-2 --rm
ask rm --wait warm-1
wait_for 60 ready || fail "no clones are ready: $(ask show image)"
expect 'mounts of warm clones' 3 "$(hidden)"
expect 'fsck' 0 "$(ask fsck --json | json 'd["total"]')"
echo 'clones were kept ready, taken, and made again, also by another manager'

expect findings '"findings":[]' "$(ask status --json | grep -o '"findings":\[[^]]*\]')"
clean_up
