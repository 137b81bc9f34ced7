#!/usr/bin/env bash
# Writes images/*.lock from pyproject.toml and build.in: every version with its hashes, for each Python that we run on.
# What is locked stays as it is while it fits; `--upgrade` takes what is newest.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$1
shift

lock() {
    local target=$1
    shift
    "$uv" pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command "make locks" "$@" -o "images/$target.lock"
}

lock engine-cpu pyproject.toml --extra engine --extra otel "$@"
lock engine-cuda pyproject.toml --extra cuda --extra otel "$@"
lock operator pyproject.toml --extra operator "$@"
lock build images/build.in "$@"
