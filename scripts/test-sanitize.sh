#!/usr/bin/env bash
# The native executor's tests on a build with address and undefined-behaviour sanitizers. The software model of AMX
# tiles is built in, so that those kernels are checked on any CPU with AVX-512. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
build=build/sanitize
export PATH="$(dirname "$(realpath -s "$python")"):$PATH" # cmake's, which the environment brings

mkdir -p build
cmake -S engine/octavo_engine/executors/native -B "$build" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DOCTAVO_SANITIZE=address,undefined -DOCTAVO_EMULATE_AMX=ON -DPython_EXECUTABLE="$(realpath -s "$python")" >"$build.log"
cmake --build "$build" --parallel "$(nproc)" >>"$build.log"

# Python itself is not sanitized: the runtimes must be loaded first, and what it never frees is no leak of ours.
compiler=${CXX:-g++}
export LD_PRELOAD="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0
export OCTAVO_NATIVE_MODULE
OCTAVO_NATIVE_MODULE=$(echo "$PWD/$build"/_native*.so)
exec "$python" -m pytest tests/executors/native "$@"
