#!/bin/sh
# The tests of this crate under AddressSanitizer; arguments go to cargo test.
#
#   crates/cpu-kernels/asan.sh                    all of them
#   crates/cpu-kernels/asan.sh --test matmul      those of products
#
# No nightly toolchain is needed: the flag is unstable, the runtime comes with the compiler. What is
# built stays in a folder of its own, so that other builds keep theirs.
set -eu
cd "$(dirname "$0")/../.."

# --target keeps the flags from build scripts and procedural macros, which run uninstrumented.
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=address"
# Without its documentation's examples, which are not linked with the sanitizer.
case " $* " in
    *" --lib "* | *" --test "* | *" --tests "*) ;;
    *) set -- --lib --tests "$@" ;;
esac
exec cargo test --target "$host" --target-dir target/asan -p cpu-kernels "$@"
