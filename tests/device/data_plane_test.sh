#!/bin/bash
# All our processes killed and kept dead, under a writer that checks what it wrote: the data plane is the kernel's, so no
# write fails or stalls, and a new start finds leases and volumes as they were. DEAD_SECONDS may be set. Runs in
# deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

dead=${DEAD_SECONDS:-60}

start_services --device-actors 2 --mount-actors 1
ask pool create --loop 512M
ask create raw --size 8M --fs none
ask create base --size 64M
device=$(ask attach raw)
path=$(ask create files --parent base --get)
(exec timeout 300 /usr/bin/python3 "$root/tests/device/steady_writer.py" write "$device" "$folder/stalls") >"$folder/writer" 2>&1 &
writer=$!
# A file system's writer: each file is synced, and its sum is kept elsewhere.
write_files() {
  local number
  for ((number = 0; ; ++number)); do
    if [[ -e $folder/enough ]]; then break; fi
    head -c 20000 /dev/urandom >"$path/file-$((number % 50))"
    sync "$path/file-$((number % 50))"
    sleep 0.05
  done
  (cd "$path" && sha256sum file-*) >"$folder/sums"
  echo "$number" >"$folder/files"
}
write_files 2>"$folder/file_errors" &
files=$!

sleep 2
mapfile -t ours < <(pgrep -P "$up")
((${#ours[@]} >= 4)) || fail "of our processes only these run: ${ours[*]}"
kill -KILL "$up" "${ours[@]}"
wait "$up" || true
up=''
for pid in "${ours[@]}"; do wait_for 20 gone "$pid" || fail "process $pid survived"; done
died=$(date +%s%3N)
sleep "$dead"
if pgrep -x 'cowslip.*' >"$folder/alive"; then fail "alive again: $(cat "$folder/alive")"; fi
if gone "$writer"; then fail "the writer ended: $(cat "$folder/writer")"; fi
if gone "$files"; then fail "the writer of files ended: $(cat "$folder/file_errors")"; fi

start_services --device-actors 2 --mount-actors 1
expect 'the lease and its path' "$path" "$(ask get files)"
expect 'the other lease and its path' "$device" "$(ask attach raw)"
sleep 2
kill -TERM "$writer"
wait "$writer" || fail "the writer: $(cat "$folder/writer")"
touch "$folder/enough"
wait "$files" || fail "the writer of files: $(cat "$folder/file_errors")"
expect 'errors of the writer of files' '' "$(cat "$folder/file_errors")"
writes=$(awk '$2 == "writes" { print $1 }' "$folder/stalls")
longest=$(awk -v died="$died" -v dead="$dead" \
  '$2 != "writes" && $1 > died && $1 < died + dead * 1000 && $2 > most { most = $2 } END { print most + 0 }' "$folder/stalls")
(cd "$path" && sha256sum --quiet --check "$folder/sums") || fail 'a file is not what was written'
ask put files
path=$(ask get files)
(cd "$path" && sha256sum --quiet --check "$folder/sums") || fail 'a file is not what was written, mounted anew'
ask put files
ask detach raw
echo "dead for $dead s: $writes writes and $(cat "$folder/files") files, 0 errors, the longest stall $longest ms"
ask rm --wait files base raw
clean_up
