#!/usr/bin/env bash
# The command line's contract: exit codes, one-line mistakes with hints, help, JSON. $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/cli_lib.sh"

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
    grep '^usage: ' out | grep -qE '  | $' && fail "mpt-ddp $* --help: a blank too many in the usage"
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
usage_error 'missing argument' ckpt export x
usage_error 'missing argument' ckpt import x
usage_error 'unknown format' ckpt export x y.bin --format zip
usage_error 'no format is known' ckpt export x y
usage_error 'unknown dtype' ckpt export x y.bin --dtype fp16
usage_error 'unknown weights' ckpt export x y.bin --weights best
usage_error 'unknown version' ckpt export x y.bin --version 4
usage_error 'contradict' ckpt export x y.bin --version 3 --dtype bf16
usage_error 'no version' ckpt export x y.safetensors --version 3
usage_error 'did you mean "fsck"' ckpt fcsk
usage_error 'which verb' ckpt
usage_error 'which verb' bench
usage_error 'of bf16, fp32, fp16' bench step --compute bf17
usage_error 'needs a value' model.cfg --resume
usage_error '--resume: ' model.cfg --resume ''

echo "what is not built says so"
for verb in doctor report; do
    usage_error 'not built yet' "$verb"
done

echo "every verb explains itself"
help
for words in train plan bench "bench step" "bench kernels" "bench comm" "bench scaling" data ckpt "ckpt info" "ckpt fsck" "ckpt export" "ckpt import" sample version; do
    # shellcheck disable=SC2086
    help $words
done
run 0 version
grep -qE '^mpt-ddp [0-9]+\.[0-9]+\.[0-9]+$' out || fail "version: not the version"
run 0 --version
run 0 --config-help
grep -q 'global_batch' out || fail "--config-help: global_batch is missing"
grep -q 'the tests' out && fail "--config-help: is for users"

echo "files that are not there"
run 2 nothere.cfg
grep -q 'nothere.cfg' err || fail "a missing config must be named"
run 3 data nothere.txt
grep -q 'nothere.txt' err || fail "a missing text must be named"
run 3 sample nothere
mkdir empty
run 3 sample empty
grep -q 'empty.* folder without a checkpoint' err || fail "sample: a folder without a checkpoint"
run 3 ckpt info nothere
run 3 ckpt fsck nothere
run 3 ckpt export nothere out.bin
run 3 ckpt import nothere out
[ ! -e out.bin ] || fail "ckpt export: a file of nothing"
[ ! -e out.bin.partial ] || fail "ckpt export: something is left over"

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
usage_error 'exists already' data text.txt --val-fraction 0.2
usage_error 'exists already' data text.txt --train new.bin --val text_val.bin
[ ! -e new.bin ] || fail "data: one of two files, where the other was refused"
cksum text_train.bin >before
run 0 data text.txt --force
cksum text_train.bin >after
cmp -s before after && fail "data --force: the file is still the old one"
run 0 data text.txt --val-fraction 0.2 --force
cksum text_train.bin >after
cmp before after || fail "data --force: not what it was first"
mkfifo pipe
ln -s text_train.bin link
for name in pipe link texts; do
    usage_error 'not a regular file' data text.txt --train $name --val new.bin --force
    usage_error 'not a regular file' data text.txt --train new.bin --val $name --force
done
[ -p pipe ] && [ -L link ] && [ -d texts ] && [ ! -e new.bin ] || fail "data --force: replaced what is no file"
usage_error 'a file each' data text.txt --train text.txt
usage_error 'a file each' data text.txt --train text.txt --force
usage_error 'a file each' data text.txt --train same.bin --val same.bin
usage_error 'a file each' data text.txt --train same.bin --val ./same.bin
usage_error 'a file each' data text.txt --train same.bin --val texts/../same.bin
usage_error 'a file each' data text.txt --train same.bin --val "$PWD/same.bin" --force
usage_error 'a file each' data text.txt --train a.bin.partial --val a.bin --force
[ ! -e same.bin ] && [ ! -e a.bin ] || fail "data: something was written"
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
for part in "$(sed 's/, "precision": .*//' out)" $(sed 's/.*"modes": //' out | grep -oE '"shard": [^]{}]*"memory": [^]]*]' | tr -d ' '); do
    bytes=$(grep -oE '^[^[]*"bytes": ?[0-9]+' <<<"$part" | grep -oE '[0-9]+$')
    sum=$(grep -oE '"use": ?"[^"]*", ?"bytes": ?[0-9]+' <<<"$part" | awk -F: '{ s += $NF } END { printf "%.0f", s }')
    [ "$bytes" = "$sum" ] || fail "plan --json: uses add up to $sum, not to $bytes: $part"
done
[ "$(sed 's/.*"modes": //' out | grep -oE '"shard": "[a-z0-9]+"' | tr -dc 'a-z0-9\n' | tr '\n' ' ')" = \
    "shardddp shardzero1 shardzero2 shardzero3 shardhsdp " ] || fail "plan --json: not five modes"
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
{ cat plan; printf '\0'; echo 'train { steps = 2x }'; } >with_nul
lines=$(wc -l <plan)
for words in ./with_nul "plan ./with_nul" "plan ./with_nul --json"; do
    # shellcheck disable=SC2086
    usage_error "with_nul:$((lines + 1)): a NUL byte" $words
done

echo "export and import: there and back to the bit, a run goes on from it, nothing is overwritten unasked"
run 0 ./plan --set checkpoint.every=3 --set checkpoint.dir=first --set log.dir=first
run 0 ckpt info first
grep -q 'saved by *1 rank, ' out || fail "ckpt info: who saved it"
grep -q 'holds *master, m, v, FP32' out || fail "ckpt info: what it holds"
run 0 ckpt export first whole.safetensors
grep -q 'master, m, v of step 3 as safetensors, fp32' out || fail "ckpt export: what was written"
grep -q 'not exactly' out && fail "ckpt export: fp32 is exact"
usage_error 'exists already' ckpt export first whole.safetensors
run 0 ckpt export first whole.safetensors --force
run 0 ckpt import whole.safetensors second
run 0 ckpt fsck second
run 0 ckpt export second again.safetensors
[ "$(tail -c 100000 whole.safetensors | cksum)" = "$(tail -c 100000 again.safetensors | cksum)" ] || fail "import changed values"
usage_error 'holds checkpoints already' ckpt import whole.safetensors second
run 0 ckpt import whole.safetensors second --force
for run in first second; do
    run 0 ./plan --set train.steps=5 --set checkpoint.every=5 --set checkpoint.dir=$run --set log.dir=$run --resume $run
    run 0 ckpt export $run $run.bin
done
cmp first.bin second.bin || fail "the imported run went on otherwise"
run 0 ckpt export first half.bin --dtype bf16
grep -q 'not exactly' out || fail "ckpt export --dtype bf16: is not exact and must say so"
run 0 ckpt import first.bin third
grep -q 'no moments' out || fail "ckpt import: moments are missing and it must say so"
[ -d third/step-00000000 ] || fail "ckpt import: no step 0"
run 0 ./plan --set checkpoint.dir=third --set log.dir=third --resume third
run 0 sample second --tokens 4
run 0 sample first.bin --tokens 4
for compute in fp32 tf32 fp16; do # the runs above are of the default, bf16
    run 0 ./plan --set precision.compute=$compute --set checkpoint.every=3 --set checkpoint.dir=as-$compute --set log.dir=as-$compute
    run 0 sample as-$compute --tokens 4
done
run 3 sample second --tokens 4 --ema
grep -q 'holds no EMA' err || fail "sample --ema: there is none and it must say so"
run 3 ckpt export first ema.bin --weights ema
run 0 ./plan --set train.ema=0.9 --set train.lr=0.05 --set precision.compute=fp32 --set checkpoint.every=3 --set checkpoint.dir=average \
    --set log.dir=average
run 0 ckpt export average ema.bin --weights ema
run 0 sample ema.bin --tokens 40 --temperature 2
cp out text_of_file
run 0 sample average --tokens 40 --temperature 2
cmp -s out text_of_file && fail "sample: the weights are not their average"
run 0 sample average --tokens 40 --temperature 2 --ema
cmp -s out text_of_file || fail "sample --ema: not what the exported average gives"
echo '{}' >broken.safetensors
run 3 ckpt import broken.safetensors fourth
grep -q 'broken.safetensors' err || fail "ckpt import: which file?"
[ "$(wc -l <err)" -eq 1 ] || fail "ckpt import: one line a mistake"

echo "a limit on file sizes is a full disk: said, exit code 3, nothing left behind"
# limited words...: as run 3, with files of 8 KiB at most.
limited() {
    local got=0
    (ulimit -f 8 && exec "$mpt_ddp" "$@" >out 2>err </dev/null) || got=$?
    [ "$got" -eq 3 ] || fail "mpt-ddp $*: exit code $got, not 3"
    grep -q 'File too large' err || fail "mpt-ddp $*: does not say what is wrong"
}
for _ in $(seq 20); do cat text.txt; done >long.txt
limited data long.txt
limited ckpt export first large.safetensors
limited ckpt export first large.bin
limited ckpt import whole.safetensors large
[ -z "$(find . -type f \( -name 'long_*' -o -path '*large*' \) ! -name mpt-ddp.lock)" ] || fail "a limit on file sizes: something is left behind"

echo "what standard output does not take is said"
lost() { # lost CODE words...: what they gave with standard output failing
    [ "$1" -eq 3 ] || fail "mpt-ddp ${*:2}, standard output failing: exit code $1, not 3"
    grep -q 'standard output' err || fail "mpt-ddp ${*:2}, standard output failing: it must say so"
}
for words in "ckpt info first" --help --config-help version "plan ./plan --json" "sample first --tokens 4"; do
    got=0
    # shellcheck disable=SC2086
    "$mpt_ddp" $words >&- 2>err || got=$?
    lost $got "$words"
    [ -c /dev/full ] || continue
    got=0
    # shellcheck disable=SC2086
    "$mpt_ddp" $words >/dev/full 2>err || got=$?
    lost $got "$words"
done
got=0
"$mpt_ddp" ckpt info nothere >&- 2>err || got=$?
[ "$got" -eq 3 ] && [ "$(wc -l <err)" -eq 1 ] || fail "a failure is said once, and not what was not written of it"

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
