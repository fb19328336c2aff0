#!/bin/bash
# Clones of a volume that is written to without a pause, 64 asked for at once: each is the volume at one instant, and they
# share a few suspensions of it.
#
# ROUNDS may be set. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

start_services --device-actors 3 --mount-actors 3
ask pool create --loop 1G
stop_services
in_python clones.py "${ROUNDS:-3}"
start_services --device-actors 2 --mount-actors 1
clean_up
