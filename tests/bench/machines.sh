#!/usr/bin/env bash
# The demo on each kind of machine that this one can imitate: a table with the seconds of each stage
# and with the skills, known / other wordings in %. Each kind gets a fresh clone of what is committed.
#
#   bash tests/bench/machines.sh                      all kinds; one after the other, for hours
#   bash tests/bench/machines.sh avx2 one-core        these alone
#   bash tests/bench/machines.sh avx2 -- bash run.sh 60     another command
#
# as-is         this machine
# avx2          no AVX-512: PyTorch, oneDNN, MKL and the compilers keep to AVX2, and must say so
# no-compiler   a PATH without C and C++ compilers
# one-core      a single core
# The packages are those of this checkout's .venv, which run.sh has made.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
fail() { echo "error: $*" >&2; exit 2; }

kinds=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case "$1" in
        as-is | avx2 | no-compiler | one-core) kinds+=("$1") ;;
        *) fail "'$1' is none of as-is, avx2, no-compiler, one-core; a command comes behind --" ;;
    esac
    shift
done
[ $# = 0 ] || shift
[ $# -gt 0 ] || set -- bash run.sh
[ ${#kinds[@]} -gt 0 ] || kinds=(as-is avx2 no-compiler one-core)
python=$root/.venv/bin/python
[ -x "$python" ] || fail "$root has no .venv; make it with bash run.sh"
[ -z "$(git -C "$root" status --porcelain --untracked-files=no)" ] ||
    echo "note: what is changed and not committed is not in the clones" >&2
folder=$(mktemp -d)
echo "clones and logs are in $folder" >&2

# A PATH with a link to each program but the compilers.
without_compilers() {
    local programs=$folder/programs part program
    mkdir -p "$programs"
    IFS=: read -ra parts <<< "$PATH"
    for part in "${parts[@]}"; do
        for program in "$part"/*; do
            case "${program##*/}" in
                gcc* | g++* | cc | c++ | clang* | c89* | c99* | *-gcc* | *-g++* | cpp*) ;;
                *) [ -e "$programs/${program##*/}" ] || ln -s "$program" "$programs" ;;
            esac
        done
    done
    echo "$programs"
}

# Compilers for whom this machine has no AVX-512, in a folder for the beginning of PATH.
avx2_compilers() {
    local compilers=$folder/compilers name
    mkdir -p "$compilers"
    for name in cc gcc clang c++ g++ clang++; do
        command -v $name >/dev/null || continue
        printf '#!/bin/sh\nexec %s "$@" -mno-avx512f\n' "$(command -v $name)" > "$compilers/$name"
        chmod +x "$compilers/$name"
    done
    echo "$compilers"
}

# What PyTorch, oneDNN and MKL say that they use; to_mkldnn asks oneDNN, and a product MKL.
# A vector of decode.c has 8 floats with AVX2; without a compiler there is none.
instructions() {
    "$@" env ONEDNN_VERBOSE=1 MKL_VERBOSE=1 OMP_NUM_THREADS=1 PYTHONPATH="$root" "$python" -c '
import torch
from talk.decode import compiled_library
library = compiled_library()
print("decode", library.width() if library else "none")
x = torch.randn(64, 64)
torch.nn.functional.relu(x.to_mkldnn())
x @ x
print("pytorch", torch.backends.cpu.get_cpu_capability())' |
        sed -nE 's/^onednn_verbose.*info,cpu,isa:(.*)/onednn \1/p; /^(pytorch|decode) /p
                 s/^MKL_VERBOSE oneMKL.*(\(R\) AVX[^)]*|SSE4.2|Vector Extensions[^)]*).*/mkl \1/p
                 s/^MKL_VERBOSE oneMKL.*\(R\) Architecture processors.*/mkl unnamed/p'
}

# table_row KIND CLONE SECONDS: a line of the table. What a run has not left is shown as "-".
table_row() {
    "$python" - "$@" <<'PYTHON'
import json, sys
from pathlib import Path
kind, clone, total = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
sys.path.insert(0, str(clone))
from evaluate import SKILLS, TALK

# MINUTES has a folder of its own.
times = sorted(clone.glob("out/**/times.txt"))
seconds, results = {}, {}
if times:
    for line in times[0].read_text().splitlines():
        stage, s = line.split()
        seconds[stage] = seconds.get(stage, 0) + int(s)
    report = times[0].with_name("report.json")
    if report.exists():
        results = list(json.loads(report.read_text()).values())[-1]["tasks"]
share = lambda task: f"{100 * results[task]['accuracy']:.1f}" if task in results else "-"
skills = [f"{share(known)} / {share(other)}" for known, other in (SKILLS | TALK).values()]
stages = ["tokenizer", "pretrain", "midtrain", "sft", "dpo", "distill", "evaluate"]
cells = [kind, *(seconds.get(stage, "-") for stage in stages), total, *skills]
print("| " + " | ".join(map(str, cells)) + " |")
PYTHON
}

# The skills have evaluate.py's names.
skills=$(cd "$root" && "$python" -c 'from evaluate import SKILLS, TALK
print(" | ".join(SKILLS | TALK))')
header="machine | tokenizer | pretrain | midtrain | sft | dpo | distill | evaluate | together, s"
echo "| $header | $skills |"
echo "| $header | $skills |" | sed 's/[^|]\+/---/g'
status=0
for kind in "${kinds[@]}"; do
    # A new place for inductor's cache: every kind compiles for itself.
    as=(env "TORCHINDUCTOR_CACHE_DIR=$folder/$kind-inductor")
    case "$kind" in
        avx2)
            as=(env -u CC -u CXX "${as[@]:1}" "PATH=$(avx2_compilers):$PATH"
                ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2)
            said=$(instructions "${as[@]}")
            # MKL does not say what it uses on AMD's processors. It cannot be what they lack.
            grep -q avx512f /proc/cpuinfo || said=${said/mkl unnamed/mkl AVX2 at most}
            echo "avx2: $(tr '\n' ';' <<< "$said")" >&2
            if [ "$(grep -ciE '^(onednn|mkl|pytorch) .*AVX ?2' <<< "$said")" != 3 ] ||
                   grep -qiE 'AVX-?512|AVX10|AMX|decode (4|16)' <<< "$said"; then
                echo "| avx2 | not imitated: $(tr '\n' ';' <<< "$said") |"
                status=1
                continue
            fi ;;
        no-compiler) as=(env -u CC -u CXX "${as[@]:1}" "PATH=$(without_compilers)") ;;
        one-core) as+=(taskset -c "$("$python" -c 'import os
print(min(os.sched_getaffinity(0)))')") ;;
    esac
    git clone -q "$root" "$folder/$kind"
    ln -s "$root/.venv" "$folder/$kind/.venv"
    start=$(date +%s)
    (cd "$folder/$kind" && "${as[@]}" "$@") > "$folder/$kind.log" 2>&1 < /dev/null || {
        echo "$kind: status $?, $folder/$kind.log" >&2
        status=1
    }
    table_row "$kind" "$folder/$kind" $(($(date +%s) - start))
done
exit $status
