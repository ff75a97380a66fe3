#!/usr/bin/env bash
# `bench step --shard`: shard modes side by side, alone and under mpirun: what is printed, what is counted, what is left
# out. $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/faults_lib.sh"
. "$source_dir/tests/launch/json_lib.sh"
prepare

json_number() { # json_number KEY: of ddp, where the key is one of a mode
    grep -oE "\"$1\": [0-9.e+-]+" out | head -n 1 | grep -oE '[0-9.e+-]+$'
}

# counts_match RANKS BYTES: of ddp: two collectives a unit and the record, and 2 (n - 1) / n elements of BYTES bytes for
# each padded parameter, beside 64 (n - 1) bytes of record.
counts_match() {
    local ranks=$1 bytes=$2 padded units=4 # embedding, two blocks, head
    shift 2
    run 0 "$ranks" bench step test.cfg --shard ddp --steps 2 --json "$@"
    is_object
    "$mpt_ddp" plan test.cfg --ranks "$ranks" --json >plan.json 2>err || fail "plan"
    padded=$(grep -oE '"padded_parameters": [0-9]+' plan.json | grep -oE '[0-9]+$')
    [ "$(json_number ranks)" = "$ranks" ] || fail "not $ranks ranks"
    [ "$(json_number collectives_per_step)" = $((2 * units + 1)) ] || fail "not $((2 * units + 1)) collectives"
    [ "$(json_number bytes_sent_per_step)" = $((2 * (ranks - 1) * bytes * padded / ranks + 64 * (ranks - 1))) ] ||
        fail "bytes sent are not those of 2N"
    [ "$(json_number bytes_sent_per_step)" = "$(json_number formula_bytes)" ] || fail "the formula says otherwise"
    [ "$(json_number over_ddp)" = 1 ] || fail "ddp is not itself"
}

echo "ddp sends what the formula says, whatever the ranks, types and transport"
counts_match 2 4
counts_match 4 4
counts_match 2 2 --compute bf16
MPT_COMM=mpi counts_match 2 2 --compute fp16
counts_match 2 4 --compute bf16 --set precision.reduce=fp32
counts_match 2 2 --compute bf16 --set comm.overlap=on

echo "in the caller all communication is exposed"
run 0 2 bench step test.cfg --shard zero2 --steps 2 --json --set comm.overlap=off
[ -n "$(json_number comm_s)" ] && [ "$(json_number comm_s)" = "$(json_number exposed_comm_s)" ] ||
    fail "$(json_number exposed_comm_s) of $(json_number comm_s) s"

echo "every mode has its line, measured or left out; rank 0 alone prints"
run 0 2 bench step test.cfg --shard ddp,zero1,zero2,zero3,hsdp --steps 3
for mode in ddp zero1 zero2 zero3 hsdp; do
    [ "$(grep -cE "^$mode +([0-9]|left out: )" out)" -eq 1 ] || fail "$mode has not one line"
done
[ "$(grep -c '^ddp: step [1-3]: ' err)" -eq 3 ] || fail "not three timed steps, told by one rank"
hasnt out '^(zero1|zero2) .*( nan | inf )'

echo "the same as one object"
run 0 2 bench step test.cfg --shard zero1,ddp --steps 3 --json --set log.dir=shared
[ ! -e shared ] || fail "sessions that are open at once were to share their metrics"
is_object
for key in zero1_over_ddp model ranks threads isa compute reduce comm parameters tokens_per_step micro_steps kept_open modes; do
    has out "\"$key\": "
done

echo "alone, without mpirun"
run 0 0 bench step test.cfg --shard ddp --steps 2 --threads 2
has out '^1 rank x 2 threads'
run 0 1 bench step test.cfg --shard ddp --steps 1

echo "a mode of several that the config refuses is left out; a config that all refuse is an error, said once"
run 0 4 bench step test.cfg --shard ddp,hsdp --set parallel.shard_ranks=3 --steps 1
has out '^hsdp +left out: .*parallel.shard_ranks = 3: is no power of two'
run 2 2 bench step test.cfg --shard ddp --set train.global_batch=3
says 'global_batch'
[ ! -s out ] || fail "a table of nothing"
run 2 2 bench step nothere.cfg --shard ddp,zero1
says 'nothere.cfg'

echo "mistakes are one line from one rank"
for words in "--shard ddp,zero4" "--shard ddp,ddp" "--shard ddp," "--shard ddp --compute bf16,fp32" "--shard ddp --all"; do
    # shellcheck disable=SC2086
    run 2 2 bench step test.cfg $words
    says '--shard'
done

echo "without --shard all is as it was"
run 0 0 bench step test.cfg --steps 1 --json
is_object
keys=$(grep -oE '"[a-z0-9_]+": ' out | head -n 14 | tr -d '": \n')
[ "$keys" = bf16_share_of_peakbf16_over_fp32fp16_over_fp32bf16_tokens_per_sfp32_tokens_per_s\
peak_tflops_per_corefp32_linear_over_onednnbf16_over_fp32_measuredfp16_over_fp32_measured\
onednn_fp32_flops_per_smodelisathreadstypes ] || fail "other keys, or in another order: $keys"

echo "the peak is that of the instruction level that MPT_ISA allows"
for level in portable avx2; do
    MPT_ISA=$level run 0 0 bench step test.cfg --steps 1 --json
    MPT_ISA=$level "$mpt_ddp" plan test.cfg --json >plan.json 2>err || fail "plan"
    [ "$(grep -oE '"isa": "[a-z0-9_]*"' out | sort -u)" = "$(grep -oE '"isa": "[a-z0-9_]*"' plan.json)" ] ||
        fail "MPT_ISA=$level: the levels of peak, session and plan are not the same"
done

exit 0
