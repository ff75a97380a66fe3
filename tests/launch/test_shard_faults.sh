#!/usr/bin/env bash
# One rank of four is slow, too slow, or killed where sharded weights are gathered: slow changes nothing; too slow ends all with
# one message that names rank, unit and collective; killed, it is noticed by the others without mpirun's help.
# $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/faults_lib.sh"
prepare
zero3="--set parallel.shard=zero3"
hsdp="--set parallel.shard=hsdp --set parallel.shard_ranks=2"
beside="--set comm.overlap=on" # communication on a thread of its own, with no core to spare
fresh() { rm -rf run code.* pid.*; }

# All that the newest checkpoint of a folder holds, as one file, but for the number of the run that saved it.
state() {
    "$mpt_ddp" ckpt export "$1" state.safetensors --force >out 2>err || fail "ckpt export $1"
    LC_ALL=C sed 's/"run":"[0-9a-f]*"//' state.safetensors
}

same_state() {
    state "$1" >1.state && state "$2" >2.state
    cmp 1.state 2.state || fail "the states of $1 and $2 differ"
}

echo "slow, but not for comm.timeout_s, and over MPI: the same bits"
for mode in "$beside" "$zero3" "$hsdp"; do
    fresh
    run 0 4 test.cfg ${mode/$beside/}
    rm -rf usual && mv run usual
    MPT_COMM=mpi MPT_INJECT=slow:rank=1,step=7,ms=2000 run 0 4 test.cfg $mode --set comm.timeout_s=20
    same_digest usual run
    same_state usual run
    step=$(grep '"step":7,"loss"' run/metrics.jsonl | grep -o '"step_ms":[0-9]*' | cut -d: -f2)
    [ "$step" -ge 300 ] || fail "step 7 took $step ms: the test shows nothing"
done

echo "too slow: one message, exit code 4, within seconds, over shared memory and over MPI"
for comm in shm mpi; do
    for mode in "$zero3" "$hsdp" "$beside" "$hsdp $beside"; do
        fresh
        start=$SECONDS
        MPT_COMM=$comm MPT_INJECT=slow:rank=1,step=7,ms=60000 run 4 4 test.cfg $mode \
            --set comm.timeout_s=3 --set checkpoint.async=false
        says "rank [023]: comm $comm rank [0-3] of [24]: unit [0-3] (weights: all_gather|gradients: (all_reduce|reduce_scatter)): no sign of rank 1 for [36].0 s"
        [ $((SECONDS - start)) -le 30 ] || fail "took $((SECONDS - start)) s"
        [ "$(grep -c '"loss":' run/metrics.jsonl)" -eq 6 ] || fail "not 6 steps"
        run 0 0 ckpt fsck run
    done
done

# The program under a shell that outlives it, so that mpirun does not notice its end and the others have to.
cat >outlived <<TXT
#!/bin/bash
"$mpt_ddp" "\$@" &
echo \$! >"$work/pid.\$OMPI_COMM_WORLD_RANK"
wait \$!
echo \$? >"$work/code.\$OMPI_COMM_WORLD_RANK"
sleep 2
exit 0
TXT
chmod +x outlived

# Rank 1 sleeps in step 7, the others wait for it in their gathers; then it is killed.
killed() { # killed COMM words...
    local comm=$1
    shift
    fresh
    MPT_COMM=$comm MPT_INJECT=slow:rank=1,step=7,ms=60000 timeout 100 mpirun -np 4 ./outlived test.cfg "$@" \
        --set checkpoint.async=false >out 2>err </dev/null &
    mpirun_pid=$!
    wait_for 30 has_lines run/metrics.jsonl 6
    sleep 0.5
    start=$SECONDS
    kill -9 "$(cat pid.1)"
    wait $mpirun_pid && fail "a run with a killed rank ended well"
    [ $((SECONDS - start)) -le 10 ] || fail "took $((SECONDS - start)) s to notice"
    for rank in 0 2 3; do
        wait_for 5 gone "$(cat pid.$rank)"
    done
}

echo "killed while the others wait for its slices: they say so and end"
for mode in "$zero3" "$hsdp" "$beside" "$hsdp $beside"; do
    killed shm $mode
    says "rank [023]: comm shm rank [0-3] of [24]: unit [0-3] (weights: all_gather|gradients: (all_reduce|reduce_scatter)): rank 1 died"
    killed mpi $mode # there MPI itself ends the others
done

echo "and the run goes on from its last checkpoint like one that never stopped"
run 0 4 test.cfg $hsdp --resume auto
has out "resumed after step 5"
same_digest usual run
same_state usual run
exit 0
