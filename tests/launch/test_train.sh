#!/usr/bin/env bash
# Runs of the program under mpirun: the same losses whatever the number of ranks, the same bits whatever the transport and
# from run to run; what it writes. $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/faults_lib.sh"
prepare

# Largest relative difference of losses and validation losses between two metrics files.
difference() {
    paste <(grep -oE '"(val_)?loss":[^,}]*' "$1/metrics.jsonl" | cut -d: -f2) \
        <(grep -oE '"(val_)?loss":[^,}]*' "$2/metrics.jsonl" | cut -d: -f2) |
        awk '{ d = ($1 - $2) / $1; d = d < 0 ? -d : d; if (!(d <= worst)) worst = d; n++ }
             END { print (n == 22 ? worst : "missing lines") }'
}

close_enough() { # close_enough FOLDER FOLDER: FP32 within 1e-5
    local worst
    worst=$(difference "$1" "$2")
    echo "  $1 and $2: losses within $worst"
    awk -v x="$worst" 'BEGIN { exit !(x + 0 == x && x <= 1e-5) }' || fail "$1 and $2 differ by $worst"
}

train() { # train FOLDER RANKS [words...]
    local folder=$1 ranks=$2
    shift 2
    run 0 "$ranks" test.cfg --set checkpoint.dir="$folder" --set log.dir="$folder" "$@"
}

echo "the same losses from 1, 2 and 4 ranks, over shared memory and over MPI"
train alone 0
train one 1
same_digest alone one
for ranks in 2 4; do
    train "shm$ranks" "$ranks"
    MPT_COMM=mpi train "mpi$ranks" "$ranks"
    close_enough one "shm$ranks"
    same_digest "shm$ranks" "mpi$ranks"
    same_checkpoint "shm$ranks" "mpi$ranks"
done

echo "the same bits from run to run and from other numbers of threads"
for compute in bf16 fp16; do
    train "$compute" 2 --set precision.compute=$compute
    train "$compute-again" 2 --set precision.compute=$compute --set threads=2
    same_digest "$compute" "$compute-again"
    same_checkpoint "$compute" "$compute-again"
done

echo "the metrics hold one line a step, whole and in order"
[ "$(grep -c '"loss":' one/metrics.jsonl)" -eq 20 ] || fail "not 20 lines"
for field in step loss lr grad_norm clipped loss_scale skipped tokens tokens_per_s step_ms compute_ms comm_ms \
    exposed_comm_ms flops_6nd_per_s flops_model_per_s flops_causal_per_s mfu mem_bytes; do
    [ "$(grep '"loss":' one/metrics.jsonl | grep -c "\"$field\":")" -eq 20 ] || fail "$field is missing"
done
grep '"loss":' one/metrics.jsonl | awk -F'"tokens":' '{ split($2, t, ","); if (t[1] != NR * 512) exit 1 }' ||
    fail "tokens do not add up"
has one/metrics.jsonl '"step":10,"event":"validation","val_loss":'

echo "people get a line every log.every steps, files one for each"
train quiet 0 --set log.every=6
[ "$(grep -c '^step [0-9]*/20 ' out)" -eq 3 ] || fail "not lines for steps 6, 12 and 18"
train silent 0 --set log.every=0
hasnt out '^step [0-9]*/20 '
same_digest quiet silent

echo "plan says what a run takes"
"$mpt_ddp" plan test.cfg --ranks 2 --json >plan.json 2>err || fail "plan"
bytes=$(grep -o '"mem_bytes":[0-9]*' shm2/metrics.jsonl | head -n 1 | cut -d: -f2)
has plan.json "\"bytes\": ?$bytes\\b"

echo "a broken rank is one that all notice: killed, it ends the others within seconds"
mpirun -np 4 "$mpt_ddp" test.cfg --set checkpoint.dir=broken --set log.dir=broken --set train.steps=1000000 \
    --set train.warmup=2 --set comm.timeout_s=5 >out 2>err </dev/null &
mpirun_pid=$!
wait_for 30 has_lines broken/metrics.jsonl 20
start=$SECONDS
kill -9 "$(pgrep -P $mpirun_pid | tail -n 1)"
wait $mpirun_pid && fail "a run with a killed rank ended well"
[ $((SECONDS - start)) -le 15 ] || fail "took $((SECONDS - start)) s to notice"
[ -z "$(pgrep -P $mpirun_pid)" ] || fail "ranks are left"
exit 0
