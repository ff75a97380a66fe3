#!/usr/bin/env bash
# Runs that end early, by signals and by SIGKILL, and are gone on with: they end like one that never stopped, bit for bit.
# $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/faults_lib.sh"
if ldd "$mpt_ddp" | grep -q libtsan; then
    echo "under ThreadSanitizer its thousands of steps take a quarter of an hour: test_session_resume has a dozen"
    exit 77
fi
prepare

# FP16 with a scale that grows on the way, and falls where it has grown too far.
long="--set train.steps=1000 --set precision.compute=fp16 --set precision.growth_interval=30
      --set checkpoint.every=50 --set train.val_every=100"

# Start `ranks` ranks in the background and wait until so many metrics lines are there; leaves mpirun_pid. Near its end the run
# waits for whoever is about to end it.
begin() { # begin RANKS FOLDER LINES words...
    local ranks=$1 folder=$2 lines=$3
    shift 3
    MPT_INJECT=slow:rank=0,step=900,ms=10000 mpirun -np "$ranks" "$mpt_ddp" test.cfg $long \
        --set checkpoint.dir="$folder" --set log.dir="$folder" "$@" >out 2>err </dev/null &
    mpirun_pid=$!
    wait_for 60 has_lines "$folder/metrics.jsonl" "$lines"
}

# Kill them; the folder is free once they are gone.
kill_all() {
    local pid pids
    pids="$(pgrep -P $mpirun_pid) $mpirun_pid"
    kill -9 $pids
    wait $mpirun_pid 2>/dev/null
    for pid in $pids; do wait_for 30 gone "$pid"; done
}

finish() { # finish RANKS FOLDER words...: resume to the end, and compare
    local ranks=$1 folder=$2
    shift 2
    run 0 "$ranks" test.cfg $long --set checkpoint.dir="$folder" --set log.dir="$folder" --resume auto "$@"
    same_digest whole "$folder"
    same_checkpoint whole "$folder"
}

echo "the run that never stops"
run 0 2 test.cfg $long --set checkpoint.dir=whole --set log.dir=whole
grep -q '"event":"scale"' whole/metrics.jsonl || fail "the scale never moved: the test shows little"
grep -q '"event":"skip"' whole/metrics.jsonl || fail "nothing was skipped: the test shows little"

echo "killed twice with all its ranks, and resumed from its last checkpoint"
begin 2 killed 130
kill_all
begin 2 killed 400 --resume auto --set checkpoint.async=false
kill_all
finish 2 killed
has out 'resumed after step'
[ -s killed/metrics.jsonl.lost-1 ] || fail "the lines after the checkpoint were not set aside"
[ "$(grep -c '"loss":' killed/metrics.jsonl)" -eq 1000 ] || fail "not 1000 lines"

echo "stopped by signals: exit code 75, a checkpoint of that step, and on"
begin 2 signalled 130
kill -USR1 $mpirun_pid
code=0
wait $mpirun_pid || code=$?
[ "$code" -eq 75 ] || fail "SIGUSR1 to mpirun: exit code $code"
has out 'stopped on request'
last=$(grep '"loss":' signalled/metrics.jsonl | tail -n 1 | grep -o '"step":[0-9]*' | cut -d: -f2)
[ -f "$(printf 'signalled/step-%08d/meta' "$last")" ] || fail "no checkpoint of step $last"
begin 2 signalled $(($(wc -l <signalled/metrics.jsonl) + 30)) --resume auto
kill -TERM "$(pgrep -P $mpirun_pid | tail -n 1)" # one rank alone: the others stop with it
code=0
wait $mpirun_pid || code=$?
[ "$code" -eq 75 ] || fail "SIGTERM to a rank: exit code $code"
finish 2 signalled

echo "one process without mpirun stops by SIGTERM as well"
"$mpt_ddp" test.cfg $long --set train.steps=1000000 --set checkpoint.dir=single --set log.dir=single >out 2>err </dev/null &
pid=$!
wait_for 60 has_lines single/metrics.jsonl 20
echo "  a second run is kept out of its folder"
code=0
"$mpt_ddp" test.cfg $long --set checkpoint.dir=single --set log.dir=second --resume auto >out.2 2>err.2 </dev/null || code=$?
[ "$code" -eq 2 ] || fail "two runs in one folder: exit code $code: $(cat err.2)"
has err.2 "single is in use by another run \(process $pid on "
[ ! -e second ] || fail "a run that was refused made its log.dir"
echo "  and out of its metrics"
code=0
"$mpt_ddp" test.cfg $long --set checkpoint.dir=second --set log.dir=single >out.2 2>err.2 </dev/null || code=$?
[ "$code" -eq 2 ] || fail "two runs with one log.dir: exit code $code: $(cat err.2)"
has err.2 "single/metrics.jsonl is being written by another run"
[ ! -e single/metrics.jsonl.lost-1 ] || fail "a run that was refused set metrics aside"
kill -TERM $pid
code=0
wait $pid || code=$?
[ "$code" -eq 75 ] || fail "exit code $code"
ls single/step-*/meta >/dev/null || fail "no checkpoint"

echo "a finished run says so; a fresh start over checkpoints is refused"
cp whole/metrics.jsonl before.jsonl
run 0 2 test.cfg $long --set checkpoint.dir=whole --set log.dir=whole --resume auto
has out 'finished already at step 1000'
run 2 2 test.cfg $long --set checkpoint.dir=whole --set log.dir=whole
says 'rank 0: checkpoint.dir whole holds checkpoints'
cmp -s before.jsonl whole/metrics.jsonl || fail "the metrics were touched"

echo "auto without a checkpoint starts afresh"
run 0 2 test.cfg --set checkpoint.dir=new --set log.dir=new --resume auto
[ "$(grep -c '"loss":' new/metrics.jsonl)" -eq 20 ] || fail "not 20 lines"
exit 0
