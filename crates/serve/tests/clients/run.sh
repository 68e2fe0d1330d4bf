#!/usr/bin/env bash
# The clients that people use, against a server of our own: openai (Python and JavaScript),
# langchain-openai, lm-eval and schemathesis.
#
#   run.sh [WHICH...]            openai_python openai_node langchain lm_eval fuzz_api; all if none is named
#   run.sh soak [OPTION...]      half an hour of mixed load, and what is left of it (see soak.py)
#   run.sh overload [OPTION...]  ten times what the server can do (see overload.py)
#   run.sh cache [OPTION...]     what a prefix cache costs that finds nothing, and waste (see cache.py)
#
# INFINITY names the program (default: target/release/infinity). What is needed is installed under
# target/tools. EXAMPLES sets how often schemathesis calls an operation (500).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../../.." && pwd)
tools="$root/target/tools/clients"
infinity=${INFINITY:-$root/target/release/infinity}
export PYTHONDONTWRITEBYTECODE=1
case ${1:-} in
soak | overload | cache)
    script=$1 && shift
    exec python3 "$here/$script.py" --infinity "$infinity" "$@" ;;
esac
which=("$@")
[ "${#which[@]}" -gt 0 ] || which=(openai_python openai_node langchain lm_eval fuzz_api)

python() {
    if [ ! -x "$tools/venv/bin/python" ]; then
        python3 -m venv "$tools/venv"
    fi
    "$tools/venv/bin/python" "$@"
}
needs() { python -c "import $1" 2>/dev/null || python -m pip install --quiet "${@:2}"; }

log="$tools/server.log"
mkdir -p "$tools"
"$infinity" serve --model "bard=$root/assets/bard-f16.gguf" --model "minilm=$root/../shared/oracle/minilm" \
    --chat-template "$here/chat.jinja" --port 0 2>"$log" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true' EXIT
# On a busy machine it takes its time, and without it each client would fail in its own way.
ready=
for _ in $(seq 600); do
    url=$(sed -n 's/.*listening on \(http[^ ]*\).*/\1/p' "$log" | head -n1)
    [ -n "$url" ] && curl -sf "$url/readyz" >/dev/null && ready=1 && break
    kill -0 $server || break
    sleep 0.1
done
[ -n "$ready" ] || { echo "$0: the server does not get ready" >&2 && cat "$log" >&2 && exit 1; }

for client in "${which[@]}"; do
    echo "==== $client"
    case $client in
    openai_python)
        needs openai openai
        python "$here/openai_python.py" "$url/v1" --embedding-model minilm ;;
    openai_node)
        [ -d "$tools/node/node_modules/openai" ] || npm install --silent --prefix "$tools/node" openai
        cp "$here/openai_node.mjs" "$tools/node/"
        node "$tools/node/openai_node.mjs" "$url/v1" ;;
    langchain)
        needs langchain_openai langchain-openai
        python "$here/langchain_client.py" "$url/v1" ;;
    lm_eval)
        # The last three are what it reads the model's tokenizer with.
        needs lm_eval,transformers,sentencepiece,google.protobuf "lm-eval[api]" transformers sentencepiece protobuf
        python "$here/lm_eval_client.py" "$url/v1" "$root/../shared/oracle/bard" ;;
    fuzz_api)
        needs schemathesis,jsonschema_rs schemathesis jsonschema-rs
        python "$here/fuzz_api.py" "$url/v1" "$root/../shared/data/openapi/openapi.json" "${EXAMPLES:-500}" ;;
    *) echo "$0: no client '$client'" >&2; exit 2 ;;
    esac
done
