#!/usr/bin/env bash
# Configure and build into build/NAME: build.sh NAME [cmake options]. Ninja where it is there, else Make. Quiet, but
# for what went wrong.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=build/$1
shift
# A build folder that was moved or copied with its tree cannot be used: CMake keeps absolute paths.
home=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$folder/CMakeCache.txt" 2>/dev/null || true)
if [ -n "$home" ] && ! [ "$home" -ef . ]; then rm -rf "$folder"; fi
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
