#!/bin/bash
# The conformance suite of comm under mpirun, 1 to 9 ranks, backends mpi and shm; then runs that are to fail in
# the right way. Argument: the build folder.
set -u
program=$1/tests/comm_test_comm_mpi
command -v mpirun >/dev/null || { echo "no mpirun"; exit 77; }

# More ranks than cores, and root inside containers, are what this test is for.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe

failures=0
before=$(ls -A /dev/shm | sort)

expect() { # ranks, mode
    local out
    out=$(timeout 120 mpirun --oversubscribe --bind-to none -np "$1" "$program" "$2" 2>&1)
    if [ $? -ne 0 ] || [[ $out != *"comm_mpi: ok $1"* ]]; then
        echo "FAILED: $2 with $1 ranks"
        echo "$out"
        failures=$((failures + 1))
    else
        echo "ok: $2 with $1 ranks"
    fi
}

for ranks in 1 2 3 4 5 6 7 8 9; do
    expect $ranks conform
done
expect 3 abort
expect 3 late
expect 2 short

# Other programs may come and go, but nothing of ours may stay.
left=$(comm -13 <(echo "$before") <(ls -A /dev/shm | sort) | grep -i mpt)
[ -z "$left" ] || { echo "FAILED: left in /dev/shm: $left"; failures=$((failures + 1)); }
exit $((failures != 0))
