#!/usr/bin/env bash
# `bench kernels` and `bench comm` at small sizes: what is printed, for people and for programs, alone and under mpirun; mistakes.
# $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/faults_lib.sh"
. "$source_dir/tests/launch/json_lib.sh"

small="--micro-batch 1 --context 32 --dim 64 --vocab 200 --runs 2 --threads 2"
operations="attention.forward attention.backward embed.forward embed.backward layernorm.forward layernorm.backward loss
            adamw to_wire grad_scan add cast"
for layer in qkv proj fc fcproj head; do
    operations="$operations $layer.forward $layer.input.gradient $layer.weight.gradient"
done

# refused RANKS PATTERN words...: exit code 2, one line that matches, nothing on standard output.
refused() {
    local ranks=$1 pattern=$2
    shift 2
    run 2 "$ranks" bench "$@"
    says "$pattern"
    [ ! -s out ] || fail "$*: something on standard output"
}

count_of() { # count_of PATTERN: how often it stands in out
    grep -oE -- "$1" out | wc -l
}

echo "kernels: every operation has its line in every type"
# shellcheck disable=SC2086
run 0 0 bench kernels $small
for operation in $operations; do
    [ "$(grep -cE "^$operation +[0-9.]+ ms" out)" -eq 3 ] || fail "$operation has not three lines"
done
[ "$(grep -c '^these 12 together' out)" -eq 3 ] || fail "the twelve shapes are not summed up once a type"
hasnt out '(^|[^a-z])(nan|inf)([^a-z]|$)'

echo "kernels: the same as one object"
# shellcheck disable=SC2086
run 0 0 bench kernels $small --compute bf16,fp32 --json
is_object
for key in micro_batch context dim heads vocab onednn_version onednn_notes types bf16 fp32; do
    [ "$(count_of "\"$key\": ")" -eq 1 ] || fail "not one \"$key\""
done
hasnt out '"fp16": '
[ "$(count_of '"op": ')" -eq 54 ] || fail "not 27 operations in each of two types"
[ "$(count_of '"shapes": 12,')" -eq 2 ] || fail "not twelve shapes in each type"
[ "$(count_of '"seconds": [0-9.e-]+')" -eq 56 ] || fail "a time is missing"
[ "$(count_of '"limit": "matrix peak"')" -eq 34 ] || fail "not 17 operations are limited by the matrix peak"
[ "$(count_of '"share_of_limit": [0-9.e-]+')" -eq 54 ] || fail "a share is missing"

echo "kernels: oneDNN multiplies in fp32 wherever this program runs"
# shellcheck disable=SC2086
run 0 0 bench kernels $small --compute fp32 --only 'fc *' --json
is_object
[ "$(count_of '"op": "fc ')" -eq 3 ] && [ "$(count_of '"op": ')" -eq 3 ] || fail "--only fc: other operations"
[ "$(count_of '"over_onednn": [0-9.e+-]+')" -eq 4 ] || fail "not every product and their sum has a rival"
has out '"m": 32, "n": 256, "k": 64' # forward
has out '"m": 256, "n": 64, "k": 32' # weight gradient

echo "kernels: tf32 where it is asked for, beside fp32 products of oneDNN"
# shellcheck disable=SC2086
run 0 0 bench kernels $small --compute tf32 --only 'fc *' --json
is_object
[ "$(count_of '"tf32": ')" -eq 1 ] && [ "$(count_of '"over_onednn": [0-9.e+-]+')" -eq 4 ] || fail "tf32 is not measured"

echo "kernels: the instruction level is what MPT_ISA allows, and said"
for level in portable avx2; do
    # shellcheck disable=SC2086
    MPT_ISA=$level run 0 0 bench kernels $small --compute fp16 --only gradient --json
    is_object
    has out "\"isa\": \"$(MPT_ISA=$level "$mpt_ddp" plan "$source_dir/launch/configs/quickstart.cfg" --json 2>/dev/null |
        grep -oE '"isa": "[a-z0-9_]*"' | grep -oE '[a-z0-9_]*"$')"
done

echo "comm: every size has its line; sums in every type; rank 0 alone prints"
for ranks in 2 3 4; do # 3: shares that are not equal of themselves; 4: more than many machines have cores
    run 0 "$ranks" bench comm --max 300K --rounds 2
    [ "$(head -n 1 out | grep -cE "^$ranks ranks x [0-9]+ threads?, comm shm, ")" -eq 1 ] || fail "not $ranks ranks over shm"
    for collective in all_reduce reduce_scatter; do
        [ "$(grep -cE "^$collective +(bf16|fp16|fp32) +[0-9]+ +[0-9.]+ [um]s +[0-9.]+ GB/s" out)" -eq 18 ] ||
            fail "$collective: not 6 sizes in three types"
    done
    for collective in all_gather broadcast; do
        [ "$(grep -cE "^$collective +bytes +[0-9]+ +[0-9.]+ [um]s +[0-9.]+ GB/s" out)" -eq 6 ] || fail "$collective: not 6 sizes"
    done
    awk -v unit=$((4 * ranks)) 'NF > 8 && $3 ~ /^[0-9]+$/ && $3 % unit { exit 1 }' out || fail "shares that are not whole"
    hasnt out '(^|[^a-z])(nan|inf)([^a-z]|$)'
done

echo "comm: the same as one object; bounds where copies take the time, a rival throughout"
run 0 2 bench comm --max 1M --rounds 3 --types bf16 --json
is_object
[ "$(count_of '"collective": ')" -eq 24 ] || fail "not four collectives of six sizes"
[ "$(count_of '"over_mpi": [0-9.e+-]+')" -eq 24 ] || fail "a rival is missing"
[ "$(count_of '"share_of_bound": [0-9.e+-]+')" -eq 8 ] || fail "not two sizes of each have a bound"
has out '"collective": "all_reduce", "type": "bf16", "bytes": 1048576, .*"bound_bytes_per_rank": 2097152,'
has out '"collective": "reduce_scatter", "type": "bf16", "bytes": 1048576, .*"bound_bytes_per_rank": 1572864,'
has out '"collective": "broadcast", "type": "bytes", "bytes": 1048576, .*"bound_bytes_per_rank": 1048576,'
MPT_COMM=mpi run 0 2 bench comm --max 4K --rounds 2 --only all_gather --json
is_object
has out '"comm": "mpi"'
[ "$(count_of '"collective": "all_gather"')" -eq "$(count_of '"collective": ')" ] || fail "--only: other collectives"

echo "comm: alone there is nobody to talk to, and no rival"
run 0 0 bench comm --max 4K --rounds 2
has out 'comm self.*without MPI'
run 0 0 bench comm --max 4K --rounds 2 --json
is_object
has out '"mpi": null'
run 0 1 bench comm --max 4K --rounds 2 --only broadcast

echo "help is no mistake"
for words in kernels comm; do
    run 0 0 bench $words --help
    has out "^usage: mpt-ddp bench $words"
    has out '--json '
done

echo "mistakes are one line from one rank"
refused 0 '--compute' kernels --compute fp8
refused 0 '--threads' kernels --threads 0
refused 0 '--dim' kernels --dim 100
refused 0 '--only' kernels --only nothing --dim 64 --vocab 100
refused 0 'stray' kernels stray
refused 0 '--sgv' kernels --sgv picture
refused 2 '--types' comm --types int8
refused 2 '--types' comm --types tf32
refused 2 '--max' comm --max 63
refused 2 '--only' comm --only all_to_all
refused 2 '--svg' comm --svg "$work/no/such/folder/picture.svg"
MPT_ISA=quantum refused 0 'MPT_ISA' kernels --dim 64

echo "a picture needs gnuplot, and says so before anything is measured"
PATH=/nonexistent "$mpt_ddp" bench kernels --svg picture.svg --dim 64 --vocab 100 >out 2>err </dev/null
[ $? -eq 2 ] || fail "no gnuplot: exit code is not 2"
says 'gnuplot'
if command -v gnuplot >/dev/null; then
    # shellcheck disable=SC2086
    run 0 0 bench kernels $small --compute bf16,fp32 --svg "it's kernels.svg"
    [ "$(grep -cE '<svg|</svg>' "it's kernels.svg")" -eq 2 ] || fail "no picture of kernels"
    has "it's kernels.svg" 'layernorm forward'
    hasnt err '[Ww]arning'
    run 0 2 bench comm --max 300K --rounds 2 --svg comm.svg
    [ "$(grep -cE '<svg|</svg>' comm.svg)" -eq 2 ] || fail "no picture of collectives"
    has comm.svg 'reduce_scatter'
    hasnt err '[Ww]arning'
fi

exit 0
