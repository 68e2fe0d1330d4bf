#!/usr/bin/env bash
# Builds and runs each project here and checks its dependency tree. See README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Our own crates that each crate may pull in besides itself; a new one needs a line in
# ARCHITECTURE.md.
declare -A may_use=(
    [blocks]=""
    [files]=""
    [paged-kv]=""
    [gguf]="blocks files"
    [cpu-kernels]="blocks"
    [cuda-kernels]="blocks files"
    [quant-core]="blocks cpu-kernels"
    [sampling]=""
    [workload]=""
    [openai-api]=""
    [scheduler]="paged-kv"
    [tokenizer]="blocks files gguf"
    [constrain]="blocks files gguf tokenizer"
    [tensor]="blocks cpu-kernels files"
    [model]="blocks cpu-kernels files gguf tensor"
    [eval]="blocks cpu-kernels files gguf tensor model tokenizer"
    [engine]="blocks cpu-kernels files gguf tensor model tokenizer sampling constrain paged-kv scheduler"
    [compress]="blocks cpu-kernels files gguf tensor model quant-core tokenizer"
)
# HTTP and CUDA, which no library may bring along but `cuda-kernels` and `serve`, which is not here.
forbidden='^(hyper|reqwest|ureq|attohttpc|curl|isahc|axum|actix-web|tokio|rustls|native-tls|openssl|hf-hub|cudarc|cust)(-sys)? '

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
crates=("$@")
if [ "${#crates[@]}" -eq 0 ]; then
    # All, and each must be here; testkit is for tests alone.
    for crate in ../crates/*/; do
        crate=$(basename "$crate")
        case $crate in testkit | serve) ;; *) crates+=("$crate") ;; esac
    done
fi

for crate in "${crates[@]}"; do
    if [ -z "${may_use[$crate]+known}" ]; then
        echo "outside/run.sh does not know what '$crate' may use" >&2
        exit 1
    fi
    manifest="$crate/Cargo.toml"
    [ -f "$manifest" ] || { echo "outside/$crate is missing" >&2; exit 1; }
    # The workspace's versions: what was tested is what is built here.
    cp ../Cargo.lock "$crate/Cargo.lock"
    printf '\n-- %s\n' "$crate"
    tree=$(cargo tree --quiet --manifest-path "$manifest" --edges normal --prefix none --format '{p}' | sed 's/ (\*)$//' | sort -u)
    # An engine's events go through a channel of tokio, which needs none of its threads or sockets.
    allowed='^$'
    [ "$crate" != engine ] || allowed='^tokio '
    [ "$crate" != cuda-kernels ] || allowed='^cudarc '
    if bad=$(grep -Ev "$allowed" <<<"$tree" | grep -E "$forbidden"); then
        printf '%s pulls in:\n%s\n' "$crate" "$bad" >&2
        exit 1
    fi
    # Ours are those with a path below crates/.
    ours=$(sed -n 's|^\([^ ]*\) .*/crates/.*|\1|p' <<<"$tree")
    for used in $ours; do
        case " $crate ${may_use[$crate]} " in
            *" $used "*) ;;
            *) echo "$crate pulls in our $used" >&2; exit 1 ;;
        esac
    done
    echo "$(wc -l <<<"$tree") packages; ours: $(tr '\n' ' ' <<<"$ours")"
    cargo run --quiet --manifest-path "$manifest"
done
