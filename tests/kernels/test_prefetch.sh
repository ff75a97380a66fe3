#!/usr/bin/env bash
# What a compiler may leave out without changing a result: outputs are asked for ahead, at every instruction level.
set -euo pipefail
library=$(ls "$1"/lib/libmpt.so | head -n 1)
if [ "$(uname -m)" != x86_64 ] || ! command -v objdump >/dev/null; then
    echo "skipped: needs objdump and an x86-64 machine"
    exit 77
fi
code=$(objdump -d --no-show-raw-insn "$library")
for level in portable avx2 avx512 avx512_bf16 amx; do
    asked=$(awk -v name="<mpt_cpu_gemm_fetch_operands_$level>:" '
        $2 == name { inside = 1; found = 1 }
        inside && /^$/ { inside = 0 }
        inside && (/prefetch/ || /call .*fetch_matrix/ || /jmp .*fetch_matrix/) { count++ }
        END { if (!found) exit 1; print count + 0 }' <<<"$code") ||
        { echo "$level: no gemm_fetch_operands in $library" >&2; exit 1; }
    [ "$asked" -gt 0 ] || { echo "$level: outputs are not asked for: the compiler dropped the prefetches" >&2; exit 1; }
    echo "$level: outputs are asked for"
done
