#!/bin/bash
# Each process of the service killed with -9 at each step of create, get, put and rm, with 1,000 volumes in the store:
# each request is answered with success all the same, nothing is lost, and the service is soon there again.
#
# TIMES (of each step), MOST (steps of all), KNOWN (volumes) and SEED may be set. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

times=${TIMES:-5} most=${MOST:-1000000} known=${KNOWN:-1000} seed=${SEED:-1}

start_services --device-actors 2 --mount-actors 1
ask pool create --loop 2G
stop_services
echo "seed $seed"
# The actor whose name comes first is told. With process ids of five digits that is not always the one who is new, which the
# supervisor would hold back for seconds.
echo 10000 >/proc/sys/kernel/ns_last_pid
in_python kill_steps.py "$known" "$times" "$most" "$seed"
start_services --device-actors 2 --mount-actors 1
clean_up
