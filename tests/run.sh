#!/usr/bin/env bash
# Install what is missing, build, run every test; the last lines are CTest's summary. `run.sh long` runs every test
# under ASan, UBSan and TSan before, and then makes every single allocation fail instead of some.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tier=${1:-quick}
case $tier in
quick | long) ;;
*)
    echo "usage: tests/run.sh [long]" >&2
    exit 2
    ;;
esac

./launch/install.sh build test
. launch/mpi_env.sh

# run_suite NAME SECONDS [cmake options]: build into build/NAME and run every test, for so many seconds at most.
run_suite() {
    local name=$1 seconds=$2
    shift 2
    echo "building build/$name"
    ./launch/build.sh "$name" -DMPT_TESTS=ON "$@"
    timeout "$seconds" "${plain_layout[@]}" ctest --test-dir "build/$name" -j 2 --output-on-failure
}

plain_layout=()
if [ "$tier" = long ]; then
    # TSan's shadow memory does not fit every randomised address-space layout.
    if setarch "$(uname -m)" -R true 2>/dev/null; then plain_layout=(setarch "$(uname -m)" -R); fi
    run_suite asan 1500 -DCMAKE_BUILD_TYPE=RelWithDebInfo -DMPT_SANITIZE=address
    run_suite ubsan 1500 -DCMAKE_BUILD_TYPE=RelWithDebInfo -DMPT_SANITIZE=undefined
    run_suite tsan 3000 -DCMAKE_BUILD_TYPE=RelWithDebInfo -DMPT_SANITIZE=thread
    plain_layout=()
    export MPT_TEST_ALLOC_STRIDE=1
    run_suite test 1800 -DCMAKE_BUILD_TYPE=Release
else
    run_suite test 900 -DCMAKE_BUILD_TYPE=Release
fi
