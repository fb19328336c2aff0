#!/bin/bash
# Nothing leaks: after many cycles of the main job the processes, the kernel, the pool and the state folder have what they had.
#
# CYCLES may be set. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

start_services --device-actors 3 --mount-actors 3
ask pool create --loop 1G
stop_services
in_python soak.py "${CYCLES:-300}"
start_services --device-actors 2 --mount-actors 1
clean_up
