#!/usr/bin/env bash
# Runs the compiler for `run.sh` (as RUSTC_WRAPPER): rustc.sh RUSTC ARGUMENT…
# The fuzzer is to see the branches of what reads inputs. To count those of the runtimes and clients
# of servers beneath it, too, would take most of the time of each input.
set -euo pipefail
seen=' amq_protocol_types rmp rmp_serde url '
name=
for ((at = 1; at < $#; at++)); do
    [ "${!at}" != --crate-name ] || { ((at += 1)) && name=${!at} && break; }
done
arguments=()
for argument; do
    case $argument in
        -Cpasses=sancov* | -Cllvm-args=-sanitizer-coverage*)
            [[ $name == bolthole* || $seen == *" $name "* ]] || continue
            ;;
    esac
    arguments+=("$argument")
done
exec "${arguments[@]}"
