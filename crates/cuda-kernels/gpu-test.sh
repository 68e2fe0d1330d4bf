#!/usr/bin/env bash
# Runs test programs on a GPU, with fresh inputs. Then, where compute-sanitizer is installed, once more under each of
# its checks. Where there is no GPU it says so, and fails if REQUIRE_GPU is 1.
#
#   gpu-test.sh PROGRAM...        (.ci/run gpu_test builds and names them; so does the bundle's run.sh)
set -euo pipefail

# What the driver makes, also under Windows' Linux.
if [ "${REQUIRE_GPU:-}" != 1 ] && ! compgen -G '/dev/nvidia[0-9]*' >/dev/null && [ ! -e /dev/dxg ]; then
    echo "skipped: no GPU"
    exit 0
fi

export REQUIRE_GPU=1 FRESH_INPUTS="${FRESH_INPUTS:-fresh}"
failed=()
for program in "$@"; do
    printf '\n==== %s\n' "$(basename "$program")"
    "$program" --test-threads=1 || failed+=("$program")
done

if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        for program in "$@"; do
            printf '\n==== %s under %s\n' "$(basename "$program")" "$tool"
            # The process's own exit code tells of tests, 86 of what the tool found.
            compute-sanitizer --tool "$tool" --error-exitcode 86 "$program" --test-threads=1 ||
                failed+=("$tool: $program")
        done
    done
else
    echo "skipped: compute-sanitizer is not installed"
fi

if [ "${#failed[@]}" -gt 0 ]; then
    printf '\nfailed:\n'
    printf '  %s\n' "${failed[@]}"
    exit 1
fi
