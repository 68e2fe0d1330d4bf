#!/bin/sh
# Fuzz one target on the stable toolchain, without cargo-fuzz:
#
#   fuzz/run.sh gguf_reader 60s          for sixty seconds
#   fuzz/run.sh gguf_reader 10000000     for ten million executions
#
# What the run finds worth keeping goes to fuzz/target/corpus/TARGET, an input that fails to
# fuzz/target/artifacts/TARGET-*. Replay one with: cargo run --bin TARGET FILE (in fuzz/).
set -eu

[ $# -ge 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
target=$1 limit=$2
shift 2
cd "$(dirname "$0")"

case $limit in
    *s) limit=-max_total_time=${limit%s} ;;
    *) limit=-runs=$limit ;;
esac

# --target keeps the flags from build scripts, which would lack the symbols they ask for.
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
    cargo build --release --locked --target "$host" --target-dir target/fuzzing --bin "$target"

found=target/corpus/$target
mkdir -p "$found" target/artifacts
dict=
[ ! -f "$target.dict" ] || dict=-dict=$target.dict
# A second and 256 MB are a hundred times what an input may take.
exec "target/fuzzing/$host/release/$target" "$limit" -max_len=4096 -timeout=1 -rss_limit_mb=256 \
    -print_final_stats=1 -artifact_prefix="target/artifacts/$target-" $dict \
    "$@" "$found" "corpus/$target"
