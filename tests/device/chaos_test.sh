#!/bin/bash
# Eight clients at work while processes of the service are killed with -9, or stopped and let go on, at random: each
# request is answered with success, and at the end everything acknowledged is there with its checksum.
#
# COWSLIP_CHAOS_SECONDS and SEED may be set. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

seconds=${COWSLIP_CHAOS_SECONDS:-60} seed=${SEED:-1}

start_services --device-actors 2 --mount-actors 1
ask pool create --loop 1G
stop_services
echo "seed $seed"
in_python chaos.py "$seconds" "$seed"
start_services --device-actors 2 --mount-actors 1
clean_up
