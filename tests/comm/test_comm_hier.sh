#!/bin/bash
# The hier backend under mpirun, on hosts that are made up: 2 of 2 ranks, 4 of 2, 2 of 4. The conformance suite, splits,
# runs that are to fail in the right way, and training with the bits of shm. Argument: the build folder.
set -u
program=$(cd "$1" && pwd)/tests/comm_test_comm_hier
command -v mpirun >/dev/null || { echo "no mpirun"; exit 77; }

# More ranks than cores, and root inside containers, are what this test is for.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe

failures=0
before=$(ls -A /dev/shm | sort)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_MCA_btl_vader_backing_directory=$work # what Open MPI itself leaves after a kill goes with the folder
cd "$work" || exit 1

start() { # ranks, mode, ranks of a host: output in out
    timeout 120 mpirun --oversubscribe --bind-to none -np "$1" "$program" "$2" "$3" >out 2>&1 </dev/null
}

result() { # what, 0 for good
    if [ "$2" -eq 0 ]; then
        echo "ok: $1"
    else
        echo "FAILED: $1"
        cat out
        failures=$((failures + 1))
    fi
}

expect() {
    start "$@" && grep -q "comm_hier: ok $1" out
    result "$2 with $1 ranks, $3 a host" $?
}

for shape in "4 2" "8 2" "8 4"; do
    for mode in conform split take abort children parent follow late stop chain differ register; do
        expect ${shape% *} $mode ${shape#* }
    done
done
expect 4 refuse 2
expect 4 short 2
expect 4 hear 2
expect 4 train 2
expect 8 train 4

# A killed rank: mpirun ends the run, in five seconds and not in the usual one, before which all others have named it, one of
# them as an error.
OMPI_MCA_odls_base_sigkill_timeout=5 PRTE_MCA_odls_base_sigkill_timeout=5 start 4 die 2
[ "$(grep -c 'rank [0-2] noticed' out)" -eq 3 ] && [ "$(grep -c 'noticed, [1-9]' out)" -eq 1 ]
result "die with 4 ranks, 2 a host" $?

# Other programs may come and go, but nothing of ours may stay.
left=$(comm -13 <(echo "$before") <(ls -A /dev/shm | sort) | grep -i mpt)
[ -z "$left" ] || { echo "FAILED: left in /dev/shm: $left"; failures=$((failures + 1)); }
exit $((failures != 0))
