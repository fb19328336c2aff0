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
# Or those that are known to see one: quicker than to come upon them among all.
declare -A others=([label_only]='[verdict]' [sync_believed]='[repair]' [folder_not_synced]='[backup]'
  [restore_unmarked]='[restore]' [restored_believed]='[restore]' [no_status_check]='whatever dies*'
  [resend_on_timeout]='whatever dies*' [actors_not_asked]='whatever dies*'
  [only_rw_counts]='a pool that is full of data takes no creates*' [swap_before_planned]='*of a new start loses nothing*')

# run_cases MUTANT CASES: up to the first failure.
run_cases() { COWSLIP_MUTANT=$1 timeout 400 "$program" --abort --warn NoTests "$2" 2>/dev/null; }

survived=()
declare -A well=()  # The cases that were seen to pass without a mutant.
for mutant in "${mutants[@]}"; do
  begun=$EPOCHREALTIME
  status=0
  output=$(run_cases "$mutant" "${others[$mutant]:-$protocol}") || status=$?
  took=$(((${EPOCHREALTIME/./} - ${begun/./}) / 1000))
  # A time-out proves nothing, and a program that breaks does not say which rule was broken.
  if ((status == 0 || status >= 124)); then
    survived+=("$mutant")
    printf '%-24s SURVIVED after %d ms: status %d\n' "$mutant" "$took" "$status"
    continue
  fi
  by=$(awk 'dashes { print; exit } /^------/ { dashes = 1 }' <<<"$output")
  printf '%-24s caught in %6d ms by: %s\n' "$mutant" "$took" "$by"
  [[ -z ${well[$by]:-} ]] || continue
  # It must be the mutant's fault. (The name is cut off where the line ends; a comma would end it for Catch2.)
  if ! output=$(run_cases '' "${by//,/\\,}*"); then
    printf 'without a mutant it fails as well\n%s\n' "$output" >&2
    exit 1
  fi
  well[$by]=yes
done
printf '%d mutants, %d survived\n' "${#mutants[@]}" "${#survived[@]}"
((${#survived[@]} == 0))
