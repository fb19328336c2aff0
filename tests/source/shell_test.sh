#!/bin/bash
# All our shell scripts, checked: what names bash or sh in its first line, and what such a script reads in.
set -euo pipefail
cd "$(dirname "$0")/../.."

mapfile -t scripts < <(grep -rlE -m 1 '^#!/bin/(ba)?sh|^# shellcheck shell=' .ci deploy tests schemas services)
((${#scripts[@]} > 5)) || { echo "only ${#scripts[@]} scripts are found"; exit 1; }
shellcheck --external-sources --source-path=SCRIPTDIR "${scripts[@]}"
