#!/usr/bin/env bash
# Configure and build into build/NAME: build.sh NAME [cmake options]. Ninja where it is there, else Make. Quiet, but
# for what went wrong.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=build/$1
shift
generator=()
if [ ! -f "$folder/CMakeCache.txt" ] && command -v ninja >/dev/null; then generator=(-G Ninja); fi
log=$folder/build.log
mkdir -p "$folder"
{
    cmake -S . -B "$folder" "${generator[@]}" "$@" && cmake --build "$folder" --parallel "$(nproc)"
} >"$log" 2>&1 || {
    grep -nE 'error|FAILED' "$log" >&2 || tail -n 40 "$log" >&2
    echo "the build failed; all of it: $log" >&2
    exit 1
}
