#!/usr/bin/env bash
# launch/quickstart.sh from end to end, in a folder of its own, of few steps of a small model: twice, the second run beside
# the first. Installing and building are left out: the program of this build is there. $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/faults_lib.sh"
mkdir -p launch build/release/bin
cp -R "$source_dir"/launch/{quickstart.sh,mpi_env.sh,configs,data} launch
ln -s "$mpt_ddp" build/release/bin/mpt-ddp
for script in install.sh build.sh; do
    printf '#!/bin/sh\necho %s "$@" >>called\n' $script >launch/$script
    chmod +x launch/$script
done

quickstart() {
    ./launch/quickstart.sh --set train.steps=4 --set train.warmup=1 --set train.val_every=0 --set model.layers=1 \
        --set model.heads=2 --set model.dim=32 --set model.context=32 --set train.global_batch=4 \
        --set train.micro_batch=2 --set threads=1 >out 2>err </dev/null || fail "quickstart.sh: exit code $?"
    for row in run loss tokens memory steps checkpoint metrics; do
        grep -q "^  $row " out || fail "the closing table has no row $row"
    done
    # What comes after the prompt is 400 bytes of any value.
    [ "$(sed -n '/^the model writes:$/,$p' out | wc -c)" -gt 420 ] || fail "no sample"
    grep -qa '^And the LORD said unto ' out || fail "no sample after its prompt"
    grep -q "more of it: .* sample $1 " out || fail "does not say where more is"
    [ -s "$1/metrics.jsonl" ] && [ -d "$1/step-00000004" ] || fail "nothing in $1"
}

echo "the first run installs, builds, makes tokens, trains and samples"
quickstart run/quickstart-1
grep -q '^install.sh build$' called && grep -q '^build.sh release ' called || fail "does not install and build"
[ "$(wc -c <run/data/kjv_train.bin)" -gt 1000000 ] && [ -s run/data/kjv_val.bin ] || fail "no tokens"
find run -type f -exec cksum {} + | sort >before

echo "the second goes to a folder of its own and leaves everything as it was"
quickstart run/quickstart-2
find run -type f ! -path 'run/quickstart-2/*' -exec cksum {} + | sort >after
cmp before after || fail "the second run changed what there was"

echo "a lone token file is made anew, with its other half"
rm run/data/kjv_val.bin
quickstart run/quickstart-3
[ -s run/data/kjv_val.bin ] || fail "no validation tokens"
exit 0
