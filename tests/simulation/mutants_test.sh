#!/bin/bash
# mutants_test.sh SIMULATION-TESTS [MUTANT...]: every wrong variant of tests/simulation/mutants.h must make the simulation
# fail; one that survives is a test that is missing. Fails if one does, and says which.
set -euo pipefail
program=$1
shift
mutants=("$@")
if ((${#mutants[@]} == 0)); then
  mutants=(no_status_check only_rw_counts eexist_adopted first_eexist_retried id_reused pool_first answer_before_commit
    removal_deferred swap_before_planned synchronous_normal heads_not_only no_suspend no_uuid no_rmdir resend_on_timeout actors_not_asked
    label_only sync_believed folder_not_synced restore_unmarked restored_believed)
fi

export COWSLIP_SEEDS=300
# The cases of the protocol itself: those of what came behind it take longer, and break no rule of these first.
protocol='~[identity]~[verdict]~[rebuild]~[repair]~[store]~[fsck]~[lifetime]'
declare -A others=([label_only]='[verdict]' [sync_believed]='[repair]' [folder_not_synced]='[backup]'
  [restore_unmarked]='[restore]' [restored_believed]='[restore]')
survived=()
for mutant in "" "${mutants[@]}"; do
  begun=$EPOCHREALTIME
  status=0
  cases=${others[${mutant:-none}]:-$protocol}
  output=$(COWSLIP_MUTANT=$mutant timeout 400 "$program" --abort "$cases" 2>/dev/null) || status=$?
  took=$(((${EPOCHREALTIME/./} - ${begun/./}) / 1000))
  if [[ -z $mutant ]]; then
    # Else all that follows says nothing.
    if ((status != 0)); then printf 'without a mutant the simulation fails\n%s\n' "$output" >&2; exit 1; fi
    continue
  fi
  # A time-out proves nothing; that the program breaks is a failure like another.
  if ((status == 0 || status == 124)); then
    survived+=("$mutant")
    printf '%-24s SURVIVED after %d ms\n' "$mutant" "$took"
  else
    printf '%-24s caught in %6d ms by: %s\n' "$mutant" "$took" "$(awk 'dashes { print; exit } /^------/ { dashes = 1 }' <<<"$output")"
  fi
done
printf '%d mutants, %d survived\n' "${#mutants[@]}" "${#survived[@]}"
((${#survived[@]} == 0))
