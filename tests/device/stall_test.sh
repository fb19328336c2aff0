#!/bin/bash
# A stalled actor that wakes at the worst moment does no harm. For each kind of command an actor is stopped at a system
# call in the middle of it, and while it is: the same client repeats its request, others ask for the same volume, other
# volumes are made and removed, perhaps the manager is killed and starts again. Then the actor goes on, or is killed.
# After each point everything acknowledged is there with its contents, and nothing else is.
#
# POINTS (of each kind; all if it is large), SEED and KINDS may be set. Runs in deploy/sandbox.
# shellcheck source=tests/device/service.sh
. "$(dirname "$0")/service.sh"

points=${POINTS:-3} seed=${SEED:-1}
read -ra kinds <<<"${KINDS:-}"

start_services --device-actors 2 --mount-actors 1
ask pool create --loop 2G
stop_services
echo "seed $seed"
in_python stall.py "$points" "$seed" "${kinds[@]}"
start_services --device-actors 2 --mount-actors 1
clean_up
