#!/usr/bin/env bash
# From a fresh clone to a trained transformer: install what is missing, build, make token files of the text that the
# repository carries, train on two ranks, let the model write. Each run gets a folder of its own, run/quickstart-N.
# Words given are handed to mpt-ddp: ./launch/quickstart.sh --set train.steps=100
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

./launch/install.sh build
[ -x build/release/bin/mpt-ddp ] || echo "building into build/release (a minute or two, once)"
./launch/build.sh release -DCMAKE_BUILD_TYPE=Release -DMPT_TESTS=OFF
mpt_ddp=build/release/bin/mpt-ddp

if [ ! -s run/data/kjv_train.bin ] || [ ! -s run/data/kjv_val.bin ]; then
    mkdir -p run/data
    # One of the two alone, or an empty one, is no use to anybody.
    "$mpt_ddp" data launch/data/kjv.txt --train run/data/kjv_train.bin --val run/data/kjv_val.bin --force
fi

number=1
while [ -e "run/quickstart-$number" ]; do number=$((number + 1)); done
folder=run/quickstart-$number
mkdir "$folder"

. launch/mpi_env.sh
# Time for a checkpoint between the signals that mpirun sends its ranks after Ctrl-C.
export OMPI_MCA_odls_base_sigkill_timeout=3 PRTE_MCA_odls_base_sigkill_timeout=3
status=0
mpirun -np 2 "$mpt_ddp" launch/configs/quickstart.cfg \
    --set checkpoint.dir="$folder" --set log.dir="$folder" "$@" || status=$?
if [ "$status" -ne 0 ]; then
    [ "$status" -eq 75 ] && echo "stopped on request; what was trained lies in $folder"
    exit "$status"
fi

echo
echo "the model writes:"
"$mpt_ddp" sample "$folder" --prompt "And the LORD said unto " --tokens 400
echo
echo "more of it:       $mpt_ddp sample $folder --prompt \"In the beginning\""
echo "your own text:    see README.md"
