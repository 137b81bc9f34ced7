#!/bin/sh
# Compiles a model's kernels into the folder that the engine reads beside its own cache: `kernels.sh CAPABILITIES FLAGS`,
# such as "80 90" "--max-num-seqs 64". The model is kernels.json (its config.json) or kernels.gguf beside this script.
set -eu

capabilities=$1 flags=${2:-}
here=$(dirname "$0")
kernels=${OCTAVO_KERNELS:-/opt/octavo/kernels}
mkdir -p "$kernels"
[ -n "$capabilities" ] || exit 0

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -e "$here/kernels.gguf" ]; then
    set -- --model "$here/kernels.gguf"
elif [ -e "$here/kernels.json" ]; then
    cp "$here/kernels.json" "$folder/config.json"
    set -- --model "$folder" --load-format dummy
else
    echo "kernels: no model is given; put its config.json at images/kernels.json, or its GGUF file at images/kernels.gguf" >&2
    exit 2
fi
for capability in $capabilities; do
    set -- --capability "$capability" "$@"
done
# shellcheck disable=SC2086
PYTHONDONTWRITEBYTECODE=1 "${PYTHON:-/opt/octavo/bin/python}" -m octavo_engine.cli.compile --output "$kernels" "$@" $flags
chmod -R a+rX "$kernels"
