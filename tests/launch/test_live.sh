#!/usr/bin/env bash
# The live line, on a terminal of script's. $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/cli_lib.sh"
command -v script >/dev/null || { echo "no script"; exit 77; }

for i in $(seq 40); do
    printf 'In the beginning God created the heaven and the earth. %d\n' "$i"
done >text.txt
run 0 data text.txt --val-fraction 0.2
cat >test.cfg <<TXT
threads = 1
model { layers = 1  heads = 2  dim = 32  context = 32  vocab = 256 }
data { train = "text_train.bin"  val = "text_val.bin" }
train { steps = 40  global_batch = 4  micro_batch = 2  warmup = 0  val_every = 20  val_batches = 1 }
checkpoint { every = 0  dir = "run" }
log { dir = "run" }
TXT

# on_terminal COLUMNS: train there; `out` has what was shown, `rows` what each carriage return and line break parts.
on_terminal() {
    script -qec "stty cols $1 rows 24 && exec '$mpt_ddp' test.cfg" typescript </dev/null >out 2>err ||
        fail "a run on a terminal of $1 columns"
    tr '\r' '\n' <out >rows
}

# fits COLUMNS: no row of the live line reaches the terminal's last column, where some wrap.
fits() {
    grep -E '[0-9]+/40' rows | awk -v most=$(($1 - 1)) 'length > most { exit 1 }' || fail "a row is wider than $1 columns"
}

echo "a wide terminal shows a bar and all there is to say, in one row"
on_terminal 120
grep -qE '^\[=*>? *\] [0-9]+/40  loss [0-9.]+  .* tokens/s  .*MFU' rows || fail "no live line"
grep -qE '^\[=+\] 40/40  loss [0-9.]+  .*  val [0-9.]+ *$' rows || fail "no live line of the last step"
grep -qE '^step [0-9]+/40 ' rows && fail "lines for a pipe on a terminal"
fits 120

echo "a line of its own stands above, wiped and drawn again"
grep -q '^step 20: ' rows || fail "the validation has no row of its own"
grep -q '^ *$' rows || fail "the live line was not wiped"
grep -q '^  metrics ' rows || fail "no closing table"
row=$(grep -nE '\] 40/40 ' rows | tail -n 1 | cut -d: -f1)
[ "$row" -lt "$(grep -n '^  run ' rows | cut -d: -f1)" ] || fail "the last live line comes after the table"

echo "a narrow one shows what fits, the step first"
on_terminal 24
grep -qE '^40/40  loss [0-9.]+ *$' rows || fail "not the step and its loss"
fits 24
on_terminal 8
grep -qE '^40/40 *$' rows || fail "not the step alone"
fits 8

echo "a terminal that does not know its width gets lines"
on_terminal 0
[ "$(grep -cE '^step [0-9]+/40 ' rows)" -eq 40 ] || fail "not a line a step"
