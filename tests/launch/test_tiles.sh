#!/usr/bin/env bash
# The whole program on tiles, emulated where the processor has none: it learns what it learns on the level below, to
# rounding. $1: build folder, $2: sources.
tiles=$(cd "$1/tests/tiles" 2>/dev/null && pwd)
. "$(dirname "${BASH_SOURCE[0]}")/faults_lib.sh"
prepare

train() { # train LEVEL FOLDER RANKS [words...]
    local level=$1 folder=$2 ranks=$3
    shift 3
    MPT_ISA=$level LD_LIBRARY_PATH=$tiles${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
        run 0 "$ranks" test.cfg --set checkpoint.dir="$folder" --set log.dir="$folder" "$@"
}

close_enough() { # close_enough FOLDER FOLDER BOUND: every loss and validation loss
    paste <(grep -oE '"(val_)?loss":[^,}]*' "$1/metrics.jsonl" | cut -d: -f2) \
        <(grep -oE '"(val_)?loss":[^,}]*' "$2/metrics.jsonl" | cut -d: -f2) |
        awk -v bound="$3" '{ d = ($1 - $2) / $1; d = d < 0 ? -d : d; if (!(d <= worst)) worst = d; n++ }
            END { print "  losses within " worst; exit !(n == 22 && worst > 0 && worst <= bound) }' ||
        fail "$1 and $2 differ by more than $3, or not at all"
}

train amx probe 0 --set train.steps=2
grep -q '(amx)' out err || { echo "neither tiles nor what their emulation needs"; exit 77; }

for compute in bf16 fp16 tf32; do
    echo "$compute on tiles learns as on the level below, on 2 ranks the same way"
    words=(--set precision.compute=$compute --set precision.loss_scale=1024)
    train amx "$compute-tiles" 0 "${words[@]}"
    train avx512_bf16 "$compute-below" 0 "${words[@]}"
    train amx "$compute-ranks" 2 "${words[@]}"
    close_enough "$compute-tiles" "$compute-below" 1e-3
    close_enough "$compute-tiles" "$compute-ranks" 1e-3
done
