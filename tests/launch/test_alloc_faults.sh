#!/usr/bin/env bash
# One rank runs out of memory: its Nth allocation fails (tests/faults/fail_alloc.c). Whatever N is, all ranks end together
# and soon, with exit code 4 and one line that says which rank had no memory for what; or the run does without and ends with
# the same bits. Every MPT_TEST_ALLOC_STRIDEth N is tried, from another first one in each sweep. $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/faults_lib.sh"
stride=${MPT_TEST_ALLOC_STRIDE:-8}
hook=$(cd "$OLDPWD" && cd "$1" && pwd)/tests/libfail_alloc.so
[ -f "$hook" ] || fail "no $hook"
if ldd "$mpt_ddp" | grep -q libtsan; then
    echo "ThreadSanitizer keeps allocations to itself"
    exit 77
fi
export ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0
export FAIL_ALLOC_RANK=0 FAIL_ALLOC_LOG=$work/hook
sweeps=0

head -c 60000 "$source_dir/launch/data/kjv.txt" >text.txt
"$mpt_ddp" data text.txt --train train.bin --val val.bin >out 2>err || fail "mpt-ddp data"
cat >test.cfg <<TXT
threads = 1
model { layers = 2 heads = 2 dim = 32 context = 32 vocab = 256 }
data { train = train.bin val = val.bin }
train { steps = 3 global_batch = 12 micro_batch = 1 seed = 7 warmup = 1 ema = 0.9 val_every = 2 val_batches = 1 }
precision { compute = fp32 }
checkpoint { dir = run every = 2 }
log { dir = run }
comm { timeout_s = 90 }
TXT

# The program, preloaded, its own exit code kept in a file: mpirun reports one of all, and ends the others.
cat >preloaded <<TXT
#!/bin/bash
LD_PRELOAD=$hook "$mpt_ddp" "\$@"
echo \$? >"$work/code.\${OMPI_COMM_WORLD_RANK:-0}"
exit 0
TXT
chmod +x preloaded

# start N RANKS words...: with the Nth allocation failing; 0 ranks: without mpirun. A folder `before` is where it starts. A
# rank that waited for another in vain would outlast the time that is given here.
start() {
    local n=$1 ranks=$2 got=0
    shift 2
    rm -rf run imported made.* code.* hook
    [ ! -d before ] || cp -r before run
    if [ "$ranks" -eq 0 ]; then
        FAIL_ALLOC_AT=$n timeout 45 ./preloaded "$@" >out 2>err </dev/null || got=$?
    else
        FAIL_ALLOC_AT=$n timeout 45 mpirun -np "$ranks" ./preloaded "$@" >out 2>err </dev/null || got=$?
    fi
    [ "$got" -eq 0 ] || fail "allocation $n: exit code $got: $(cat hook)"
}

# keep_result NAME: the weights that a run has made, and their average, without what tells runs apart.
keep_result() {
    local weights
    for weights in master ema; do
        "$mpt_ddp" ckpt export run "$1.$weights" --format llmc --weights $weights --force >made.log 2>&1 ||
            fail "$(cat made.log)"
    done
}

# same_result N RANKS: all ranks did without the allocation, and unseen.
same_result() {
    [ "$(cat code.* | sort -u)" = 0 ] || fail "allocation $1: exit codes $(cat code.*): $(cat hook)"
    [ ! -s err ] || fail "allocation $1: not silent: $(cat hook)"
    if [ -d run ]; then
        keep_result made
        cmp -s made.master whole.master && cmp -s made.ema whole.ema || fail "allocation $1: another result: $(cat hook)"
    else
        cmp -s out whole.out || fail "allocation $1: another output: $(cat hook)"
    fi
}

# all_refused N RANKS: every rank ended with the same code and one of them said why.
all_refused() {
    local want=4 lines
    grep -q ' ftruncate ' hook && [ ! -d before ] && [ "$2" -eq 0 ] && want='[34]' # of a file: a full disk looks like that
    [ "$(ls code.* | wc -l)" -eq $(($2 > 0 ? $2 : 1)) ] || fail "allocation $1: a rank was killed: $(cat hook)"
    [[ "$(cat code.* | sort -u)" =~ ^$want$ ]] || fail "allocation $1: exit codes $(cat code.*): $(cat hook)"
    lines=$(grep -cv '^$' err)
    [ "$lines" -eq 1 ] || fail "allocation $1: $lines lines: $(cat hook)"
    if [ "$2" -gt 0 ]; then grep -q "^rank $FAIL_ALLOC_RANK: " err || fail "allocation $1: names another rank: $(cat hook)"; fi
    grep -qE 'memory|allocate|cannot start' err || fail "allocation $1: says nothing of memory: $(cat hook)"
    ls -d run/step-???????? >/dev/null 2>&1 || return 0
    "$mpt_ddp" ckpt fsck run >fsck.out 2>&1 || fail "allocation $1: $(cat fsck.out): $(cat hook)"
}

# sweep RANKS words...: the undisturbed run, then one for each N.
sweep() {
    local n seen ranks=$1 failed=0 went_on=0
    sweeps=$((sweeps + 1))
    shift
    start 0 "$ranks" "$@"
    [ "$(cat code.* | sort -u)" = 0 ] || fail "exit codes $(cat code.*) without a fault"
    [ ! -d run ] || keep_result whole
    cp out whole.out
    seen=$(sed -n 's/^seen //p' hook)
    [ "$seen" -gt 0 ] || fail "no allocation is seen"
    for ((n = 1 + sweeps % stride; n <= seen; n += stride)); do
        start "$n" "$ranks" "$@"
        grep -q '^failed ' hook || break
        if [ "$(cat code.0)" = 0 ]; then
            same_result "$n" "$ranks"
            went_on=$((went_on + 1))
        else
            all_refused "$n" "$ranks"
            failed=$((failed + 1))
        fi
    done
    echo "  $seen allocations: $failed tried that end the run, $went_on that do not: $*"
}

echo "ranks of mpirun, one without memory"
FAIL_ALLOC_RANK=1 sweep 2 test.cfg --set parallel.shard=ddp
FAIL_ALLOC_RANK=0 sweep 2 test.cfg --set parallel.shard=zero2
FAIL_ALLOC_RANK=1 sweep 3 test.cfg --set parallel.shard=zero3
FAIL_ALLOC_RANK=2 sweep 4 test.cfg --set parallel.shard=hsdp --set parallel.shard_ranks=2
MPT_COMM=mpi FAIL_ALLOC_RANK=3 sweep 4 test.cfg --set parallel.shard=hsdp --set parallel.shard_ranks=2
run 0 2 test.cfg --set checkpoint.dir=before --set log.dir=before
FAIL_ALLOC_RANK=1 sweep 2 test.cfg --resume auto --set train.steps=5
rm -rf before

echo "ranks that differ, and no memory to say where"
export MPT_INJECT=flip:rank=0,step=2,tensor=h.0.attn.c_proj.weight,element=3,kind=working,bit=1 FAIL_ALLOC_RANK=1
start 0 2 test.cfg --set train.check_every=1
[ "$(cat code.* | sort -u)" = 4 ] || fail "a flipped bit is not seen"
seen=$(sed -n 's/^seen //p' hook)
for n in $((seen - 1)) "$seen"; do # the last ones: of naming who differs
    start "$n" 2 test.cfg --set train.check_every=1
    all_refused "$n" 2
    has err "replicas"
done
FAIL_ALLOC_RANK=0
unset MPT_INJECT

echo "one process alone"
sweep 0 test.cfg
run 0 0 test.cfg --set checkpoint.dir=kept --set log.dir=kept
sweep 0 plan test.cfg --ranks 2
sweep 0 data text.txt --train made.train --val made.val --force
sweep 0 ckpt fsck kept
sweep 0 ckpt export kept made.bin
sweep 0 ckpt export kept made.safetensors
"$mpt_ddp" ckpt export kept model.bin >out 2>err || fail "export"
"$mpt_ddp" ckpt export kept model.safetensors >out 2>err || fail "export"
sweep 0 ckpt import model.bin imported
sweep 0 ckpt import model.safetensors imported
sweep 0 test.cfg --set model.init=model.bin
sweep 0 sample kept --tokens 4
sweep 0 sample model.bin --tokens 4
exit 0
