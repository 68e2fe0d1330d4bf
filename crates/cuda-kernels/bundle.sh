#!/usr/bin/env bash
# The bundle's run.sh: everything that is to be checked and measured on a GPU, on a machine without Rust. Ends non-zero if
# there is no GPU or a check failed; figures are in results/.
#
#   ./run.sh            tests, compute-sanitizer where it is installed, then measurements
#   ./run.sh --measure  measurements alone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Compiled kernels, and what the tests of whole models read.
export INFINITY_KERNEL_CACHE="$PWD/kernels" INFINITY_WORKSPACE="$PWD/workspace" INFINITY_SHARED="$PWD/shared"
unset INFINITY_EMULATE_CUDA CI

./infinity devices
if ! ./infinity devices --json | grep -q '"no_gpu": null'; then
    echo "there is no GPU here: nothing was checked and nothing measured"
    exit 1
fi

failed=0
if [ "${1:-}" != --measure ]; then
    REQUIRE_GPU=1 ./gpu-test.sh tests/* || failed=1
fi

mkdir -p results
./gpu_bench --out results | tee results/kernels.txt || failed=1
awk -F, '
    { split($2, at, " and "); rows = at[2] + 0 }
    $1 == "gemm" && $2 ~ /^cublaslt/ { theirs[rows] = $5 }
    $1 == "gemm_w4a16" && rows in theirs {
        printf "W4A16 of %d rows: %.2f times as fast as cuBLASLt in bf16\n", rows, theirs[rows] / $5
    }' results/kernels.csv | tee results/w4a16.txt
for weights in BF16 Q4_K Q4_0; do
    name="results/llama-3-8b-$weights"
    ./infinity bench --random llama-3-8b --weights "$weights" --device cuda:0 --prefill 512,2048 \
        --depth 0,512,4096 --batch 1,8,32,128 --batch-depth 512 --csv "$name.csv" --roofline "$name.svg" |
        tee "$name.txt" || failed=1
done
# Where the time of a step goes, launch by launch.
./infinity bench --random llama-3-8b --weights Q4_K --device cuda:0 --prefill none --depth 512 \
    --batch none --repetitions 1 --profile 2>&1 | tee results/llama-3-8b-profile.txt || failed=1
if command -v python3 >/dev/null && python3 -c 'import torch' 2>/dev/null; then
    python3 peers.py --depth 512 --ours results | tee results/peers.txt || failed=1
else
    echo "skipped: PyTorch is not installed, so that there is nothing to compare with"
fi
exit "$failed"
