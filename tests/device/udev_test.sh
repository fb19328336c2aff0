#!/bin/bash
# udevd keeps its hands off our dm devices, though they hold file systems that it would scan, link and announce: by the
# flags in our events alone, and with deploy/udev's rules, which cost less. Runs in deploy/sandbox --udev.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

[[ -S /run/udev/control ]] || { echo 'no udevd: skipped'; exit 77; }

# scanned NAME...: what udevd found out about these dm devices, and its links to them, one a line.
scanned() {
  local name node
  udevadm settle --timeout=60
  for name; do
    node=$(dmsetup info --columns --noheadings -o blkdevname "$name")  # The pool has no /dev/mapper/NAME.
    [[ -e /sys/block/$node/dev ]] || fail "there is no device $name"
    sed -n -E "s/^E:(ID_FS_[A-Z]*)=.*/$name \1/p" "/run/udev/data/b$(<"/sys/block/$node/dev")" 2>/dev/null || true
    find /dev/disk -lname "*/$node" -printf "$name %p\n"
  done
}

# look HOW: the pool, a mounted clone and an attached one, made under these rules, and none of them scanned. (Only what has
# a lease stays active for sure.)
look() {
  local names attached found
  ask create base --size 64M
  ask create mounted --parent base --get >/dev/null
  ask create attached --parent base
  attached=$(ask attach attached)
  : >>"$attached"  # Closed after writing: udevd's watch would answer with a scan.
  expect 'file system of the attached volume' ext4 "$(blkid -p -s TYPE -o value "$attached")"
  mapfile -t names < <(dmsetup ls | cut -f 1 | grep '^cowslip-.*-pool$'; ask show mounted | sed -n 's,^device\t.*/,,p')
  names+=("$(basename "$attached")")
  expect 'devices looked at' 3 "${#names[@]}"
  found=$(scanned "${names[@]}")
  expect "what udevd knows of ours, $1" '' "$found"
  ask put mounted --rm
  ask detach attached
  ask rm --wait mounted attached base
  udevadm settle --timeout=60
  echo "not scanned, $1: ${names[*]}"
}

# First a device that is not ours: what is looked for is there.
truncate -s 32M "$folder/foreign"
mkfs.ext4 -q "$folder/foreign"
foreign=$(losetup --find --show "$folder/foreign")
dmsetup create foreign --table "0 65536 linear $foreign 0"
expect_match "what udevd knows of another's device" '*foreign ID_FS_TYPE*foreign /dev/disk/by-uuid/*' "$(scanned foreign)"

start_services --device-actors 4 --mount-actors 4
ask pool create --loop 1G
look 'by the flags in the events'
mkdir -p /run/udev/rules.d
cp "$root/deploy/udev/05-cowslip.rules" /run/udev/rules.d/
udevadm control --reload
look 'with our rules'
rm /run/udev/rules.d/05-cowslip.rules
udevadm control --reload
expect_match "another's device, afterwards" '*foreign ID_FS_TYPE*' "$(scanned foreign)"
dmsetup remove foreign
losetup --detach "$foreign"
clean_up
