# shellcheck shell=bash
# Sourced by the tests that run the program under mpirun: $1 is the build folder, $2 the source folder. Works in a folder
# of its own, which goes away in the end with every process of it. A check that fails shows what the last run
# wrote and ends the test.
set -u
mpt_ddp=$(cd "$1" && pwd)/bin/mpt-ddp
source_dir=$(cd "$2" && pwd)
command -v mpirun >/dev/null || { echo "no mpirun"; exit 77; }
. "$source_dir/launch/mpi_env.sh"
export OMPI_MCA_mpi_yield_when_idle=1
# Where built with a sanitizer: what Open MPI leaks and how it locks would drown what is ours, which the tests of one
# process look for.
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}
export TSAN_OPTIONS=${TSAN_OPTIONS:-detect_deadlocks=0 ignore_noninstrumented_modules=1}
work=$(mktemp -d)
cd "$work" || exit 1
trap 'cleanup' EXIT

# Ends what a failed check left running: children of this shell, and theirs.
cleanup() {
    local job
    for job in $(jobs -p); do
        kill -9 $(pgrep -P "$job") "$job" 2>/dev/null
    done
    mountpoint -q "$work/small" 2>/dev/null && umount "$work/small"
    cd / && rm -rf "$work"
}

fail() {
    echo "FAILED: $1"
    [ -f out ] && tail -n 40 out | sed 's/^/  out: /'
    [ -f err ] && tail -n 40 err | sed 's/^/  err: /'
    exit 1
}

# Token files train.bin and val.bin from the repository's text, and test.cfg: two layers, a step takes milliseconds.
prepare() {
    head -c 200000 "$source_dir/launch/data/kjv.txt" >text.txt
    "$mpt_ddp" data text.txt --train train.bin --val val.bin >out 2>err || fail "mpt-ddp data"
    cat >test.cfg <<TXT
threads = 1
model { layers = 2 heads = 2 dim = 32 context = 32 vocab = 256 }
data { train = train.bin val = val.bin }
train { steps = 20 global_batch = 16 micro_batch = 2 seed = 7 lr = 3e-3 min_lr = 3e-4 warmup = 2
        val_every = 10 val_batches = 2 }
precision { compute = fp32 }
checkpoint { dir = run every = 5 }
log { dir = run }
TXT
}

# run CODE RANKS words...: mpirun mpt-ddp words, output in out and err; demand that exit code. 0 ranks: without mpirun.
run() {
    local want=$1 ranks=$2 got=0
    shift 2
    if [ "$ranks" -eq 0 ]; then
        timeout 100 "$mpt_ddp" "$@" >out 2>err </dev/null || got=$?
    else
        timeout 100 mpirun -np "$ranks" "$mpt_ddp" "$@" >out 2>err </dev/null || got=$?
    fi
    [ "$got" -eq "$want" ] || fail "$ranks ranks, $*: exit code $got, not $want"
}

# own_lines: what mpt-ddp, not mpirun, wrote to standard error: lines that name a rank or the program.
own_lines() {
    grep -E '^(rank [0-9]+: |mpt-ddp)' err
}

# says PATTERN: it is one line, and it matches.
says() {
    [ "$(own_lines | wc -l)" -eq 1 ] || fail "$(own_lines | wc -l) messages, not 1"
    own_lines | grep -qE -- "$1" || fail "no \"$1\" in the message"
}

has() { # has FILE PATTERN
    grep -qE -- "$2" "$1" || fail "no \"$2\" in $1"
}

hasnt() {
    ! grep -qE -- "$2" "$1" || fail "\"$2\" in $1"
}

# What a metrics file says apart from timings, rates, memory, and when saves ended.
digest() {
    grep -vE '"event":"(checkpoint|checkpoint_failed|stop)"' "$1/metrics.jsonl" | sed 's/,"tokens_per_s".*//'
}

same_digest() { # same_digest FOLDER FOLDER
    digest "$1" >digest.1
    digest "$2" >digest.2
    cmp -s digest.1 digest.2 || fail "metrics of $1 and $2 differ: $(diff digest.1 digest.2 | head -n 4)"
}

# What a checkpoint's files hold apart from the number of the run that wrote them, and the checksums over it. A rank's file
# has both in bytes 48 to 63.
meta_of() {
    grep -vE '^(run|xxh3) = ' "$1"
}

slices_of() {
    head -c 48 "$1"
    tail -c +65 "$1"
}

# The newest checkpoints of two folders are the same to the last bit: masters, moments, meta.
same_checkpoint() {
    local a b file
    a=$(ls -d "$1"/step-???????? | tail -n 1)
    b=$(ls -d "$2"/step-???????? | tail -n 1)
    [ "$(ls "$a")" = "$(ls "$b")" ] || fail "$a and $b hold other files"
    diff <(meta_of "$a/meta") <(meta_of "$b/meta") >diff.txt || fail "$a and $b differ: $(head -n 3 diff.txt)"
    for file in "$a"/rank-*.bin; do
        cmp <(slices_of "$file") <(slices_of "$b/${file##*/}") >diff.txt || fail "$file: $(cat diff.txt)"
    done
}

# wait_for SECONDS command...: until it succeeds.
wait_for() {
    local tries=$(($1 * 20))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "waited in vain for: $*"
        sleep 0.05
    done
}

# gone PID: that process has ended, whether or not its parent knows yet.
gone() {
    [ ! -e "/proc/$1/exe" ]
}

# lines_of FILE at least COUNT
has_lines() {
    [ -f "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ]
}
