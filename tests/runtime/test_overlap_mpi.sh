#!/usr/bin/env bash
# comm.overlap = on over MPI: where MPI lets threads in one at a time, communication overlaps; where it was initialised for one thread
# alone it does not, and one line says so. The bits are the same. $1: build folder, $2: sources.
set -u
program=$(cd "$1" && pwd)/tests/runtime_test_overlap_mpi
command -v mpirun >/dev/null || { echo "no mpirun"; exit 77; }
. "$2/launch/mpi_env.sh"
export OMPI_MCA_mpi_yield_when_idle=1 MPT_COMM=mpi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

fail() {
    echo "FAILED: $1"
    cat out err
    exit 1
}

trained() { # trained LEVEL SHARD: its line, without what the level decides, in `state`
    rm -rf run
    timeout 100 mpirun -np 2 "$program" "$1" "parallel.shard=$2" >out 2>err </dev/null || fail "$1, $2"
    state=$(grep -o 'state [0-9a-f]*' out)
}

for shard in ddp zero2 zero3; do
    trained serialized $shard
    grep -q '^overlap 1, warnings 0' out || fail "$shard does not overlap"
    beside=$state
    trained funneled $shard
    grep -q '^overlap 0, warnings 1' out || fail "$shard overlaps where MPI does not allow it"
    [ -n "$state" ] && [ "$state" = "$beside" ] || fail "$shard: other bits"
done
echo "ok"
