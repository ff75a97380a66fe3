# shellcheck shell=bash
# Sourced by the tests of the command line alone, without mpirun: $1 is the build folder, $2 the source folder. Works in a
# folder of its own, which goes away in the end. A check that fails shows what the last run wrote and ends the test.
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
