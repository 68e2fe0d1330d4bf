#!/usr/bin/env bash
# The clients that people use, against a server of our own: openai (Python and JavaScript),
# langchain-openai, lm-eval and schemathesis.
#
#   run.sh [WHICH...]     openai_python openai_node langchain lm_eval fuzz_api; all if none is named
#
# INFINITY names the program (default: target/release/infinity). What is needed is installed under
# target/tools. EXAMPLES sets how often schemathesis calls an operation (500).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../../.." && pwd)
tools="$root/target/tools/clients"
infinity=${INFINITY:-$root/target/release/infinity}
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
for _ in $(seq 100); do
    url=$(sed -n 's/.*listening on \(http[^ ]*\).*/\1/p' "$log" | head -n1)
    [ -n "$url" ] && curl -sf "$url/readyz" >/dev/null && break
    kill -0 $server || { cat "$log" >&2; exit 1; }
    sleep 0.1
done

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
        needs lm_eval "lm-eval[api]"
        python "$here/lm_eval_client.py" "$url/v1" "$root/../shared/oracle/bard" ;;
    fuzz_api)
        needs schemathesis schemathesis pyyaml
        python "$here/fuzz_api.py" "$url/v1" "$root/../shared/data/openapi/openapi.json" "${EXAMPLES:-500}" ;;
    *) echo "$0: no client '$client'" >&2; exit 2 ;;
    esac
done
