#!/bin/bash
# Tests deploy/sandbox from outside, with real machines. The parts below run two at a time: that two machines may run at
# once is one of the things tested, and a boot is mostly one processor's work. Parts that test the supervisor alone do not
# wait for the guest. Exit status 77: it cannot run here (a tool is missing, or Debian's mirror).
set -uo pipefail

sandbox=$(realpath "$(dirname "$0")/../../deploy/sandbox")
work=$(mktemp -d)
export TMPDIR=$work  # What the sandbox leaves behind is found here.
trap 'rm -rf "$work"' EXIT
failed=0

# expect WHAT WANTED GOT
expect() {
  if [[ $2 == "$3" ]]; then return; fi
  printf 'FAILED %s: %s\n  wanted: %q\n  got:    %q\n' "${FUNCNAME[1]}" "$1" "$2" "$3"
  failed=1
}

# expect_match WHAT PATTERN GOT
expect_match() {
  # shellcheck disable=SC2053  # A pattern is meant.
  if [[ $3 == $2 ]]; then return; fi
  printf 'FAILED %s: %s\n  wanted: %s\n  got:    %q\n' "${FUNCNAME[1]}" "$1" "$2" "$3"
  failed=1
}

# wait_for SECONDS COMMAND...: until COMMAND succeeds.
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    if ((SECONDS > end)); then return 1; fi
    sleep 0.1
  done
}
# begin: a folder for the part that calls it.
begin() { mkdir "$work/${FUNCNAME[1]}" && cd "$work/${FUNCNAME[1]}" || exit 1; }
# shellcheck disable=SC2317  # Called by wait_for.
gone() { ! kill -0 "$1" 2>/dev/null; }

streams() {
  begin
  # shellcheck disable=SC2016  # Nothing is to be expanded.
  local odd=('a b' $'new\nline' '' "'" '"' '$HOME *' $'\xff\r')
  head -c 20000000 /dev/urandom >data
  cat >inside <<'INSIDE'
cat >"$SANDBOX_OUT/stdin"
cat "$SANDBOX_OUT/stdin"
tac -s x "$SANDBOX_OUT/stdin" >&2
printf '%s\0' "$@" >"$SANDBOX_OUT/arguments"
env -0 >"$SANDBOX_OUT/environment"
sleep 1000 &  # Holds stdout open; nothing waits for it.
exit 7
INSIDE
  COWSLIP_ODD=$'a b\nc' OTHER=1 UBSAN_OPTIONS=u SANDBOX_OUT=$PWD/results \
    "$sandbox" -- bash inside "${odd[@]}" <data >stdout 2>stderr
  expect status 7 $?
  expect stdin "$(sha256sum <data)" "$(sha256sum <results/stdin)"
  expect stdout "$(sha256sum <data)" "$(sha256sum <stdout)"
  expect stderr "$(tac -s x data | sha256sum)" "$(sha256sum <stderr)"
  printf '%s\0' "${odd[@]}" >arguments
  expect arguments "$(sha256sum <arguments)" "$(sha256sum <results/arguments)"
  expect environment $'COWSLIP_ODD=a b\nc\nDM_DISABLE_UDEV=1\nUBSAN_OPTIONS=u' \
    "$(grep -z -E '^(COWSLIP_ODD|DM_DISABLE_UDEV|OTHER|UBSAN_OPTIONS)=' results/environment | sort -z | tr '\0' '\n')"
}

ends() {
  begin
  local status
  # The reader goes away: so does the writer, by SIGPIPE.
  # shellcheck disable=SC2016
  "$sandbox" -- sh -c 'yes; echo "yes: $?" >&2; kill -9 $$' 2>stderr | head -n 1 >stdout
  status=${PIPESTATUS[0]}
  if [[ $status = 69 ]]; then
    cat stderr
    echo 'skipped: the sandbox cannot run here'
    exit 77
  fi
  expect 'status after a signal' 137 "$status"
  expect 'first line' y "$(cat stdout)"
  expect 'the writer' 'yes: 141' "$(tail -n 1 stderr)"
  expect 'temporary folders' '' "$(find "$work" -maxdepth 1 -name 'cowslip-sandbox.*')"
}

guest() {
  begin
  cat >inside <<'INSIDE'
set -eux
[ "$(hostname)" = sandbox ]
[ "$(cat)" = x ]
setpriv --reuid 65534 --clear-groups ls /usr / /etc >/dev/null
setpriv --reuid 65534 --clear-groups touch /tmp/file
grep -q ' / / .* shared:' /proc/self/mountinfo
stat -f -c %T /tmp | grep -qx tmpfs
stat -f -c %T /sys/fs/cgroup | grep -qx cgroup2fs
[ "$(stat -c %a /)" = 755 ]
[ "$DM_DISABLE_UDEV" = 1 ]
dmsetup targets | grep -q '^log-writes '
dmsetup targets | grep -q '^flakey '
grep -qw xfs /proc/filesystems
grep -qw ext4 /proc/filesystems
echo >/dev/stderr
# A pool, a device, data through it, a snapshot.
sectors=$(blockdev --getsz /dev/vdb)
dmsetup create pool --table "0 $sectors thin-pool /dev/vda /dev/vdb 128 0"
dmsetup message pool 0 'create_thin 0'
dmsetup create thin --table '0 131072 thin /dev/mapper/pool 0'
yes | dd of=/dev/mapper/thin bs=1M count=4 iflag=fullblock oflag=direct
dmsetup suspend thin
dmsetup message pool 0 'create_snap 1 0'
dmsetup resume thin
dmsetup create snapshot --table '0 131072 thin /dev/mapper/pool 1'
cmp -n 4194304 /dev/mapper/thin /dev/mapper/snapshot
dmsetup remove snapshot
dmsetup remove thin
dmsetup remove pool
# Where the kernel has device-mapper no second machine is started.
boot=$(cat /proc/sys/kernel/random/boot_id)
[ "$("$1" --native-ok -- sh -c 'cat /proc/sys/kernel/random/boot_id; touch "$SANDBOX_OUT/x"')" = "$boot" ]
"$1" --native-ok -- sh -c 'exit 5' || [ $? = 5 ]
"$1" --native-ok --timeout 1 -- sleep 100 || [ $? = 124 ]
INSIDE
  # Bug: the test failed for a checkout below /tmp, where the guest sees nothing of ours but the current folder.
  cp "$sandbox" ./sandbox
  if ! echo x | "$sandbox" --disk 16M --disk 512M -- bash inside ./sandbox >guest.log 2>&1; then
    echo 'FAILED guest'
    tail -n 20 guest.log
    failed=1
  fi
}

crash() {
  begin
  # Synced data survive kill -9 of QEMU, the rest does not, and the disks boot again.
  cat >inside <<'INSIDE'
set -e
mkfs.ext4 -q /dev/vda
mkdir /tmp/m
mount /dev/vda /tmp/m
echo kept >/tmp/m/kept
sync -f /tmp/m
echo lost >/tmp/m/lost
echo up
sleep 1000
INSIDE
  "$sandbox" --disk 64M --keep disks -- bash inside >first.out 2>first.err &
  wait_for 300 grep -qs up first.out || expect 'first boot' up "$(cat first.out first.err)"
  "$sandbox" --keep disks -- true 2>second.err
  expect 'disks in use' 125 $?
  kill -9 "$(cat disks/qemu.pid)"
  wait $!
  expect 'status after kill -9 of QEMU' 137 $?
  expect_match message '*QEMU was killed*' "$(cat first.err)"

  cat >inside <<'INSIDE'
set -e
mkdir /tmp/m
mount /dev/vda /tmp/m
rmdir /tmp/m/lost+found
cat /tmp/m/*
blockdev --getsize64 /dev/vda /dev/vdb
# udev's cookies: dmsetup waits until udev has made the node.
[ -z "$DM_DISABLE_UDEV" ]
dmsetup create linear --table '0 100 linear /dev/vdb 0'
readlink /dev/mapper/linear
dmsetup remove linear
udevadm settle --timeout=30
ls /dev/mapper
INSIDE
  expect 'second boot' $'kept\n100663296\n1048576\n../dm-0\ncontrol' \
    "$("$sandbox" --udev --disk 96M --disk 1M --keep disks -- bash inside 2>&1)"
  expect 'size grown' 100663296 "$(stat -c %s disks/disk0.img)"
}

stopped() {
  begin
  # `env`, because a background job without job control ignores SIGINT, and what it starts does so too.
  env --default-signal=INT "$sandbox" --keep int -- sh -c 'echo up; sleep 1000' >int.out 2>int.err &
  wait_for 300 grep -qs up int.out || expect boot up "$(cat int.out int.err)"
  ends_by INT 130 $! "$(cat int/qemu.pid)"
  local signal
  for signal in TERM:143 KILL:137; do
    "$sandbox" --keep "$signal" -- sleep 1000 2>stopped.err &
    wait_for 60 test -s "$signal/qemu.pid" || expect start 'QEMU runs' "$(cat stopped.err)"
    ends_by "${signal%:*}" "${signal#*:}" $! "$(cat "$signal/qemu.pid")"
  done
  # The process that called the sandbox is killed and can tell nobody.
  bash -c "'$sandbox' --keep orphan -- sleep 1000; true" 2>orphan.err &
  wait_for 60 test -s orphan/qemu.pid || expect start 'QEMU runs' "$(cat orphan.err)"
  ends_by KILL 137 $! "$(cat orphan/qemu.pid)"
}

# ends_by SIGNAL STATUS PROCESS QEMU: PROCESS ends by SIGNAL with STATUS, soon, and QEMU with it.
ends_by() {
  kill -0 "$4" || expect "QEMU before SIG$1" running gone
  SECONDS=0
  kill -"$1" "$3"
  wait "$3" 2>/dev/null
  expect "status after SIG$1" "$2" $?
  wait_for 10 gone "$4" || expect "QEMU after SIG$1" gone running
  ((SECONDS <= 4)) || expect "time after SIG$1" 'at most 4 s' "$SECONDS s"
}

bounded() {
  begin
  "$sandbox" --timeout 4 -- sleep 1000 2>bounded.err
  expect timeout 124 $?
  expect_match 'timeout, message' '*4 s is over*' "$(cat bounded.err)"
  "$sandbox" -- sh -c 'echo c >/proc/sysrq-trigger; sleep 1000' 2>bounded.err
  expect panic 125 $?
  expect_match 'panic, message' '*ended before COMMAND*sysrq triggered crash*' "$(cat bounded.err)"
}

# The second start: all that it needs is in the cache.
warm() {
  begin
  SECONDS=0
  # A locale that is not there, as in a fresh chroot: nothing is said about it.
  LANG=xx_XX.UTF-8 "$sandbox" -- true >warm.out 2>&1
  expect status 0 $?
  expect output '' "$(cat warm.out)"
  echo "warm, \`-- true\` takes $SECONDS s"
  ((SECONDS <= 60)) || expect time 'at most 60 s' "$SECONDS s"
}

# What goes wrong before the machine starts is not taken for "cannot run here".
preparation() {
  begin
  mkdir bin
  printf '#!/bin/sh\nexit 3\n' >bin/cpio
  chmod +x bin/cpio
  PATH=$PWD/bin:$PATH "$sandbox" -- true 2>failed.err
  expect 'status where cpio fails' 125 $?
  expect_match 'message where cpio fails' '*the preparation failed (line*cpio*' "$(cat failed.err)"
  printf '#!/bin/sh\nexit 3\n' >bin/sort
  chmod +x bin/sort
  PATH=$PWD/bin:$PATH "$sandbox" -- true 2>failed.err
  expect 'status where a function fails' 125 $?
  expect 'messages where a function fails' 1 "$(wc -l <failed.err)"
  PATH=$PWD/bin:$PATH TMPDIR=/nowhere "$sandbox" -- true 2>failed.err
  expect 'status without a temporary folder' 125 $?
}

arguments() {
  begin
  local tool wrong
  "$sandbox" --help >help.out
  expect help 0 $?
  expect_match help '*--timeout SECONDS*' "$(cat help.out)"
  for wrong in '--cpus 0' '--memory 1' '--disk x' '--disk' '--timeout 0' '--what' 'true'; do
    # shellcheck disable=SC2086  # Two words.
    "$sandbox" $wrong 2>/dev/null
    expect "status of $wrong" 64 $?
  done
  mkdir tools
  for tool in /bin/* /usr/bin/* /usr/sbin/*; do
    [[ ${tool##*/} == qemu-system-* || -e tools/${tool##*/} ]] || ln -s "$tool" tools/
  done
  PATH=$PWD/tools "$sandbox" -- true 2>missing.err
  expect 'status where QEMU is missing' 69 $?
  expect_match 'message where QEMU is missing' '*apt-get install*qemu-system-x86*' "$(cat missing.err)"
}

# First alone: it fills the cache, and says if this machine can run any of it.
ends
warm
(
  guest
  bounded
  stopped
  exit "$failed"
) &
others=$!
streams
arguments
preparation
crash
wait "$others" || failed=1
# What was left by the SIGKILLs is removed by the next start.
"$sandbox" --timeout 1 -- true 2>/dev/null
left=$(find "$work" -maxdepth 1 -name 'cowslip-sandbox.*')
[[ -z $left ]] || { echo "FAILED: temporary folders are left: $left"; failed=1; }
exit "$failed"
