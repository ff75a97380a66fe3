#!/usr/bin/env bash
# Bad input and bad luck: all ranks end together within seconds, one message says why, and the exit code is the right one
# on every rank. $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/faults_lib.sh"
prepare

# The program, its own exit code kept in a file: mpirun reports one of all, and ends the others.
cat >keep_code <<TXT
#!/bin/bash
"$mpt_ddp" "\$@"
echo \$? >"$work/code.\$OMPI_COMM_WORLD_RANK"
exit 0
TXT
chmod +x keep_code

# all_end CODE SECONDS mpirun's words...: every rank ends with that code, in so many seconds.
all_end() {
    local want=$1 limit=$2 start=$SECONDS rank
    shift 2
    rm -f code.*
    timeout 100 mpirun "$@" >out 2>err </dev/null || fail "mpirun"
    [ $((SECONDS - start)) -le "$limit" ] || fail "took $((SECONDS - start)) s"
    for rank in 0 1 2 3; do
        [ "$(cat code.$rank)" = "$want" ] || fail "rank $rank: exit code $(cat code.$rank), not $want"
    done
}

# refused CODE PATTERN words...: two ranks, one message
refused() {
    local code=$1 pattern=$2
    shift 2
    rm -rf run
    run "$code" 2 test.cfg "$@"
    says "$pattern"
    [ ! -f run/metrics.jsonl ] || fail "a run that was refused left metrics"
}

echo "config mistakes: exit code 2, one line"
refused 2 'train.stepz.*train.steps' --set train.stepz=5
refused 2 'train.steps' --set train.steps=many
refused 2 'global_batch' --set train.global_batch=18
refused 2 'precision.accumulate.*not built' --set precision.accumulate=bf16
refused 2 'parallel.shard = hsdp: needs parallel.shard_ranks' --set parallel.shard=hsdp
refused 2 'parallel.shard_ranks = 4: does not divide the 2 ranks' --set parallel.shard=hsdp --set parallel.shard_ranks=4
refused 2 'reproducible = world: does not serve 2 ranks' --set train.reproducible=world --set train.lanes=1
run 2 2 nowhere.cfg
says 'nowhere.cfg: No such file'
printf 'data { train = train.bin }\nmodel {\n layerz = 2 }\n' >bad.cfg
run 2 2 bad.cfg
says 'bad.cfg:3: .*layerz.*layers'

echo "unusable data: exit code 3, one line"
cp train.bin short.bin && truncate -s -1001 short.bin
cp text.txt foreign.bin
refused 3 'nothing.bin' --set data.train=nothing.bin
refused 3 'short.bin' --set data.train=short.bin
refused 3 'foreign.bin' --set data.train=foreign.bin
refused 3 'none.bin' --set data.val=none.bin

echo "a folder that cannot be written: exit code 3"
touch plain
refused 3 'plain/log' --set log.dir=plain/log
refused 3 'plain/run' --set checkpoint.dir=plain/run

echo "one rank of four cannot open its data"
mkdir here there
ln -s "$work/train.bin" "$work/val.bin" "$work/test.cfg" here
ln -s "$work/val.bin" "$work/test.cfg" there
all_end 3 20 -np 2 -wdir here "$work/keep_code" test.cfg : -np 1 -wdir there "$work/keep_code" test.cfg : \
    -np 1 -wdir here "$work/keep_code" test.cfg
says 'rank 2: .*train.bin'

echo "one rank of four sees another checkpoint.dir: the run does not start"
ln -s "$work/train.bin" there
all_end 2 20 -np 2 -wdir here "$work/keep_code" test.cfg : -np 1 -wdir there "$work/keep_code" test.cfg : \
    -np 1 -wdir here "$work/keep_code" test.cfg
says "rank 2: checkpoint.dir run, seen from $work/there on .*, is not the folder that rank 0 saves in"
[ ! -e there/run ] || fail "the rank made a folder of its own"
[ ! -f here/run/metrics.jsonl ] || fail "a run that was refused left metrics"

echo "one rank of four finds a token beyond the vocabulary in the middle of the run"
# Step 5 in file order with one sequence a micro-batch: rank 2's is sample 4 * 4 + 2.
cp train.bin high.bin
printf '\347\003' | dd of=high.bin bs=1 seek=$((1024 + 2 * (18 * 32 + 7))) conv=notrunc 2>/dev/null
all_end 3 30 -np 4 ./keep_code test.cfg --set data.train=high.bin --set data.order=sequential \
    --set train.global_batch=4 --set train.micro_batch=1
says 'rank 2: .*high.bin.*999'
[ "$(grep -c '"loss":' run/metrics.jsonl)" -eq 4 ] || fail "not 4 steps"

echo "one rank of four has another file under the name of its data"
rm -f there/train.bin
"$mpt_ddp" data text.txt --val-fraction 0.3 --train there/train.bin --val other.bin >out 2>err || fail "mpt-ddp data"
all_end 3 20 -np 2 -wdir here "$work/keep_code" test.cfg : -np 1 -wdir there "$work/keep_code" test.cfg : \
    -np 1 -wdir here "$work/keep_code" test.cfg
says 'rank 0: data.train: rank 2 has [0-9]+ samples of [0-9]+ tokens, rank 0 has [0-9]+ of [0-9]+; give every host the same'
rm there/train.bin there/val.bin
ln -s "$work/train.bin" there
cp other.bin there/val.bin
all_end 3 20 -np 2 -wdir here "$work/keep_code" test.cfg : -np 1 -wdir there "$work/keep_code" test.cfg : \
    -np 1 -wdir here "$work/keep_code" test.cfg
says 'rank 0: data.val: rank 2 has '
cp val.bin there/val.bin
printf '\001\000' | dd of=there/val.bin bs=1 seek=1030 conv=notrunc 2>/dev/null
all_end 3 20 -np 2 -wdir here "$work/keep_code" test.cfg : -np 1 -wdir there "$work/keep_code" test.cfg : \
    -np 1 -wdir here "$work/keep_code" test.cfg
says 'rank 0: data.val: rank 2 has as many tokens as rank 0, but others, or cut into other files; give every host the same files'

echo "checkpoints: of another model, damaged, all damaged"
rm -rf run
run 0 2 test.cfg
run 3 2 test.cfg --resume auto --set model.layers=3
says 'step-00000020.*another model'
printf 'x' | dd of=run/step-00000020/rank-00001.bin bs=1 seek=9000 conv=notrunc 2>/dev/null
run 0 2 test.cfg --resume auto --set train.steps=22
has err 'step-00000020/rank-00001.bin: offset [0-9]*: checksum mismatch'
has err 'step-00000020 cannot be used; trying the checkpoint before it'
has out 'resumed after step 15'
rm -rf run/step-00000022
for meta in run/step-*/meta; do printf 'x' | dd of="$meta" bs=1 seek=30 conv=notrunc 2>/dev/null; done
run 3 2 test.cfg --resume auto
has err 'checksum mismatch'

echo "an overflow on one rank of four; and one at a scale that cannot fall: exit code 5"
rm -rf run
export MPT_INJECT=overflow:rank=2,step=3,micro=0,tensor=h.1.mlp.c_fc.weight,element=5
all_end 0 30 -np 4 ./keep_code test.cfg --set precision.compute=fp16 --set precision.init_scale=4096
has out 'step 3 skipped: .*rank 2, h.1.mlp.c_fc.weight\[5\]'
has run/metrics.jsonl '"step":3,"event":"skip".*"rank":2,"tensor":"h.1.mlp.c_fc.weight","element":5,"micro_step":0'
has run/metrics.jsonl '"step":3,"event":"scale","from":4096,"to":2048'
rm -rf run
all_end 5 30 -np 4 ./keep_code test.cfg --set precision.max_skips=1
says 'diverged.*rank 2, h.1.mlp.c_fc.weight\[5\]'
unset MPT_INJECT

# A full disk: a small tmpfs where that is allowed, else a limit on the size of files.
full() {
    local rank
    if mountpoint -q small; then
        dd if=/dev/zero of=small/filler bs=4096 oflag=append conv=notrunc 2>dd.err
    else
        for rank in $(pgrep -P "$1"); do prlimit --fsize=600000: --pid "$rank"; done
    fi
    true
}
roomy() {
    local rank
    if mountpoint -q small; then
        rm small/filler
    else
        for rank in $(pgrep -P "$1"); do prlimit --fsize=unlimited: --pid "$rank"; done
    fi
}
saved() { # saved EVENT COUNT
    [ "$(grep -c "\"event\":\"$1\"" log/metrics.jsonl)" -ge "$2" ]
}

# Full, and saves fail: what a failed one gives back is taken again.
fails() { # fails PID COUNT
    full "$1"
    saved checkpoint_failed "$2"
}

echo "a full disk while saving: the run goes on, the old checkpoint is whole, later ones come when there is room"
mkdir small
mount -t tmpfs -o size=12m none small 2>/dev/null || echo "  (no tmpfs: by a limit on file sizes)"
mpirun -np 2 "$mpt_ddp" test.cfg --set model.dim=64 --set checkpoint.dir=small --set log.dir=log \
    --set train.steps=100000 --set checkpoint.keep=2 --set train.val_every=0 >out 2>err </dev/null &
pid=$!
wait_for 60 has_lines log/metrics.jsonl 20
wait_for 60 saved checkpoint 1
wait_for 60 fails $pid 3
wait_for 10 "$mpt_ddp" ckpt fsck small >fsck.out 2>&1
roomy $pid
wait_for 60 saved checkpoint $(($(grep -c '"event":"checkpoint"' log/metrics.jsonl) + 2))
kill -USR1 $pid
code=0
wait $pid || code=$?
[ "$code" -eq 75 ] || fail "exit code $code"
has err 'cannot save small/step-.*; the run goes on with older checkpoints'
"$mpt_ddp" ckpt fsck small >fsck.out 2>&1 || fail "the new checkpoint is damaged: $(cat fsck.out)"
exit 0
