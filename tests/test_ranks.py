"""Two processes under torchrun give what one process gives. This file is also what they run."""
import copy
import dataclasses
import functools
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
# torchrun runs this file as a script.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import machine
from common import save_checkpoint
from machine import Env, setup
from toy import (
    FORKSERVER,
    chat,
    in_child,
    run_script,
    tiny_model,
    write_data,
    write_tokenizer,
)
from train import rows as rows_file
from train.optimizer import Optimizer
from train.rows import Rows, micro_batches, pack_conversations
from train.run import evaluate_loss, saved_settings, start_or_resume

pytestmark = pytest.mark.slow
ROWS_PER_STEP = 8
# One process by itself.
ENV = Env(torch.device("cpu"), torch.float32)


def ragged_chats():
    """Answers of 0 to 60 characters: some rows hold many targets, some few, and one none."""
    chats = [chat("q" * (1 + 7 * i % 40), "a" * (i * i % 61)) for i in range(40)]
    return chats + [chat("q" * 61, "")]


def gradients(model, rows, step, batch_size, env):
    """As the stages do it: the summed loss of a micro-batch, over the targets of the whole step.

    -> the loss, the number of targets, and the gradients; loss and gradients are this rank's alone.
    """
    batches, n_target = micro_batches(rows, step, ROWS_PER_STEP, batch_size, env, seed=3,
                                      only_learned=True)
    total = 0.0
    for ids, targets in batches:
        loss = model(ids, targets, isolate=True) / n_target
        loss.backward()
        total += loss.item()
    return total, n_target, [p.grad for p in model.parameters()]


def new_optimizer(model, env):
    """Orthogonalizing magnifies the rounding of small singular values; a plain update does not."""
    optimizer = Optimizer(model, env, 0.05, 0.3, 0.01, 0.1)
    optimizer.orthogonalize = lambda g, dtype: g / g.norm(dim=(1, 2), keepdim=True)
    return optimizer


def train(model, optimizer, rows, steps, batch_size, env):
    """-> the loss and the gradient norm of each step, as the stages log them."""
    logged = []
    for step in steps:
        loss, _, _ = gradients(model, rows, step, batch_size, env)
        norm = optimizer.step(0.5, 0.95).item()
        logged.append([env.all_sum(torch.tensor(loss)).item(), norm])
    return logged


def equal_on_all_ranks(model, env):
    """On how many ranks the weights equal those of rank 0, to the bit."""
    same = [p.detach().clone() for p in model.parameters()]
    for p in same:
        torch.distributed.broadcast(p, 0)
    is_equal = torch.tensor(int(all(map(torch.equal, same, model.parameters()))))
    return int(env.all_sum(is_equal))


def main(folder):
    """What each of the two ranks does; rank 0 writes the results for the test."""
    folder = Path(folder)
    env = setup("cpu", "float32")
    torch.set_num_threads(1)
    assert env.world_size == 2
    rows = Rows(folder / "x.rows")

    # The gradients of one step, and an evaluation of 5 rows in batches of 2.
    model = tiny_model()
    loss, n_target, grads = gradients(model, rows, 0, 4, env)
    tok = write_tokenizer(folder / str(env.rank))
    result = dict(loss=env.all_sum(torch.tensor(loss)).item(), n_target=n_target,
                  grads=[env.all_sum(g) for g in grads],
                  uneven=evaluate_loss(model, rows, tok, env, 2, 5))

    # The same gradients in bfloat16, in which the ranks send their updates.
    model = tiny_model()
    optimizer = new_optimizer(model, dataclasses.replace(env, dtype=torch.bfloat16))
    gradients(model, rows, 0, 4, env)
    optimizer.step(0.5, 0.95)
    result["bfloat16"] = {name: p.detach() for name, p in model.named_parameters()}
    result["bfloat16_equal"] = equal_on_all_ranks(model, env)

    # Three steps, and a checkpoint of them.
    model = tiny_model()
    optimizer = new_optimizer(model, env)
    result["logged"] = train(model, optimizer, rows, range(3), 2, env)
    result["weights"] = {name: p.detach().clone() for name, p in model.named_parameters()}
    # Only the rank that saves the state copies it to the host.
    result["state"] = copy.deepcopy(optimizer.state_dict())
    assert (result["state"] is None) == (env.rank == 1)
    save_checkpoint(folder / "two.part", model, dict(step=3, settings={}), [], optimizer, env)

    # Two more steps, from the checkpoint of the single process.
    model = tiny_model()
    optimizer = new_optimizer(model, env)
    result["resumed_at"], _ = start_or_resume(folder, "one", {}, True, model, optimizer, env)
    result["after_one"] = train(model, optimizer, rows, range(3, 5), 2, env)
    result["after_one_weights"] = {name: p.detach() for name, p in model.named_parameters()}
    result["equal_on_all_ranks"] = equal_on_all_ranks(model, env)

    # A gradient that is too large on one rank alone: all ranks skip the step.
    model = tiny_model()
    optimizer = new_optimizer(model, dataclasses.replace(env, dtype=torch.float16))
    for p in model.parameters():
        p.grad = torch.full_like(p, math.inf if env.rank == 1 else 1.0)
    assert optimizer.step(1.0, 0.95) == 0
    result["skipped"] = int(env.all_sum(torch.tensor(optimizer.loss_scale.skipped)))
    if env.rank == 0:
        torch.save(result, folder / "result.pt")
    torch.distributed.destroy_process_group()


# ---- what a rank does in the tests of failures and of several nodes ----

def return_at_once():
    """Give gloo the manners of NCCL: all_reduce returns at once; to read a number waits for it."""
    pending = []

    def defer(original, *args, **kwargs):
        pending.append(original(*args, **kwargs, async_op=True))

    def wait_first(original, *args, **kwargs):
        while pending:
            pending.pop().wait()
        return original(*args, **kwargs)

    dist = torch.distributed
    dist.all_reduce = functools.partial(defer, dist.all_reduce)
    for name in "item", "tolist", "__int__", "__float__", "cpu":
        original = getattr(torch.Tensor, name)
        setattr(torch.Tensor, name, functools.partialmethod(lambda self, original: wait_first(
            original, self), original))


def pack_slowly(folder):
    """As at the start of every stage; rank 0 takes its time."""
    return_at_once()
    env = setup("cpu", "float32")
    write_rows = rows_file.write_rows

    def write_slowly(*args):
        time.sleep(1)
        write_rows(*args)
    rows_file.write_rows = write_slowly
    tok = write_tokenizer(Path(folder, f"tokenizer-{env.rank}"))
    rows = pack_conversations(Path(folder, "x.rows"), ragged_chats, tok, 63, {}, env)
    print(f"rank {env.rank} has {len(rows)} rows")


def pack_on_nodes(folder):
    """Each rank has its own folder, as on nodes without a shared one, or they share one."""
    rows_file.PATIENCE = 1
    env = setup("cpu", "float32")
    tok = write_tokenizer(Path(folder, f"tokenizer-{env.rank}"))
    rows = pack_conversations(Path(folder, "rows/x.rows"), ragged_chats, tok, 63, {}, env)
    print(f"{len(rows)} rows")


def fail_on_rank_1(how):
    """Rank 1 ends in the middle of the run; rank 0 waits for it, as in a step of training."""
    env = setup("cpu", "float32")
    env.barrier()
    # NCCL can wait for the other ranks here, and a thread may still read data.
    torch.distributed.destroy_process_group = lambda: time.sleep(1000)
    threading.Thread(target=time.sleep, args=(1000,)).start()
    if env.rank == 1:
        print("a last word")
    if env.rank == 1 and how == "error":
        raise ValueError("no more data")
    if env.rank == 1 and how == "bug":
        raise ZeroDivisionError
    if env.rank == 1 and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "killed":
        env.barrier()
    env.all_sum(torch.zeros(1)).item()


def resume_on_nodes(folder):
    """Rank 0 is late: rank 1 must wait until it has repaired what a crash left."""
    env = setup("cpu", "float32")
    rename = Path.rename

    def slowly(path, target):
        assert env.rank == 0
        time.sleep(0.5)
        return rename(path, target)

    Path.rename = slowly
    model = tiny_model()
    settings = saved_settings(folder, "sft", env)
    step, _ = start_or_resume(folder, "sft", settings, True, model, new_optimizer(model, env), env)
    print(f"goes on at {step}")


RANK_MAINS = dict(pack_slowly=pack_slowly, pack_on_nodes=pack_on_nodes,
                  fail_on_rank_1=fail_on_rank_1, resume_on_nodes=resume_on_nodes)


def set_variables(variables):
    os.environ.update(variables)


def run_ranks(log, main, arguments, world_size=2):
    """Run RANK_MAINS[main](arguments[rank]) in a process for each rank, as two nodes would do it.

    -> the results of the ranks: exit status, stdout, stderr.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    processes = []
    for rank in range(world_size):
        variables = dict(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK="0",
                         MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        processes.append(FORKSERVER.Process(target=in_child, args=(
            "tests/test_ranks.py", [main, arguments[rank]], log / f"rank-{rank}",
            functools.partial(set_variables, variables))))
        processes[rank].start()
    end = time.time() + 300
    for process in processes:
        process.join(max(0, end - time.time()))
    hang = [process for process in processes if process.exitcode is None]
    for process in hang:
        process.kill()
    assert not hang, f"{len(hang)} ranks hang"
    return [SimpleNamespace(status=process.exitcode,
                            stdout=Path(log, f"rank-{rank}.stdout").read_text(),
                            stderr=Path(log, f"rank-{rank}.stderr").read_text())
            for rank, process in enumerate(processes)]


def torchrun(*args):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc_per_node", "2", *map(str, args)]
    return subprocess.Popen(command, env=dict(os.environ, OMP_NUM_THREADS="1"),
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


# ---- the tests ----

@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """-> the folder, the rows, and two dicts: what one process computes, and what two ranks do."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ranks")
    rows = pack_conversations(folder / "x.rows", ragged_chats, write_tokenizer(folder), 63, {}, ENV)
    model = tiny_model()
    optimizer = new_optimizer(model, ENV)
    one = dict(logged=train(model, optimizer, rows, range(3), 8, ENV))
    one["weights"] = {name: p.detach().clone() for name, p in model.named_parameters()}
    one["state"] = copy.deepcopy(optimizer.state_dict())
    save_checkpoint(folder / "one.part", model, dict(step=3, settings={}), [], optimizer, ENV)
    one["after"] = train(model, optimizer, rows, range(3, 5), 8, ENV)
    one["after_weights"] = {name: p.detach().clone() for name, p in model.named_parameters()}
    process = torchrun(__file__, folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return folder, rows, one, torch.load(folder / "result.pt", weights_only=True)


def close(a, b, rel):
    assert (a - b).norm() <= rel * b.norm(), (a - b).norm() / b.norm()


def test_gradients_do_not_depend_on_micro_batches_or_ranks(two):
    """A step of 8 rows in whole, in micro-batches of 1, 2, 3 and 4 rows, and on 2 ranks of 4 rows.

    The rows hold very different numbers of targets: a mean over each micro-batch would differ.
    """
    _, rows, _, ranks = two
    _, targets = rows.batch(range(len(rows)), only_learned=True)
    counts = (targets >= 0).sum(1).tolist()
    assert min(counts) < 5 < 40 < max(counts)
    loss, n_target, whole = gradients(tiny_model(), rows, 0, 8, ENV)
    for batch_size in 1, 2, 4, 3:
        other_loss, other_n, grads = gradients(tiny_model(), rows, 0, batch_size, ENV)
        assert other_n == n_target and other_loss == pytest.approx(loss, rel=1e-5)
        for g, expected in zip(grads, whole):
            close(g, expected, 1e-5)
    assert ranks["n_target"] == n_target and ranks["loss"] == pytest.approx(loss, rel=1e-5)
    for g, expected in zip(ranks["grads"], whole):
        close(g, expected, 1e-5)


def test_two_ranks_train_as_one(two):
    _, _, one, ranks = two
    for a, b in zip(ranks["logged"], one["logged"]):
        assert a == pytest.approx(b, rel=1e-5)
    for name, p in one["weights"].items():
        close(ranks["weights"][name], p, 1e-5)
    assert ranks["equal_on_all_ranks"] == 2


def test_updates_sent_in_bfloat16_differ_by_rounding_alone(two):
    _, rows, _, ranks = two
    start = {name: p.detach().clone() for name, p in tiny_model().named_parameters()}
    model = tiny_model()
    gradients(model, rows, 0, 8, ENV)
    new_optimizer(model, ENV).step(0.5, 0.95)
    assert ranks["bfloat16_equal"] == 2
    for name, p in model.named_parameters():
        rounded = ranks["bfloat16"][name]
        assert not torch.equal(rounded, p)
        # bfloat16 has 8 bits; the decay of the weights is not rounded.
        close(rounded - start[name], p.detach() - start[name], 2 ** -8)


def test_the_optimizers_state_is_cut_anew_for_another_number_of_ranks(two):
    folder, rows, one, ranks = two
    assert ranks["state"].keys() == one["state"].keys() and ranks["state"]["count"] == 3
    for name, tensors in one["state"]["state"].items():
        for ours, theirs in zip(ranks["state"]["state"][name], tensors, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert a.shape == b.shape
                close(a, b, 1e-4)
    # One rank saved, and two went on.
    assert ranks["resumed_at"] == 3
    for name, p in one["after_weights"].items():
        close(ranks["after_one_weights"][name], p, 1e-5)
    # Two ranks saved, and one goes on.
    model = tiny_model()
    optimizer = new_optimizer(model, ENV)
    step, _ = start_or_resume(folder, "two", {}, True, model, optimizer, ENV)
    assert step == 3
    train(model, optimizer, rows, range(3, 5), 8, ENV)
    for name, p in model.named_parameters():
        close(p, one["after_weights"][name], 1e-5)


def test_all_ranks_skip_a_step_that_overflows_on_one_of_them(two):
    assert two[3]["skipped"] == 2


def test_ranks_with_unequal_shares_of_the_evaluation_agree_and_do_not_wait_forever(two):
    folder, rows, _, ranks = two
    # Two ranks shared 5 rows in batches of 2: one had two batches, the other one.
    expected = evaluate_loss(tiny_model(), rows, write_tokenizer(folder), ENV, 4, 5)
    assert ranks["uneven"] == pytest.approx(expected, rel=1e-5)


def test_a_stage_under_torchrun_stops_on_sigterm_and_one_process_goes_on(tmp_path):
    data = write_data(tmp_path / "data")
    outs = [tmp_path / "one", tmp_path / "two"]
    flags = ["--data", data.documents, "--depth", 1, "--seq_len", 64, "--tokens_per_step", 512,
             "--dtype", "float32", "--no-compile", "--steps", 200, "--eval_every", 100,
             "--sample_every", 200, "--save_every", 200]
    for out in outs:
        write_tokenizer(out)
    one = run_script("pretrain.py", "--out", outs[0], *flags, log=tmp_path / "one")
    process = torchrun(ROOT / "pretrain.py", "--out", outs[1], *flags)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step     0/"):
            # torchrun passes the signal on to both ranks.
            process.send_signal(signal.SIGTERM)
    assert process.wait(300) != 0, "".join(lines[-40:])
    assert "".join(lines).count("stopped by SIGTERM") == 1, "".join(lines[-40:])
    stopped = json.loads((outs[1] / "pretrain.part/meta.json").read_text())["step"]
    assert 0 < stopped < 200
    result = run_script("pretrain.py", "--out", outs[1], "--resume", *flags, log=tmp_path / "two")
    assert one.status == result.status == 0, result.stderr

    def losses(out):
        lines = (out / "pretrain/metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        return [m["loss"] for m in metrics if "loss" in m]

    a = losses(outs[0])
    b = losses(outs[1])
    assert len(a) == len(b) == 200 and b[0] == pytest.approx(a[0], rel=1e-5)
    assert b[1:6] == pytest.approx(a[1:6], rel=1e-2)
    assert sum(b[-20:]) == pytest.approx(sum(a[-20:]), rel=0.05)


# ---- what a host may not assume, failures ----

def test_the_others_wait_for_the_rows_that_rank_0_packs(tmp_path):
    ranks = run_ranks(tmp_path, "pack_slowly", [tmp_path, tmp_path])
    assert [rank.status for rank in ranks] == [0, 0], ranks[1].stderr
    assert ranks[0].stdout.splitlines()[-1][7:] == ranks[1].stdout.splitlines()[-1][7:]


def test_two_nodes_share_a_folder_or_have_the_same_rows_or_are_told_so(tmp_path):
    tok = write_tokenizer(tmp_path)
    nodes = [tmp_path / "node-0", tmp_path / "node-1"]
    ranks = run_ranks(tmp_path, "pack_on_nodes", [tmp_path, tmp_path])
    assert [rank.status for rank in ranks] == [0, 0], ranks[1].stderr

    def expect_an_error():
        for rank in run_ranks(tmp_path, "pack_on_nodes", nodes):
            lines = [line for line in rank.stderr.splitlines() if "Warning" not in line]
            assert rank.status == 2, rank.stderr
            assert "not all nodes see the rows that rank 0 packed" in lines[-1]
            assert "--out that all nodes share" in lines[-1] and "Traceback" not in rank.stderr

    # The second node has no rows, then older ones.
    for node in nodes:
        node.mkdir()
    expect_an_error()
    pack_conversations(nodes[1] / "rows/x.rows", lambda: ragged_chats()[:9], tok, 63, {"old": 1},
                       ENV)
    expect_an_error()
    shutil.copy(nodes[0] / "rows/x.rows", nodes[1] / "rows")
    ranks = run_ranks(tmp_path, "pack_on_nodes", nodes)
    assert [rank.status for rank in ranks] == [0, 0], ranks[1].stderr


def test_all_ranks_resume_at_the_same_step_or_none_does(tmp_path):
    model = tiny_model()

    def save(node, step):
        save_checkpoint(tmp_path / node / "sft.part", model, dict(step=step, settings={}), [],
                        new_optimizer(model, ENV), ENV)

    def resume(*nodes):
        results = run_ranks(tmp_path, "resume_on_nodes", [tmp_path / node for node in nodes])
        return [rank.status for rank in results], [
            (rank.stdout + rank.stderr).splitlines()[-1] for rank in results]

    save("a", 7)
    # As a crash between the two renames leaves it.
    (tmp_path / "a/sft.part").rename(tmp_path / "a/sft.part.old")
    assert resume("a", "a") == ([0, 0], 2 * ["goes on at 7"])
    assert [f.name for f in (tmp_path / "a").iterdir()] == ["sft.part"]
    assert resume("none", "none") == ([0, 0], 2 * ["goes on at 0"])
    # The second node has no checkpoint, then an older one.
    for older in 0, 5:
        if older:
            save("b", older)
        statuses, lines = resume("a", "b")
        assert statuses == [2, 2] and all(f"from step {older} to 7" in line for line in lines)
        assert "(rank 0: 7; 0 is none)" in lines[0] and f"(rank 1: {older};" in lines[1]
        assert all(line.startswith("error: --resume: the ranks found") for line in lines)


@pytest.mark.parametrize("how, status, word", [("error", 2, "error: no more data\n"),
                                               ("bug", 1, "ZeroDivisionError"),
                                               ("killed", -signal.SIGKILL, "")])
def test_if_one_rank_fails_all_end_within_a_minute(tmp_path, how, status, word):
    waits, fails = run_ranks(tmp_path, "fail_on_rank_1", [how, how])
    assert fails.status == status and word in fails.stderr, fails.stderr
    assert how == "killed" or fails.stdout == "a last word\n"
    assert waits.status == 2, waits.stderr
    lines = [line for line in waits.stderr.splitlines() if "Warning" not in line]
    assert lines[-1].startswith("error: rank 0 lost another rank"), waits.stderr
    assert "Traceback" not in waits.stderr


if __name__ == "__main__" and sys.argv[1] in RANK_MAINS:
    machine.run(lambda: RANK_MAINS[sys.argv[1]](sys.argv[2]))
elif __name__ == "__main__":
    main(sys.argv[1])
