#!/bin/sh
# The compiler as run.sh has cargo call it: kernels are not what is fuzzed, and instrumented they take longer to build
# than all the rest.
set -eu
rustc=$1
shift
case " $* " in
    *" --crate-name cpu_kernels "*)
        for argument; do
            shift
            [ "$argument" = -Cpasses=sancov-module ] || set -- "$@" "$argument"
        done
        ;;
esac
exec "$rustc" "$@"
