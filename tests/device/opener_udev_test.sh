#!/bin/bash
# Somebody opens each new device for 300 ms, as scanners, and udev rules of others, do: clients that make, mount and remove
# volumes never see it, and nothing is left. CYCLES (of all clients) and CLIENTS may be set. Runs in deploy/sandbox --udev.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

cycles=${CYCLES:-80} clients=${CLIENTS:-4}
[[ -S /run/udev/control ]] || { echo 'no udevd: skipped'; exit 77; }

start_services --device-actors 4 --mount-actors 4
ask pool create --loop 1G
ask create base --size 32M
last=$(last_event)
in_python opener.py "$cycles" "$clients"
# What was in the way was waited for, behind the reply: a removal of which a finding tells was not done in time.
expect 'findings' '[]' "$(ask status --json | json 'd["findings"]')"
expect 'requests that failed' '' "$(ask events --json --since "$last" | grep -E '"type":"finding.(parked|lost)' || true)"
ask rm base --wait --must-exist
expect 'volumes' '' "$(ask ls)"
clean_up
