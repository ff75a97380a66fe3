#!/usr/bin/env bash
# mpt-ddp plan over shard modes: tables, JSON, suggestions for a memory, mistakes. Holds whichever modes are built.
# $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/cli_lib.sh"

# plan CODE words...: run mpt-ddp plan, demand that exit code.
plan() {
    local want=$1
    shift
    run "$want" plan "$@"
}

# mistake PATTERN words...: exit code 2, nothing on standard output, one line that matches on standard error.
mistake() {
    local pattern=$1
    shift
    plan 2 "$@"
    [ ! -s out ] || fail "plan $*: a mistake must not write to standard output"
    [ "$(wc -l <err)" -eq 1 ] || fail "plan $*: a mistake must be one line"
    grep -q -- "$pattern" err || fail "plan $*: no \"$pattern\" in the message"
}

# JSON by its grammar: strings are S, other values V, members P; arrays and objects shrink to V until nothing else is left.
well_formed() {
    local left
    left=$(sed -E 's/"([^"\\]|\\.)*"/S/g; s/-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?/V/g; s/true|false|null/V/g; s/ //g
        :a; s/S:[SV]/P/g; s/\[([SV](,[SV])*)?\]/V/g; s/\{(P(,P)*)?\}/V/g; ta' out)
    [ "$left" = V ] || fail "plan --json: not well-formed, $left is left"
}

# number PATTERN: the first whole number after PATTERN in out.
number() {
    grep -oE "$1[0-9]+" out | head -n 1 | grep -oE '[0-9]+$'
}

cat >small.cfg <<'TXT'
threads = 1
model { layers = 2
  heads = 2
  dim = 32
  context = 32
  vocab = 256 }
data { train = "tokens.bin" }
train { steps = 3
  global_batch = 48
  micro_batch = 2
  warmup = 0
  val_every = 0 }
parallel { shard = ddp }
TXT

echo "mistakes are one line and exit code 2"
for size in 0 G -1G 16X 16GG 1e9 0x10 inf nan .5G 0.1 99999999999T; do
    mistake "--memory $size: must be a size in bytes" small.cfg --memory="$size"
done
mistake 'must be a size in bytes' small.cfg --memory ''
mistake 'needs a value' small.cfg --memory
for ranks in 0 -1 2x '1,' ',1' '1,,2' '1,0' 1.5 65537; do
    mistake "--ranks $ranks: must be a whole number from 1 to 65536" small.cfg --ranks="$ranks"
done
mistake 'train.global_batch = 48' small.cfg --ranks 5
mistake 'nothere.cfg' nothere.cfg --memory 1G

echo "every mode is planned or says why not"
for ranks in 1 2 3 4 8; do
    plan 0 small.cfg --ranks $ranks
    [ ! -s err ] || fail "plan: wrote to standard error"
    grep -q "^a rank of $ranks, by mode .* ddp" out || fail "plan: no column for ddp"
    columns=$(grep "^a rank of $ranks, by mode" out | grep -oE '(ddp|zero[123]|hsdp)' | wc -l)
    refused=$(grep -c '^  not planned: ' out || true)
    # One line may refuse several modes for the same reason.
    [ "$columns" -eq 5 ] || [ "$refused" -ge 1 ] || fail "plan: $columns modes planned and no reason for the others"
    [ $((columns + refused)) -le 5 ] || fail "plan: $columns modes planned and $refused refused"
    [ "$(awk 'length($0) > 100 && !/not planned/' out | wc -l)" -eq 0 ] || fail "plan: more than 100 columns"
done
plan 0 small.cfg --ranks 8
grep -qE '^  textbook  +16\.00 B +5\.50 B +3\.75 B +2\.00 B +4\.00 B$' out || fail "plan: not the textbook's bytes"
grep -qE '^  state held here +2[01]\.[0-9]+ B ' out || fail "plan: ddp must hold 20 bytes a parameter and its padding"
# ddp's column says what the config's own plan says.
total=$(grep '^  total' out | head -n 1 | grep -oE '[0-9.]+ [KMG]iB')
grep -qE "^  total +$total( |$)" out || fail "plan: ddp's total is not the plan's, $total"

echo "what is assumed of hosts and backend is said"
plan 0 small.cfg --ranks 1
! grep -q '^assumed' out || fail "plan: one rank assumes nothing"
plan 0 small.cfg --ranks 8
grep -q '^assumed: one host, communication by shm; MPT_COMM=hier or mpi plans for several$' out || fail "plan: no assumption"
grep -qE '^  communicators +[0-9]+ ' out || fail "plan: no row for communicators"
MPT_COMM=hier plan 0 small.cfg --ranks 8
grep -q '^assumed: 2 hosts of 4 ranks, communication by hier$' out || fail "plan: no assumption for hier"
MPT_COMM=mpi plan 0 small.cfg --ranks 8
grep -q '^assumed: communication by mpi, on any number of hosts$' out || fail "plan: no assumption for mpi"
plan 0 small.cfg --ranks 8 --json
grep -q '"comm": "shm", "hosts": 1,' out || fail "plan --json: no assumption"
MPT_COMM=tcp mistake 'MPT_COMM=tcp: not one of' small.cfg --ranks 8

echo "several numbers of ranks, and a config from a pipe"
plan 0 small.cfg --ranks 2,4,5
for ranks in 2 4 5; do
    grep -q "^a rank of $ranks, by mode" out || fail "plan --ranks 2,4,5: $ranks is missing"
done
grep -q 'not planned: train.global_batch = 48: is no multiple' out || fail "plan: 5 ranks must be refused by the batch"
"$mpt_ddp" plan /dev/stdin --memory 1G < <(cat small.cfg) >out 2>err || fail "plan: a config from a pipe"
grep -q '^suggestion: ' out || fail "plan: no suggestion for a config from a pipe"

echo "json is well-formed, old keys first"
for words in "" "--ranks 4" "--ranks 2,4,5 --memory 1G" "--memory 1" "--ranks 8 --memory 200K"; do
    # shellcheck disable=SC2086
    plan 0 small.cfg --json $words
    [ "$(wc -l <out)" -eq 1 ] || fail "plan --json $words: more than one line"
    well_formed
    grep -qE '^\{"parameters": .*"precision": \[.*\], "modes": \[\{"shard": "ddp", "ranks": ' out ||
        fail "plan --json $words: modes must follow what was there before"
done
plan 0 small.cfg --json --ranks 2,4
[ "$(grep -oE '"shard": "hsdp"' out | wc -l)" -eq 2 ] || fail "plan --json: each number of ranks has each mode"
grep -q '"suggestion"' out && fail "plan --json: a suggestion without --memory"

echo "the largest micro-batch divides the batch, fits, and no larger one does"
share=24 # sequences of one of two ranks
plan 0 small.cfg --ranks 2 --json --set train.micro_batch=6
exact=$(number '"bytes": ')
for memory in "$exact" $((exact - 1)) $((exact + 1)) 1G; do
    plan 0 small.cfg --ranks 2 --json --memory "$memory"
    largest=$(sed -E 's/"shard": "zero1".*//; s/.*"largest": \[\{"set": null, "micro_batch": ([0-9]+).*/\1/' out)
    by_hand=0
    limit=$memory
    [ "$memory" = 1G ] && limit=1073741824
    for micro in 1 2 3 4 6 8 12 24; do
        plan 0 small.cfg --ranks 2 --json --set parallel.shard=ddp --set train.micro_batch=$micro
        [ "$(number '"bytes": ')" -gt "$limit" ] || by_hand=$micro
    done
    [ "$largest" = "$by_hand" ] || fail "plan --memory $memory: ddp's largest micro-batch is $by_hand, not $largest"
    [ $((share % largest)) -eq 0 ] || fail "plan --memory $memory: $largest does not divide $share"
done

echo "a suggestion, taken up, plans to what it said"
plan 0 small.cfg --ranks 4 --json --set train.micro_batch=1
least=$(number '"bytes": ')
for memory in 1G 5M "$least"; do
    plan 0 small.cfg --ranks 4 --json --memory "$memory"
    grep -q '"fits": true' out || fail "plan --memory $memory: one sequence fits"
    sed 's/.*"suggestion": //' out >suggestion
    bytes=$(grep -oE '"bytes": [0-9]+' suggestion | grep -oE '[0-9]+$')
    words=$(sed -E 's/.*"set": \[([^]]*)\].*/\1/; s/[",]/ /g' suggestion)
    sets=()
    for word in $words; do
        sets+=(--set "$word")
    done
    plan 0 small.cfg --ranks 4 --json "${sets[@]}"
    [ "$(number '"bytes": ')" = "$bytes" ] || fail "plan --memory $memory: ${sets[*]} is not $bytes bytes"
done

echo "where nothing fits: by how much, and what to lower, exit code 0"
plan 0 small.cfg --ranks 2 --memory 10K
grep -q '^nothing fits; closest: --set ' out || fail "plan: what comes closest"
grep -qE '^  [0-9.]+ [KM]iB a rank, [0-9.]+ [KM]iB too much$' out || fail "plan: by how much"
grep -q 'lower model.layers' out || fail "plan: what to lower"
plan 0 small.cfg --ranks 2 --memory 10K --json
grep -q '"fits": false' out || fail "plan --json: it does not fit"
short=$(number '"short_by": ')
bytes=$(sed 's/.*"suggestion": //' out | grep -oE '"bytes": [0-9]+' | grep -oE '[0-9]+$')
[ "$short" -eq $((bytes - 10240)) ] || fail "plan --json: $bytes bytes are not $short too much"

echo "the shipped configs"
plan 0 "$source_dir/launch/configs/gpt2_124m.cfg" --ranks 8,64 --memory 80GiB
[ "$(grep -c '^suggestion: ' out)" -eq 2 ] || fail "plan: a suggestion each"
echo "all is as promised"
