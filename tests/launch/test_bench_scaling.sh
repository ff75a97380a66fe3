#!/usr/bin/env bash
# `bench scaling`: the same work by one rank alone and by more, under mpirun: what is printed, that it agrees with itself,
# what is left out, what is refused. $1: build folder, $2: sources.
. "$(dirname "${BASH_SOURCE[0]}")/faults_lib.sh"
. "$source_dir/tests/launch/json_lib.sh"
prepare

value() { # value KEY: of the whole run
    sed 's/"points".*//' out | grep -oE "\"$1\": [^,]*" | sed 's/^[^:]*: //'
}

point() { # point RANKS KEY: of that many ranks
    grep -oE "\{\"ranks\": $1, [^}]*\}" out | grep -oE "\"$2\": [^,}]*" | sed 's/^[^:]*: //'
}

near() { # near EXPRESSION EXPRESSION: the same number, but for rounding
    awk "BEGIN { a = $1; b = $2; exit !((a - b) ^ 2 <= 1e-18 * b ^ 2) }" || fail "$1 is not $2"
}

holds() { # holds AWK-CONDITION
    awk "BEGIN { exit !($1) }" || fail "not so: $1"
}

echo "two ranks: a row each, told by rank 0 alone, nothing saved"
run 0 2 bench scaling test.cfg --steps 3
for ranks in 1 2; do
    [ "$(grep -cE "^ +$ranks +[0-9.]+ +[0-9]" out)" -eq 1 ] || fail "$ranks ranks have not one row"
    [ "$(grep -cE "^$ranks ranks?: step [1-3]: " err)" -eq 3 ] || fail "not three timed steps of $ranks ranks"
done
has out '^test.cfg: .*256 tokens a rank and step: 4 micro-steps of 2 sequences$'
has out '^weak-scaling efficiency of 2 ranks: [0-9.]+ %'
hasnt out '( nan|nan%| inf )'
[ ! -e run ] || fail "checkpoints or metrics were written"

echo "efficiency is that of the rates, work and threads are the same a rank"
run 0 2 bench scaling test.cfg --steps 3 --set threads=0 --json
is_object
near "$(value efficiency)" "$(value tokens_per_s) / 2 / $(value tokens_per_s_alone)"
near "$(value tokens_per_s)" "$(point 2 tokens_per_s)"
near "$(value tokens_per_s_alone)" "$(point 1 tokens_per_s)"
near "$(point 2 efficiency)" "$(value efficiency)"
near "$(point 1 efficiency)" 1
holds "$(value efficiency_least) <= $(value efficiency_most)"
holds "$(point 2 tokens_per_step) == 2 * $(point 1 tokens_per_step)"
holds "$(point 2 threads) == $(point 1 threads)"
for ranks in 1 2; do
    holds "$(point $ranks steps) == 3 && $(point $ranks step_s) > 0 && $(point $ranks share_of_peak) > 0"
    holds "$(point $ranks flops_model_per_s) > $(point $ranks flops_6nd_per_s)"
    holds "$(point $ranks least_comm_s) <= $(point $ranks comm_s)"
    holds "$(point $ranks exposed_comm_s) <= $(point $ranks comm_s) * 1.001"
done
holds "$(point 2 exposed_comm_s) > 0 && $(point 1 bytes_sent_per_step) == 0"
sent=$(point 2 bytes_sent_per_step)

echo "four ranks: two of them do what two alone do; whoever waits leaves its core alone"
run 0 4 bench scaling test.cfg --steps 2 --set train.global_batch=32 --json
is_object
[ "$(point 2 bytes_sent_per_step)" = "$sent" ] || fail "two of four ranks do not send $sent bytes"
[ "$(point 4 tokens_per_step)" = 1024 ] || fail "the batch is not that of all ranks"
[ "$(point 2 tokens_per_step)" = 512 ] || fail "two ranks have not half of it"
holds "$(value waiters_busy) < 0.1"

echo "without hsdp's groups there is zero3"
run 0 4 bench scaling test.cfg --steps 1 --set parallel.shard=hsdp --set parallel.shard_ranks=2 --json
for ranks in 1 2 4; do
    [ "$(point $ranks left_out)" = null ] || fail "$ranks ranks were left out"
done
[ "$(value shard)" = '"hsdp"' ] || fail "not in the config's mode"

echo "one rank whose memory does not suffice is left out, and nothing is compared with it"
larger=(--set parallel.shard=zero3 --set model.dim=128 --set model.layers=4) # 25 MiB alone, 16 in two
MPT_MEMORY=20M run 0 2 bench scaling test.cfg --steps 1 "${larger[@]}"
has out '^ +1 left out: .*MPT_MEMORY'
hasnt out 'weak-scaling efficiency of'
MPT_MEMORY=20M run 0 2 bench scaling test.cfg --steps 1 "${larger[@]}" --json
is_object
for key in efficiency efficiency_least efficiency_most tokens_per_s_alone; do
    [ "$(value $key)" = null ] || fail "$key was not measured"
done
[ "$(point 1 step_s)$(point 1 comm_s)$(point 1 least_comm_s)$(point 1 threads)" = nullnullnullnull ] ||
    fail "figures of a session that never was"
holds "$(point 2 tokens_per_s) == $(value tokens_per_s)"

echo "what cannot be run is one line, and the exit code of its kind on every rank"
one_line() { # one_line PATTERN: apart from what mpirun says
    [ "$(grep -cE -- "$1" err)" -eq 1 ] || fail "not one line with \"$1\""
    [ ! -s out ] || fail "output where there is nothing to show"
}
for ranks in 0 1; do
    run 2 "$ranks" bench scaling test.cfg
    one_line '^mpt-ddp bench scaling: one rank has none to be compared with'
done
run 2 2 bench scaling test.cfg --set train.global_batch=18
one_line 'train.global_batch = 18'
run 2 2 bench scaling test.cfg --compute fp9
one_line 'precision.compute = fp9'
run 2 2 bench scaling nothere.cfg
one_line 'nothere.cfg'
MPT_MEMORY=100K run 4 2 bench scaling test.cfg
one_line 'MPT_MEMORY'
run 3 2 bench scaling test.cfg --set data.train=nothere.bin
has err 'nothere.bin'
for words in "--steps 0" "--stepps 3" "--threads none" "another.cfg"; do
    # shellcheck disable=SC2086
    run 2 2 bench scaling test.cfg $words
    says '^mpt-ddp bench scaling: '
done

echo "help is asked of one rank"
run 0 2 bench scaling --help
[ "$(grep -c '^usage: mpt-ddp bench scaling \[model.cfg\]' out)" -eq 1 ] || fail "not one help text"

exit 0
