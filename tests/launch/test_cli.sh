#!/usr/bin/env bash
# The command line's contract: exit codes, one-line mistakes with hints, help, JSON. $1: build folder, $2: sources.
set -eu
mpt_ddp=$(cd "$1" && pwd)/bin/mpt-ddp
source_dir=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

fail() {
    echo "FAILED: $1"
    [ -f out ] && sed 's/^/  out: /' out
    [ -f err ] && sed 's/^/  err: /' err
    exit 1
}

# run CODE words...: run mpt-ddp, keep its output in out and err, demand that exit code.
run() {
    local want=$1 got=0
    shift
    "$mpt_ddp" "$@" >out 2>err </dev/null || got=$?
    [ "$got" -eq "$want" ] || fail "mpt-ddp $*: exit code $got, not $want"
}

# usage_error PATTERN words...: exit code 2, nothing on standard output, one line that matches on standard error.
usage_error() {
    local pattern=$1
    shift
    run 2 "$@"
    [ ! -s out ] || fail "mpt-ddp $*: a mistake must not write to standard output"
    [ "$(wc -l <err)" -eq 1 ] || fail "mpt-ddp $*: a mistake must be one line"
    grep -q -- "$pattern" err || fail "mpt-ddp $*: no \"$pattern\" in the message"
}

# help words...: exit code 0, the text names its usage.
help() {
    run 0 "$@" --help
    grep -q '^usage: mpt-ddp' out || fail "mpt-ddp $* --help: no usage"
    [ ! -s err ] || fail "mpt-ddp $* --help: wrote to standard error"
}

small_config() {
    cat <<TXT
threads = 1
model { layers = 1
  heads = 2
  dim = 32
  context = 32
  vocab = 256 }
data { train = "text_train.bin"
  val = "text_val.bin" }
train { steps = 3
  global_batch = 4
  micro_batch = 2
  warmup = 0
  val_every = 0 }
checkpoint { every = 0
  dir = "run" }
log { dir = "run" }
TXT
}

echo "mistakes are one line and exit code 2"
usage_error 'no config'
usage_error 'did you mean "plan"' plam
usage_error 'did you mean "sample"' smaple
usage_error 'unknown verb "zzzzzz"' zzzzzz
usage_error 'did you mean "--set"' model.cfg --sett a.b=1
usage_error 'did you mean "--resume"' model.cfg --resum auto
usage_error 'unknown option' plan model.cfg --nothing-like-it
usage_error 'needs a value' model.cfg --set
usage_error 'takes no value' plan model.cfg --json=1
usage_error 'unexpected argument "b"' plan a b
usage_error 'missing argument' plan
usage_error 'missing argument' data
usage_error 'missing argument' sample
usage_error 'missing argument' ckpt info
usage_error 'whole number from 1' plan model.cfg --ranks 0
usage_error 'whole number from 1' plan model.cfg --ranks 2x
usage_error 'whole number' sample x --tokens 99999999999999999999
usage_error 'a number' sample x --temperature nan
usage_error 'a number from 0 to' data x --val-fraction 2
usage_error '--out' ckpt export x
usage_error 'unknown format' ckpt export x --out y --format zip
usage_error 'did you mean "fsck"' ckpt fcsk
usage_error 'which verb' ckpt
usage_error 'which verb' bench
usage_error 'of bf16, fp32, fp16' bench step --compute bf17

echo "what is not built says so"
for words in doctor report "bench kernels" "bench comm" "bench scaling" "ckpt import"; do
    # shellcheck disable=SC2086
    usage_error 'not built yet' $words
done

echo "every verb explains itself"
help
for words in train plan bench "bench step" data ckpt "ckpt info" "ckpt fsck" "ckpt export" sample version; do
    # shellcheck disable=SC2086
    help $words
done
run 0 version
grep -qE '^mpt-ddp [0-9]+\.[0-9]+\.[0-9]+$' out || fail "version: not the version"
run 0 --version
run 0 --config-help
grep -q 'global_batch' out || fail "--config-help: global_batch is missing"

echo "files that are not there"
run 2 nothere.cfg
grep -q 'nothere.cfg' err || fail "a missing config must be named"
run 3 data nothere.txt
grep -q 'nothere.txt' err || fail "a missing text must be named"
run 3 sample nothere
run 3 ckpt info nothere
run 3 ckpt fsck nothere

echo "text becomes token files, named after it"
for i in 1 2 3 4 5 6 7 8 9 10; do
    printf 'In the beginning God created the heaven and the earth. %d\n' $i
done >text.txt
mkdir texts
cp text.txt texts/other.txt
run 0 data text.txt --val-fraction 0.2
[ -s text_train.bin ] || fail "data: no text_train.bin"
[ -s text_val.bin ] || fail "data: no text_val.bin"
# 256 int32 of header and two bytes a token: nothing of the text is lost between the two files.
bytes=$(($(wc -c <text_train.bin) + $(wc -c <text_val.bin)))
[ "$bytes" -eq $((2 * 1024 + 2 * $(wc -c <text.txt))) ] || fail "data: $bytes bytes of tokens"
run 0 data texts/other.txt --val-fraction 0
[ -s other_train.bin ] || fail "data: no other_train.bin"
[ ! -e other_val.bin ] || fail "data: no split was asked for"
usage_error 'a file each' data text.txt --train text.txt
usage_error 'a file each' data text.txt --train same.bin --val same.bin
usage_error 'drop one' data text.txt --val v.bin --val-fraction 0
usage_error 'klingon' data text.txt --tokenizer klingon

echo "plan: tables, and one JSON object"
small_config >plan
usage_error 'missing argument' plan
run 0 plan ./plan
grep -q 'all ranks' out && fail "plan: one rank needs no sum over ranks"
run 0 plan ./plan --ranks 2
grep -q 'all ranks' out || fail "plan --ranks 2: no sum over ranks"
run 0 plan ./plan --json
[ "$(wc -l <out)" -eq 1 ] || fail "plan --json: more than one line"
grep -qE '^\{"parameters": [0-9]+, .*\}$' out || fail "plan --json: not an object"
for key in bytes tokens_per_step flops_6nd_per_token memory precision chinchilla_tokens; do
    grep -q "\"$key\": " out || fail "plan --json: no $key"
done
total=$(grep -oE '^[^[]*"bytes": [0-9]+' out | grep -oE '[0-9]+$')
sum=$(grep -oE '"use": "[^"]*", "bytes": [0-9]+' out | awk '{ s += $NF } END { printf "%.0f", s }')
[ "$total" = "$sum" ] || fail "plan --json: uses add up to $sum, not to $total"
# Brackets balance outside of strings.
sed 's/"[^"]*"//g' out | awk '{ for (i = 1; i <= length($0); i++) { c = substr($0, i, 1)
    if (c == "{" || c == "[") stack = stack c
    if (c == "}" || c == "]") { top = substr(stack, length(stack)); stack = substr(stack, 1, length(stack) - 1)
        if (top c != "{}" && top c != "[]") exit 1 } } exit stack != "" }' ||
    fail "plan --json: brackets do not match"
run 0 plan ./plan --json --set model.layers=2
grep -q "\"bytes\": $total," out && fail "plan --set model.layers=2 changed nothing"
run 2 plan ./plan --ranks 3
run 2 plan ./plan --set model.layrs=2
grep -q 'layers' err || fail "an unknown key: the nearest one must be named"

echo "training: a file named like a verb, a line a step on a pipe, a closing table"
run 0 ./plan
[ "$(grep -c '^step [0-9]*/3 ' out)" -eq 3 ] || fail "three steps are three lines on a pipe"
for row in run loss tokens FLOP/s memory steps checkpoint metrics; do
    grep -q "^  $row " out || fail "the closing table has no row $row"
done
[ "$(wc -l <run/metrics.jsonl)" -eq 3 ] || fail "three steps are three lines of metrics"
run 0 ./plan --set train.steps=2 --set log.dir=other
[ "$(grep -c '^step [0-9]*/2 ' out)" -eq 2 ] || fail "--set train.steps=2"
[ "$(wc -l <other/metrics.jsonl)" -eq 2 ] || fail "--set log.dir"
run 2 ./plan --set train.steps=2x

echo "signals: save, say so, exit 75"
for signal in USR1 TERM INT; do
    # A job of a script starts with SIGINT ignored; the program must listen all the same.
    "$mpt_ddp" ./plan --set train.steps=100000000 --set checkpoint.dir="stop$signal" --set log.dir="stop$signal" \
        --set checkpoint.every=1000000 >out 2>err </dev/null &
    process=$!
    for _ in $(seq 200); do
        grep -q '^step ' out && break
        sleep 0.05
    done
    kill -"$signal" "$process"
    code=0
    wait "$process" || code=$?
    [ "$code" -eq 75 ] || fail "SIG$signal: exit code $code, not 75"
    grep -q "SIG$signal: saving" out || fail "SIG$signal: not announced"
    run 0 ckpt info "stop$signal"
    run 0 ckpt fsck "stop$signal"
done

echo "the shipped configs plan"
run 0 plan "$source_dir/launch/configs/quickstart.cfg" --ranks 2
run 0 plan "$source_dir/launch/configs/gpt2_124m.cfg" --ranks 8

echo "all is as promised"
