"""dpo.py: the loss by hand, log-probabilities against a loop over tokens, pairs cut to the row."""
import math

import pytest
import torch

from common import digest, render_pair
from dpo import answer_logps, dpo_loss, evaluate_pairs, reference_logps
from machine import Env
from toy import chat, tiny_model, write_tokenizer
from train.rows import pack_conversations

torch.set_num_threads(1)
ENV = Env(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tok"))


def pair_of(question, chosen, rejected):
    return {"chosen": chat(question, chosen), "rejected": chat(question, rejected)}


def two_turns(last):
    return {"messages": chat("two", "turns")["messages"] + chat("and?", last)["messages"]}


PAIRS = [pair_of(f"{i}?" * (1 + i % 4), "yes " * (1 + i % 3), "no" * (i % 5) + "!")
         for i in range(23)]
PAIRS.append({"chosen": two_turns("good"), "rejected": two_turns("bad")})


def pack_pairs(tok, folder, pairs=PAIRS, seq_len=95):
    return pack_conversations(folder / "pairs.rows", lambda: iter(pairs), tok, seq_len,
                              {"pairs": digest(pairs)}, ENV, need_target=True,
                              render=lambda pair: render_pair(pair, tok, seq_len + 1))


# ---- the loss ----

def test_the_loss_is_ln_2_a_pair_before_training_and_a_tie_is_not_right():
    logps = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0)) * 50
    is_pair = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    loss, sums = dpo_loss(logps, logps, is_pair, beta=0.1)
    assert loss.item() == pytest.approx(is_pair.sum().item() * math.log(2), rel=1e-6)
    assert sums["margin"] == 0 and sums["accuracy"] == 0


def test_the_loss_by_hand():
    policy = torch.tensor([[-10.0, -12.0], [-5.0, -3.0]])
    reference = torch.tensor([[-11.0, -11.0], [-5.0, -4.0]])
    loss, sums = dpo_loss(policy, reference, torch.tensor([True, True]), beta=0.5)
    # The margins are 1.0 and -0.5.
    margins = [0.5 * ((-10 + 11) - (-12 + 11)), 0.5 * (0 - (-3 + 4))]
    assert loss.item() == pytest.approx(sum(math.log(1 + math.exp(-m)) for m in margins), rel=1e-6)
    assert {key: value.item() for key, value in sums.items()} == pytest.approx(
        dict(loss=loss.item(), accuracy=1, margin=0.5, chosen=0.5, rejected=0.0))
    alone, sums = dpo_loss(policy, reference, torch.tensor([True, False]), beta=0.5)
    assert alone.item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)
    assert sums["margin"] == 1 and sums["accuracy"] == 1


def test_the_gradient_pushes_the_chosen_up_and_the_rejected_down_and_ignores_what_is_no_pair():
    policy = torch.zeros(1, 2, 2, requires_grad=True)
    is_pair = torch.tensor([[True, False]])
    loss, _ = dpo_loss(policy, torch.zeros(1, 2, 2), is_pair, beta=0.2)
    loss.backward()
    # The gradient of a margin is beta * sigmoid(0).
    assert policy.grad[0, 0].tolist() == pytest.approx([-0.1, 0.1])
    assert not policy.grad[0, 1].any()


@pytest.mark.parametrize("gap", [1e3, -1e3, 1e6, -1e6])
def test_extreme_margins_stay_finite(gap):
    policy = torch.tensor([[gap, 0.0]], requires_grad=True)
    loss, sums = dpo_loss(policy, torch.zeros(1, 2), torch.tensor([True]), beta=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(max(0.0, -gap), abs=1e-6)
    assert torch.isfinite(policy.grad).all()


def test_shapes_that_differ_are_an_error():
    with pytest.raises(ValueError, match="differ"):
        dpo_loss(torch.zeros(3, 2), torch.zeros(4, 2), torch.ones(3).bool(), 0.1)


# ---- the log-probabilities ----

def logp_token_by_token(model, tok, conversation):
    """The sum of log p over the tokens the mask selects, one by one, alone in the row, no mean."""
    ids, mask = tok.render_conversation(conversation)
    logps = model(torch.tensor([ids]))[0].double().log_softmax(-1)
    total = 0.0
    for t in range(1, len(ids)):
        if mask[t]:
            total += logps[t - 1, ids[t]].item()
    return total


def test_packed_logps_equal_a_loop_over_the_tokens_of_each_answer(tok, tmp_path):
    model = tiny_model()
    rows = pack_pairs(tok, tmp_path)
    # Several pairs share a row.
    assert len(rows) < len(PAIRS)
    ids, targets = rows.batch(slice(None), only_learned=True)
    logps, is_pair = answer_logps(model, ids, targets)
    assert logps.dtype == torch.float32 and logps.shape == (len(rows), 47, 2)
    assert is_pair.sum() == len(PAIRS)
    expected = [[logp_token_by_token(model, tok, pair["chosen"]),
                 logp_token_by_token(model, tok, pair["rejected"])] for pair in PAIRS]
    # Packing changes the order of the pairs.
    torch.testing.assert_close(torch.tensor(sorted(logps[is_pair].tolist())),
                               torch.tensor(sorted(expected)), rtol=1e-4, atol=1e-3)
    assert not logps[~is_pair].any()


def test_the_reference_is_the_same_in_any_batches_and_leaves_no_gradient(tok, tmp_path):
    model = tiny_model()
    rows = pack_pairs(tok, tmp_path)
    logps, is_pair = answer_logps(model, *rows.batch(slice(None), only_learned=True))
    for batch_size in 1, 3, len(rows):
        cached, cached_is_pair = reference_logps(model, rows, batch_size, ENV)
        torch.testing.assert_close(cached, logps, rtol=1e-4, atol=1e-3)
        assert torch.equal(cached_is_pair, is_pair) and not cached.requires_grad
    policy = tiny_model(seed=1)
    whole = evaluate_pairs(policy, rows, reference_logps(model, rows, 3, ENV), len(rows), len(rows),
                           0.1, ENV)
    apart = evaluate_pairs(policy, rows, reference_logps(model, rows, 2, ENV), 1, 999, 0.1, ENV)
    assert apart == pytest.approx(whole, rel=1e-3)
    found, _ = answer_logps(policy, *rows.batch(slice(None), only_learned=True))
    loss, sums = dpo_loss(found, logps, is_pair, 0.1)
    assert whole["loss"] == pytest.approx(loss.item() / len(PAIRS), rel=1e-3)
    assert whole["accuracy"] == sums["accuracy"].item() / len(PAIRS)


def test_every_pair_weighs_the_same_however_long(tok, tmp_path):
    """However pairs are packed, the gradient of a step is the mean of each pair's own gradient."""
    model = tiny_model()
    reference = tiny_model(seed=1)
    pairs = [pair_of("a", "b", "c"), pair_of("a" * 20, "b" * 15, "c")]

    def gradient(some):
        rows = pack_pairs(tok, tmp_path, some, 127)
        ids, targets = rows.batch(slice(None), only_learned=True)
        logps, is_pair = answer_logps(model, ids, targets)
        frozen_logps, _ = reference_logps(reference, rows, 1, ENV)
        loss, _ = dpo_loss(logps, frozen_logps, is_pair, 0.1)
        return torch.autograd.grad(loss / is_pair.sum(), model.parameters())

    for g, g_1, g_2 in zip(gradient(pairs), gradient(pairs[:1]), gradient(pairs[1:])):
        torch.testing.assert_close(g, (g_1 + g_2) / 2, rtol=1e-3, atol=1e-4)


# ---- pairs in rows ----

def test_both_sides_of_a_pair_have_one_prompt_and_its_mask_is_0(tok):
    for pair in PAIRS:
        ids, mask, cut = render_pair(pair, tok, 96)
        second = ids.index(tok.special("<|bos|>"), 1)
        sides = [(ids[:second], mask[:second]), (ids[second:], mask[second:])]
        assert not cut
        assert sides == [tok.render_conversation(pair["chosen"]),
                         tok.render_conversation(pair["rejected"])]
        prompt = tok.render_for_completion(pair["chosen"])
        # Both sides of a pair begin with the same prompt.
        assert all(side[:len(prompt)] == prompt for side, _ in sides)
        if len(pair["chosen"]["messages"]) == 2:
            for _, side_mask in sides:
                assert not any(side_mask[:len(prompt)]) and all(side_mask[len(prompt):])


@pytest.mark.parametrize("question, chosen, rejected", [
    (5, 10, 200), (5, 200, 10), (5, 200, 200), (20, 30, 40), (38, 1, 1), (5, 0, 77)])
def test_pairs_longer_than_a_row_lose_the_end_of_the_longer_side(tok, question, chosen, rejected):
    pair = pair_of("q" * question, "c" * chosen, "r" * rejected)
    ids, mask, cut = render_pair(pair, tok, 96)
    whole = [tok.render_conversation(pair[side]) for side in ("chosen", "rejected")]
    total = sum(len(ids) for ids, _ in whole)
    assert len(ids) == len(mask) == min(96, total) and cut == max(0, total - 96)
    second = ids.index(tok.special("<|bos|>"), 1)
    halves = [(ids[:second], mask[:second]), (ids[second:], mask[second:])]
    for (got, got_mask), (full, full_mask) in zip(halves, whole):
        assert got == full[:len(got)] and got_mask == full_mask[:len(got)] and any(got_mask)
        # A side that takes half a row or less stays whole.
        assert len(got) == len(full) or len(got) >= 48


def test_pairs_whose_answer_is_cut_away_are_left_out_and_counted(tok, tmp_path, capsys):
    too_long = [pair_of("q" * 300, "a", "b"), pair_of("q" * 60, "a", "b")]
    rows = pack_pairs(tok, tmp_path, PAIRS + too_long)
    assert rows.header["stats"]["without_target"] == 2
    assert "2 left out" in capsys.readouterr().out
    logps, is_pair = answer_logps(tiny_model(), *rows.batch(slice(None), only_learned=True))
    assert is_pair.sum() == len(PAIRS)
