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

# need WHAT COMMAND…: ends the script, saying what is missing, unless the command succeeds.
need() {
    local what=$1
    shift
    "$@" >/dev/null 2>&1 || { echo "run.sh: $what" >&2 && exit 1; }
}
need 'there is no nightly compiler: rustup toolchain install nightly' cargo +nightly --version
need 'there is no cargo-fuzz: cargo install cargo-fuzz' cargo fuzz --version
for target in "${targets[@]}"; do
    need "there is no target $target in tests/fuzz/targets" test -e "targets/$target.rs"
done

# The versions of the project.
cp ../../Cargo.lock .
# Safe code has no use for the address sanitizer, which would take most of the time.
options=(--fuzz-dir . --sanitizer none --target-dir ../../target/fuzz)
export RUSTC_WRAPPER=$PWD/rustc.sh
cargo +nightly fuzz build "${options[@]}"

# Bytes of the largest input. What is read as a whole has its limit there; with more, the same is
# read more often.
longest() {
    case $1 in
        chunk | parcel) echo 4096 ;;
        amqp) echo 1400 ;;
        *) echo 512 ;;
    esac
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
table='target inputs inputs/s seconds memory_MiB result'
for target in "${targets[@]}"; do
    mkdir -p "$work/$target" artifacts
    result=ok
    # What one allocation may take is far below what a length in an input can ask for. Files are
    # written in memory, where there is such a place.
    TMPDIR=$([ -w /dev/shm ] && echo /dev/shm || echo "$work") \
        cargo +nightly fuzz run "${options[@]}" "$target" "$work/$target" "corpus/$target" -- \
        -runs="$inputs" -timeout=10 -rss_limit_mb=512 -malloc_limit_mb=32 -len_control=20 \
        -max_len="$(longest "$target")" -print_final_stats=1 >"$work/log" 2>&1 ||
        { result=FAILED && failed=1 && cat "$work/log"; }
    figure() { sed -n "s/^stat::$1: *//p" "$work/log" | tail -n 1; }
    seconds=$(sed -n 's/^Done .* in \([0-9]*\) second.*/\1/p' "$work/log")
    speed=$(figure average_exec_per_sec)
    row="$target $(figure number_of_executed_units) $speed ${seconds:--} $(figure peak_rss_mb) $result"
    echo "$row"
    table+=$'\n'$row
done
echo
column -t <<<"$table"
exit "$failed"
