#!/usr/bin/env bash
# What a compiler may leave out without changing a result: each instruction level asks for outputs ahead, each line of
# a matrix in a loop and the last byte of a row besides.
set -euo pipefail
library=$1/lib/libmpt.so
if [ "$(uname -m)" != x86_64 ] || ! command -v objdump >/dev/null; then
    echo "skipped: needs objdump and an x86-64 machine"
    exit 77
fi
code=$(objdump -d --no-show-raw-insn "$library")
if ! grep -q '<mpt_cpu_gemm_fetch_operands_avx2>:' <<<"$code"; then
    echo "skipped: $library has no symbols"
    exit 77
fi
for level in portable avx2 avx512 avx512_bf16 amx; do
    # The function's own instructions, or those of the helper that it calls, which stands before it.
    asked=$(awk -v name="<mpt_cpu_gemm_fetch_operands_$level>:" '
        /^[0-9a-f]+ <.*>:$/ { inside = $2 == name; helper = $2 == "<fetch_matrix>:"; if (helper) found = 0 }
        helper && /prefetch/ { found++ }
        inside && /prefetch/ { count++ }
        inside && /(call|jmp)q? .*<fetch_matrix>/ { count += found }
        END { print count + 0 }' <<<"$code")
    [ "$asked" -ge 2 ] || { echo "$level: outputs are not asked for: the compiler dropped the prefetches" >&2; exit 1; }
    echo "$level: outputs are asked for"
done
