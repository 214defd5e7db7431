#!/usr/bin/env bash
# Looks for inputs that break a rule of `bolthole_tests::fuzz`: run.sh [INPUTS [TARGET…]]
# Each target gets INPUTS inputs (100,000 unless said otherwise) and one row of the table at the end.
# Needs a nightly compiler and cargo-fuzz. Inputs that break a rule are left in `artifacts`; what is
# learnt on the way is thrown away, so that the corpora in the repository stay small.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
readonly inputs=${1:-100000}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(basename -s .rs targets/*.rs)

# Safe code has no use for the address sanitizer, which would take most of the time.
options=(--fuzz-dir . --sanitizer none)
cargo +nightly fuzz build "${options[@]}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
table='target inputs seconds memory_MiB result'
for target in "${targets[@]}"; do
    mkdir -p "$work/$target" artifacts
    result=ok
    cargo +nightly fuzz run "${options[@]}" "$target" "$work/$target" "corpus/$target" -- \
        -runs="$inputs" -timeout=5 -rss_limit_mb=512 -len_control=20 -max_len=70000 \
        -print_final_stats=1 >"$work/log" 2>&1 || { result=FAILED && failed=1 && cat "$work/log"; }
    figure() { sed -n "s/^stat::$1: *//p" "$work/log" | tail -n 1; }
    seconds=$(sed -n 's/^Done .* in \([0-9]*\) second.*/\1/p' "$work/log")
    row="$target $(figure number_of_executed_units) ${seconds:--} $(figure peak_rss_mb) $result"
    echo "$row"
    table+=$'\n'$row
done
echo
column -t <<<"$table"
exit "$failed"
