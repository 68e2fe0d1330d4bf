#!/bin/sh
# Fuzz on the stable toolchain, without cargo-fuzz. LIMIT is seconds, or executions with an x:
#
#   fuzz/run.sh 60                          every target for a minute each
#   fuzz/run.sh 10000000x gguf_reader       one target, ten million executions
#   fuzz/run.sh 60 gguf_reader -- -seed=1   with options for libFuzzer
#
# What a run finds worth keeping goes to fuzz/target/corpus/TARGET, an input that fails to
# fuzz/target/artifacts/TARGET-*. Replay one with: cargo run --bin TARGET FILE (in fuzz/).
set -eu

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

[ $# -ge 1 ] || usage
case $1 in
    *[!0-9x]* | x*) usage ;;
    *x) limit=-runs=${1%x} ;;
    *) limit=-max_total_time=$1 ;;
esac
shift
targets=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    targets="$targets $1"
    shift
done
[ $# -eq 0 ] || shift
cd "$(dirname "$0")"
if [ -z "$targets" ]; then
    for file in src/bin/*.rs; do
        name=$(basename "$file" .rs)
        [ "$name" = seeds ] || targets="$targets $name"
    done
fi

# --target keeps the flags from build scripts, which would lack the symbols they ask for.
host=$(rustc -vV | sed -n 's/^host: //p')
bins=
for target in $targets; do bins="$bins --bin $target"; done
# shellcheck disable=SC2086 # an option a word
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" RUSTC_WRAPPER="$PWD/rustc.sh" \
    cargo build --release --target "$host" --target-dir target/fuzzing $bins

for target in $targets; do
    echo "fuzzing $target, $limit"
    found=target/corpus/$target
    mkdir -p "$found" "corpus/$target" target/artifacts
    dict=
    [ ! -f "$target.dict" ] || dict=-dict=$target.dict
    # Ten seconds and 512 MB are far more than an input may take.
    "target/fuzzing/$host/release/$target" "$limit" -max_len=4096 -timeout=10 -rss_limit_mb=512 \
        -print_final_stats=1 -verbosity=1 -artifact_prefix="target/artifacts/$target-" $dict \
        "$@" "$found" "corpus/$target"
done
