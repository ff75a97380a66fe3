#!/usr/bin/env bash
# A model whose plan under ddp exceeds a limit trains in zero3 under it, enforced twice: by MPT_MEMORY, which caps the arenas, and
# by RLIMIT_DATA, which the kernel keeps. $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/faults_lib.sh"
prepare

# 12.7M parameters, a few tokens: nearly all memory is state. A rank of four needs 233 MiB in ddp, 73 MiB in zero3.
cat >big.cfg <<TXT
threads = 1
model { layers = 16 heads = 4 dim = 256 context = 32 vocab = 256 }
data { train = train.bin }
train { steps = 3 global_batch = 8 micro_batch = 1 warmup = 0 val_every = 0 }
parallel { reduce_every = micro }
checkpoint { dir = run every = 0 }
log { dir = run }
TXT
memory=100M
data_kib=140000

# Every rank under the limit on its data: private memory, its heap and stacks; shared memory does not count there.
cat >limited <<TXT
#!/bin/bash
ulimit -d $data_kib
exec "$mpt_ddp" "\$@"
TXT
chmod +x limited

# under_limit CODE words...: four ranks under the limit on data.
under_limit() {
    local want=$1 got=0
    shift
    timeout 100 mpirun -np 4 ./limited "$@" >out 2>err </dev/null || got=$?
    [ "$got" -eq "$want" ] || fail "limited, $*: exit code $got, not $want"
}

refused() {
    says "$1"
    [ ! -f run/metrics.jsonl ] || fail "a run that was refused left metrics"
}

# planned MODE: the bytes of a rank of four.
planned() {
    "$mpt_ddp" plan big.cfg --ranks 4 --set parallel.shard="$1" | awk '$1 == "total" { print $2; exit }'
}

echo "without limits: ddp, for its numbers"
run 0 4 big.cfg --set parallel.shard=ddp
mv run whole

echo "MPT_MEMORY: ddp is refused with one message and exit code 4"
export MPT_MEMORY=$memory
start=$SECONDS
run 4 4 big.cfg --set parallel.shard=ddp
refused 'rank 0: this run needs [0-9.]+ MiB a rank, and MPT_MEMORY=100M grants it 100.0 MiB'
[ $((SECONDS - start)) -le 20 ] || fail "took $((SECONDS - start)) s to refuse"

echo "and the way out that it names is one: a mode that fits"
hint=$(grep -oE 'plan --ranks 4 --memory 100M' err) || fail "no hint"
# shellcheck disable=SC2086
"$mpt_ddp" ${hint/plan/plan big.cfg} --set parallel.shard=ddp >out 2>err || fail "$hint"
has out 'zero3'

echo "zero3 trains under both limits, to the bits of ddp without any"
[ $((2 * $(planned zero3))) -lt "$(planned ddp)" ] || fail "zero3 does not need much less: the test shows little"
if bash -c "ulimit -d $data_kib && exec '$mpt_ddp' version" >out 2>&1; then
    under_limit 0 big.cfg --set parallel.shard=zero3
    unset MPT_MEMORY
else
    echo "  (built with a sanitizer, whose own memory exceeds the limit: by MPT_MEMORY alone)"
    run 0 4 big.cfg --set parallel.shard=zero3
    no_limit=1
fi
[ "$(grep -c '"loss":' run/metrics.jsonl)" -eq 3 ] || fail "not 3 steps"
same_digest whole run
rm -rf run

if [ "${no_limit:-}" != 1 ]; then
    echo "RLIMIT_DATA alone: ddp fails with one message and exit code 4"
    under_limit 4 big.cfg --set parallel.shard=ddp
    refused 'rank [0-3]: cpu memory: cannot allocate [0-9]+ bytes of private memory: Cannot allocate memory'
fi

echo "MPT_MEMORY to the byte"
bytes=$(planned zero3)
MPT_MEMORY=$bytes run 0 4 big.cfg --set parallel.shard=zero3 --set train.steps=1
rm -rf run
MPT_MEMORY=$((bytes - 1)) run 4 4 big.cfg --set parallel.shard=zero3 --set train.steps=1
refused 'MPT_MEMORY=[0-9]+ grants it'

echo "MPT_MEMORY that is no number of bytes: exit code 2"
for text in lots 10X 8GB -1G 0 nan inf 1e400; do
    MPT_MEMORY=$text run 2 0 test.cfg
    refused "MPT_MEMORY=$text: not a number of bytes"
done
exit 0
