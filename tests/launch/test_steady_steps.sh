#!/usr/bin/env bash
# A steady training step allocates and frees nothing, on any rank, in any thread or library (tests/faults/count_alloc.c):
# steps 4 to 6 of runs without saves or validations in between. $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/faults_lib.sh"
hook=$(cd "$OLDPWD" && cd "$1" && pwd)/tests/libcount_alloc.so
[ -f "$hook" ] || fail "no $hook"
if ldd "$mpt_ddp" | grep -qE 'lib(a|t)san'; then
    echo "sanitizers keep allocations to themselves"
    exit 77
fi
export COUNT_ALLOC_LOG=$work/count COUNT_ALLOC_FROM=3 COUNT_ALLOC_TO=6
prepare

cat >preloaded <<TXT
#!/bin/bash
LD_PRELOAD=$hook exec "$mpt_ddp" "\$@"
TXT
chmod +x preloaded
mpt_ddp=$work/preloaded

# count RANKS words...: what each rank allocates in the steps, a line a rank in the file `counts`.
count() {
    local ranks=$1
    shift
    rm -rf run count.*
    run 0 "$ranks" test.cfg --set train.steps=8 --set train.val_every=0 --set checkpoint.every=0 "$@"
    [ "$(ls count.* | wc -l)" -eq $((ranks > 0 ? ranks : 1)) ] || fail "$ranks ranks, $*: not a count from each"
    grep -h '^steps 3 6 allocations ' count.* | cut -d' ' -f5 >counts
    [ "$(wc -l <counts)" -eq $((ranks > 0 ? ranks : 1)) ] || fail "$ranks ranks, $*: no count"
}

# nothing RANKS words...: they allocate nothing.
nothing() {
    count "$@"
    [ "$(sort -u counts)" = 0 ] || fail "ranks $*: steps allocate: $(cat count.*)"
    echo "  nothing: ranks $*"
}

echo "the count sees an allocation: a validation's file, a save's thread"
count 0 --set checkpoint.every=5
[ "$(cat counts)" -gt 0 ] || fail "saves allocate, and none is counted"

echo "steady steps allocate nothing"
for compute in fp32 bf16 fp16; do
    nothing 0 --set precision.compute=$compute
    MPT_COMM=shm nothing 2 --set precision.compute=$compute
done
nothing 0 --set precision.compute=bf16 --set threads=2 --set train.ema=0.9 --set precision.rounding=stochastic
for shard in ddp zero1 zero3; do
    MPT_COMM=shm nothing 2 --set precision.compute=bf16 --set parallel.shard=$shard
done

echo "over MPI the library may allocate"
MPT_COMM=mpi count 2 --set precision.compute=bf16
echo "  allocations in three steps, rank by rank: $(paste -sd' ' counts)"
exit 0
