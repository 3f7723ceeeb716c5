#!/usr/bin/env bash
# The whole chain with one command. After an interruption, run it again: it skips what is done
# and goes on where it stopped.
#   bash run.sh            everything on this machine, from the text that is on it: some 20 minutes
#                          on 2 CPU cores with bfloat16, half an hour to an hour without
#   bash run.sh 60         the same with 60 minutes of time: more text, more questions, and from
#                          some hours on a deeper model; in out/60. budget.py has the rules
#   bash run.sh 60 --plan  only say what that would be, and how long each stage would take
#   bash run.sh test       the linter and the tests
#   bash run.sh speedrun   depth 20 on downloaded data, over all GPUs of this machine
# Everything is written below out/; `rm -r out` starts over.
set -euo pipefail
cd "$(dirname "$0")"

fail() { echo "error: $*" >&2; exit 2; }
what=${1:-demo}
minutes=0
case "$what" in
    demo | test | speedrun) ;;
    *) [[ $what =~ ^[1-9][0-9]{0,4}$ ]] || fail "bash run.sh [MINUTES|test|speedrun], not '$what'"
        minutes=$what
        what=demo ;;
esac
only_plan=
if [ "$what" = demo ] && [ "${2:-}" = --plan ]; then only_plan=yes; shift; fi
[ $# -le 1 ] || fail "bash run.sh [MINUTES [--plan]|test|speedrun], not '$*'"

# ---- the environment: .venv with the pinned packages, made once ----
python=.venv/bin/python
case "$what" in
    demo) extras="[report]" ;;
    test) extras="[test]" ;;
    speedrun) extras="[data,report]" ;;
esac
want="$(cksum < pyproject.toml) $extras"
has_pip() { $python -c "import pip" 2>/dev/null; }
# What an interrupted or failed attempt has left is made anew.
if [ ! -x $python ] || { [ ! -e .venv/installed ] && ! has_pip; }; then
    command -v python3 >/dev/null || fail "no python3 on this machine; install Python 3.11 or newer"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$(python3 --version) is too old; tok2chat needs 3.11 or newer"
    # Debian's Python, which Colab has, lacks what venv installs pip with: then pip does it itself.
    python3 -m venv .venv >/dev/null 2>&1 ||
        { python3 -m venv --without-pip .venv && python3 -m pip --python $python install -q pip; } ||
        fail "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv"
fi
if ! grep -qxF "$want" .venv/installed 2>/dev/null; then
    echo "installing the packages that pyproject.toml pins into .venv"
    $python -m pip install -q --disable-pip-version-check -e ".$extras"
    echo "$want" >> .venv/installed
fi

if [ "$what" = test ]; then
    $python -m ruff check .
    # A process for each core. The tests of a file stay together: they share what it has made.
    export OMP_NUM_THREADS=1
    exec $python -m pytest -q -n auto --maxprocesses 4 --dist loadfile tests
fi

# ---- the stages: each reads what the one before it wrote ----
out=out
# Each tier keeps its own tokenizer and checkpoints.
[ "$what" = demo ] || out=out/speedrun
[ $minutes = 0 ] || out=out/$minutes
if [ "$only_plan" ]; then exec $python budget.py --minutes $minutes; fi
mkdir -p $out
before=

# stage NAME MARKER COMMAND...: run the command, unless it is done; resume it if it was interrupted.
stage() {
    local name=$1 marker=$out/$2 start=$(date +%s) made_from answers; shift 2
    # A stage is done if it was made from the stage before as that one is now. MARKER.from holds the
    # checksum of that stage's marker, so a copied out/ is recognised. If someone ran the stage by
    # hand, MARKER.from is missing, and the times of the files decide.
    made_from=$([ -z "$before" ] || cksum < "$before")
    if [ -e "$marker" ] && { [ "$made_from" = "$(cat "$marker.from" 2>/dev/null)" ] ||
                             { [ ! -e "$marker.from" ] && ! [ "$before" -nt "$marker" ]; }; }; then
        echo "== $name: done before"
    else
        if [ -d "$out/$name.part" ] || [ -d "$out/$name.part.old" ]; then set -- "$@" --resume; fi
        echo "== $name: $*"
        "$@"
        echo "$made_from" > "$marker.from"
        echo "$name $(($(date +%s) - start))" >> $out/times.txt
        # The page grows with every stage, for some 3 seconds each. At the end all stages answer the
        # same questions for it. A run never fails by it.
        [ "$name" = evaluate ] && answers= || answers="--answers 0"
        $python report.py --out $out $answers > /dev/null || true
    fi
    before=$marker
}

if [ "$what" = demo ]; then
    # What the stages need to know of each other's times and, with MINUTES, their sizes.
    $python budget.py --minutes $minutes --out $out --save
    planned() { sed -n "s/^$1 //p" $out/plan.txt; }
    folder=
    [ $out = out ] || folder="--out $out"
    stage tokenizer tokenizer/tokenizer.json $python tokenizer.py $folder
    # A thread of OpenMP that waits for another lets go of its core sooner. Beside a busy program
    # training is then twice as fast, and alone as fast as before, with the same bits. Generation
    # would be slower, so distill.py and evaluate.py go without.
    export GOMP_SPINCOUNT=10000
    for name in pretrain midtrain sft dpo; do
        stage $name $name/meta.json $python $name.py $folder $(planned $name)
    done
    unset GOMP_SPINCOUNT
    stage distill distill/meta.json $python distill.py $folder $(planned distill)
    stage evaluate report.json $python evaluate.py $folder --report
    cat $out/report.md
    echo "Talk to it:  .venv/bin/python chat.py${folder:+ $folder}"
fi

if [ "$what" = speedrun ]; then
    gpus=$($python -c 'import torch; print(torch.cuda.device_count())')
    [ "$gpus" -gt 0 ] ||
        fail "bash run.sh speedrun needs a CUDA GPU, and torch sees none; without one: bash run.sh"
    on_gpus=".venv/bin/torchrun --standalone --nproc_per_node=$gpus"
    text=data/downloads/climbmix
    # Depth 20 and 32,768 tokens make 438 million matrix weights, and 12 tokens for each are
    # 5.3 billion. A shard of 250 million characters holds some 52 million tokens, so 110 shards are
    # one epoch and a little to spare.
    $python data/download.py climbmix --shards 110
    $python data/download.py smoltalk mmlu gsm8k arc ultrafeedback hh humaneval core

    stage tokenizer tokenizer/tokenizer.json $python tokenizer.py --out $out --data $text \
        --vocab_size 32768 --max_chars 1000000000
    stage pretrain pretrain/meta.json $on_gpus pretrain.py --out $out --data $text --depth 20 \
        --seq_len 2048 --eval_every 500 --sample_every 1000
    stage midtrain midtrain/meta.json $on_gpus midtrain.py --out $out --mixture downloads
    stage sft sft/meta.json $on_gpus sft.py --out $out --mixture downloads
    stage dpo dpo/meta.json $on_gpus dpo.py --out $out --mixture downloads
    stage distill distill/meta.json $on_gpus distill.py --out $out --mixture downloads
    stage rl rl/meta.json $on_gpus rl.py --out $out --mixture downloads
    stage evaluate report.json $on_gpus evaluate.py --out $out --report --items 0 --max_tokens 512 \
      --tasks mmlu,arc_easy,arc_challenge,gsm8k,humaneval,spelling_bee,simple_spelling,identity,core
    cat $out/report.md
    echo "Talk to it:  .venv/bin/python chat.py --out $out --serve"
fi
