#!/usr/bin/env bash
# The test command: installs what is missing (Debian, Ubuntu), runs every test of the workspace,
# then the ETL example, whose answer is known. Arguments go to `cargo test`.
#
# Only private servers and temporary folders are used, so copies of this script may run at once.
# The last line says what was run; the status is 0 when nothing failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly etl_answer='2013-02-04..2013-02-06 and 2013-01-23..2013-01-25: correlation 0.662435'

# A linker and a C compiler are part of building with Rust (SQLite and ring are written in C).
packages=()
command -v cc >/dev/null || packages+=(gcc libc6-dev)
# Certificates for servers that speak TLS.
command -v openssl >/dev/null || packages+=(openssl)
deploy/local.sh install "${packages[@]}"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()

cargo test --workspace --locked --no-fail-fast "$@" 2>&1 | tee "$log" || failed+=("tests")
# test result: ok. 9 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s
counts=$(awk '/^test result: / { passed += $4; failed += $6; ignored += $8; binaries++ }
    END { printf "%d passed, %d failed, %d ignored in %d test binaries",
        passed, failed, ignored, binaries }' "$log")
grep -q '^test result: ' "$log" || failed+=("no test ran")

etl='no ETL example'
if [ -e client/examples/etl/main.rs ]; then
    # Standard error shows the progress; the answer is the last line of standard output.
    cargo run --release --locked --example etl >"$log" || failed+=("the ETL example")
    answer=$(tail -n 1 "$log")
    if [ "$answer" = "$etl_answer" ]; then
        etl='ETL as expected'
    else
        printf 'ETL: expected %s\n     got      %s\n' "$etl_answer" "$answer"
        etl='ETL wrong'
        failed+=("the answer of the ETL example")
    fi
fi

echo "tests/run.sh: $counts; $etl"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'tests/run.sh: failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
