"""train/rows.py: packing loses nothing; a batch is a function of its step; torn files are seen."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common import SPECIAL_TOKENS
from machine import Env
from toy import chat, write_tokenizer
from train.rows import (
    LEARN,
    PAD,
    Rows,
    describe_sources,
    micro_batches,
    my_share,
    pack_conversations,
    pack_documents,
    read_ahead,
    step_indices,
)

ENV = Env(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tok"))


def random_texts(n, longest, seed=0):
    """Empty, short, long and non-ASCII documents."""
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ab é🙂\n"), rng.integers(0, longest))) for _ in range(n)]


def pack_texts(path, texts, tok, seq_len, env=ENV, **made_from):
    return pack_documents(path, lambda: iter(texts), tok, seq_len, made_from, env)


def pack_chats(path, chats, tok, seq_len, env=ENV, **kwargs):
    return pack_conversations(path, lambda: iter(chats), tok, seq_len, {}, env, **kwargs)


# ---- documents ----

@pytest.mark.parametrize("seq_len, longest", [(1, 5), (7, 20), (16, 4), (64, 300), (64, 30)])
def test_documents_lose_nothing_keep_their_order_and_every_row_starts_with_bos(
        tok, tmp_path, seq_len, longest):
    # Special tokens in the text must stay ordinary text.
    typed = "".join(SPECIAL_TOKENS) + "<|endoftext|>"
    texts = random_texts(300, longest) + [typed] * 3
    bos = tok.special("<|bos|>")
    rows = pack_texts(tmp_path / "x.rows", texts, tok, seq_len)
    assert rows.records.dtype.names == ("ids",)
    ids = rows.records["ids"]
    assert ids.shape[1] == seq_len + 1 and (ids[:, 0] == bos).all()
    everything = [id for text in texts for id in tok.encode(text)]
    kept = [id for row in ids.tolist() for id in row if id != bos]
    # Only the end of the last document may be missing, less than a row.
    assert kept == everything[:len(kept)] and len(everything) - len(kept) <= seq_len
    # Every token is a target, <|bos|> too.
    batch, targets = rows.batch([0, 1])
    assert torch.equal(batch[:, 1:], targets[:, :-1]) and (targets >= 0).all()


def test_documents_begin_where_bos_stands(tok, tmp_path):
    """Between two <|bos|> is one document, or a piece of one that crosses the end of a row."""
    texts = [f"document {i:02}" for i in range(50)]
    ids = pack_texts(tmp_path / "x.rows", texts, tok, 39).records["ids"]
    pieces = [tok.decode(piece) for row in ids.tolist()
              for piece in split(row, tok.special("<|bos|>"))]
    whole = [piece for piece in pieces if piece in texts]
    assert whole == sorted(whole, key=texts.index) and len(whole) > 30
    assert all(any(piece in text for text in texts) for piece in pieces)


def split(row, bos):
    """[bos, 1, 2, bos, 3] -> [[1, 2], [3]]."""
    pieces = []
    for id in row:
        if id == bos:
            pieces.append([])
        else:
            pieces[-1].append(id)
    return pieces


# ---- conversations ----

def random_chats(n, longest, seed=0):
    rng = np.random.default_rng(seed)
    return [chat(f"{i} " + "q" * rng.integers(0, longest), "a" * rng.integers(0, longest))
            for i in range(n)]


def conversations_in(rows, tok):
    """Every conversation of the rows, as (ids, mask) without padding."""
    bos = tok.special("<|bos|>")
    found = []
    for ids, mask in zip(rows.records["ids"].tolist(), rows.records["mask"].tolist()):
        n = len(ids) - mask.count(PAD)
        assert PAD not in mask[:n] and ids[n:] == [bos] * (len(ids) - n) and ids[0] == bos
        starts = [i for i in range(n) if ids[i] == bos] + [n]
        found += [(ids[a:b], mask[a:b]) for a, b in zip(starts, starts[1:])]
    return found


# 10,000 conversations are more than one window of the packer.
@pytest.mark.parametrize("seq_len, n", [(79, 50), (255, 10000)])
def test_every_conversation_that_fits_is_there_exactly_once_and_whole(tok, tmp_path, seq_len, n):
    chats = random_chats(n, 30)
    rows = pack_chats(tmp_path / "x.rows", chats, tok, seq_len)
    expected = [tok.render_conversation(c) for c in chats]
    assert max(len(ids) for ids, _ in expected) <= seq_len + 1
    assert sorted(conversations_in(rows, tok)) == sorted(expected)
    stats = rows.header["stats"]
    assert stats["conversations"] == n and stats["cut"] == 0
    assert stats["supervised"] == sum(sum(mask) for _, mask in expected)
    padding = (rows.records["mask"] == PAD).mean()
    assert stats["padded"] == pytest.approx(padding, abs=1e-4)
    # Rows of a realistic length waste less than 1 %.
    assert seq_len < 100 or padding < 0.01


def test_conversations_longer_than_a_row_are_cut_without_an_end_to_learn(tok, tmp_path):
    """The packer must not look forever for a row that could hold them.

    A cut answer must not teach the model to stop in the middle.
    """
    chats = random_chats(40, 200) + [chat("q" * 100, "lost")]
    rows = pack_chats(tmp_path / "x.rows", chats, tok, 31)
    expected = [tok.render_conversation(c, max_tokens=32) for c in chats]
    assert sorted(conversations_in(rows, tok)) == sorted(expected)
    lengths = [len(tok.render_conversation(c)[0]) for c in chats]
    assert rows.header["stats"]["cut"] == sum(n > 32 for n in lengths) > 20
    assert rows.header["stats"]["cropped"] == sum(max(0, n - 32) for n in lengths)

    learned = pack_chats(tmp_path / "y.rows", chats, tok, 31, need_target=True)
    with_target = [(ids, mask) for ids, mask in expected if any(mask)]
    assert sorted(conversations_in(learned, tok)) == sorted(with_target)
    without_target = len(expected) - len(with_target)
    assert learned.header["stats"]["without_target"] == without_target > 0


def test_targets_are_the_next_ids_where_their_mask_says_so_and_never_padding(tok, tmp_path):
    rows = pack_chats(tmp_path / "x.rows", random_chats(60, 40), tok, 95)
    everyone = np.arange(len(rows))
    record_ids = rows.records["ids"].astype(int)
    record_mask = rows.records["mask"]
    for only_learned in True, False:
        ids, targets = rows.batch(everyone, only_learned)
        assert ids.dtype == targets.dtype == torch.int64
        assert ids.shape == targets.shape == (len(rows), 95)
        for r in everyone:
            for t in range(95):
                mask = record_mask[r, t + 1]
                counts = mask == LEARN if only_learned else mask != PAD
                assert ids[r, t] == record_ids[r, t]
                assert targets[r, t] == (record_ids[r, t + 1] if counts else -1)
    _, learned = rows.batch(everyone, only_learned=True)
    assert (learned != tok.special("<|bos|>")).all()
    assert int((learned >= 0).sum()) == rows.header["stats"]["supervised"]
    # The end of every answer is learned, so that the model learns to stop.
    ends = int((learned == tok.special("<|assistant_end|>")).sum())
    assert ends == 60 and (learned != tok.special("<|assistant_start|>")).all()


@pytest.mark.parametrize("vocab_size, dtype", [(65536, "uint16"), (65537, "uint32")])
def test_the_largest_ids_survive(tmp_path, vocab_size, dtype):
    largest = vocab_size - 1
    bos = vocab_size - 9
    enc = SimpleNamespace(encode_to_numpy=lambda text, **_: np.array([largest, 0, 256]))
    big = SimpleNamespace(vocab_size=vocab_size, fingerprint="big", enc=enc,
                          special=lambda name: bos)
    rows = pack_texts(tmp_path / "x.rows", ["x"] * 10, big, 3)
    assert rows.header["dtype"] == dtype
    assert rows.records["ids"][0].tolist() == [bos, largest, 0, 256]


# ---- the file ----

def test_equal_inputs_give_equal_bytes_and_a_finished_file_is_used_again(tok, tmp_path, capsys):
    chats = random_chats(100, 30)
    for name in "a", "b":
        pack_chats(tmp_path / name, chats, tok, 79)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    capsys.readouterr()

    def never():
        raise AssertionError("packed again")
    rows = pack_conversations(tmp_path / "a", never, tok, 79, {}, ENV)
    assert len(rows) == len(Rows(tmp_path / "b")) and "packed before" in capsys.readouterr().out


def test_another_tokenizer_length_or_source_packs_again(tok, tmp_path, tmp_path_factory):
    texts = random_texts(50, 30)
    other = write_tokenizer(tmp_path_factory.mktemp("other"), pattern=r"\S|\s")
    path = tmp_path / "x.rows"
    before = None
    for t, seq_len, version in (tok, 15, 1), (other, 15, 1), (other, 16, 1), (other, 16, 2):
        made_from = {"version": version}
        rows = pack_texts(path, texts, t, seq_len, **made_from)
        expected = dict(made_from, tokenizer=t.fingerprint, seq_len=seq_len, kind="documents")
        assert rows.header["made_from"] == expected != before
        before = rows.header["made_from"]


@pytest.mark.parametrize("spoil", [
    lambda b: b"", lambda b: b[:10], lambda b: b[:40], lambda b: b[:-1], lambda b: b[:5000],
    lambda b: b + b"x", lambda b: b"a picture of a cat" + b[18:],
    lambda b: b[:8] + b"\x02" + b[9:], lambda b: bytes(len(b))])
def test_torn_and_foreign_files_are_packed_again_and_never_read(tok, tmp_path, spoil):
    texts = random_texts(50, 30)
    path = tmp_path / "x.rows"
    pack_texts(path, texts, tok, 15)
    good = path.read_bytes()
    path.write_bytes(spoil(good))
    with pytest.raises(ValueError, match="x.rows is not a finished file of rows"):
        Rows(path)
    pack_texts(path, texts, tok, 15)
    assert path.read_bytes() == good


def test_an_error_while_packing_leaves_no_file(tok, tmp_path):
    def texts():
        yield "a" * 100
        raise ValueError("line 2 is broken")
    with pytest.raises(ValueError, match="line 2 is broken"):
        pack_documents(tmp_path / "rows/x.rows", texts, tok, 7, {}, ENV)
    for nothing in [], ["", ""], ["abc"]:
        with pytest.raises(ValueError,
                           match=r"tokens of documents do not fill one row of 8.*--data"):
            pack_texts(tmp_path / "rows/x.rows", nothing, tok, 7)
    assert not list((tmp_path / "rows").iterdir())


def test_conversations_without_an_answer_in_the_row_are_told_as_that(tok, tmp_path):
    with pytest.raises(ValueError, match=r"x.rows: of 3 conversations none has an answer left in a "
                                         r"row of 16 tokens. .*longer --seq_len$"):
        pack_chats(tmp_path / "x.rows", [chat("q" * 100, "lost")] * 3, tok, 15, need_target=True)
    assert not list(tmp_path.iterdir())


def test_sources_are_described_by_what_can_change_them():
    a, b = ["a.txt", "1"], ["b.txt", "2"]
    first = describe_sources([a, b])
    assert first == describe_sources([a, b]) == json.loads(json.dumps(first))
    assert first != describe_sources([b, a])
    assert first != describe_sources([a])
    assert first != describe_sources([a, b], mixture="x")
    assert first != describe_sources([a, ["b.txt", "3"]])
    assert first["n_files"] == 2 and first["listing"] == [a, b]
    assert describe_sources(mixture="x") == describe_sources(mixture="x")
    assert describe_sources(mixture="x") != describe_sources(mixture="y")


def test_many_files_fit_into_the_header_of_the_rows(tok, tmp_path):
    files = [[f"folder/with/a/long/name/{i}.txt", str(i)] for i in range(1000)]
    made_from = describe_sources(files)
    assert made_from["listing"] == files
    rows = pack_texts(tmp_path / "x.rows", ["some text"] * 9, tok, 8, **made_from)
    assert rows.header["made_from"]["files"] == made_from["files"]
    # For millions of files there is a hash alone.
    assert describe_sources(files * 3)["listing"] == []


# ---- batches ----

@pytest.mark.parametrize("n_rows, rows_per_step", [(10, 4), (7, 7), (3, 8), (1, 5), (100, 1)])
def test_each_epoch_visits_every_row_once_in_a_new_order(n_rows, rows_per_step):
    n_steps = 3 * n_rows
    stream = np.concatenate([step_indices(n_rows, step, rows_per_step, seed=5)
                             for step in range(n_steps)])
    epochs = stream[:len(stream) // n_rows * n_rows].reshape(-1, n_rows)
    assert (np.sort(epochs, axis=1) == np.arange(n_rows)).all()
    assert n_rows < 7 or len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_a_step_is_a_pure_function_of_its_number_and_the_seed():
    forward = [step_indices(50, step, 8, seed=1) for step in range(40)]
    backward = [step_indices(50, step, 8, seed=1) for step in reversed(range(40))][::-1]
    assert all((a == b).all() for a, b in zip(forward, backward))
    assert any((a != step_indices(50, step, 8, seed=2)).any() for step, a in enumerate(forward))
    # Steps of twice the size take the same rows in the same order.
    coarse = [step_indices(50, step, 16, seed=1) for step in range(20)]
    assert (np.concatenate(forward) == np.concatenate(coarse)).all()


@pytest.mark.parametrize("world_size, batch_size", [(1, 8), (1, 3), (1, 1), (2, 4), (4, 1), (8, 1)])
def test_ranks_and_micro_batches_cut_the_same_step(tok, tmp_path, world_size, batch_size):
    rows = pack_chats(tmp_path / "x.rows", random_chats(60, 30), tok, 79)
    whole = step_indices(len(rows), 3, 8, seed=0)
    ids, targets = rows.batch(whole, True)
    ranks = [Env(ENV.device, ENV.dtype, rank, world_size) for rank in range(world_size)]
    assert (np.concatenate([my_share(whole, env) for env in ranks]) == whole).all()
    pieces = []
    for env in ranks:
        batches, n_target = micro_batches(rows, 3, 8, batch_size, env, 0, True)
        # Every rank divides by the count of the whole step.
        assert n_target == int((targets >= 0).sum())
        pieces += batches
    assert all(len(ids) <= batch_size for ids, _ in pieces)
    assert torch.equal(torch.cat([ids for ids, _ in pieces]), ids)
    assert torch.equal(torch.cat([targets for _, targets in pieces]), targets)


def test_reading_ahead_gives_the_same_batches_in_order_from_any_step(tok, tmp_path):
    rows = pack_chats(tmp_path / "x.rows", random_chats(60, 30), tok, 79)
    batches_of = lambda step: micro_batches(rows, step, 8, 3, ENV, 0, True)
    for first in 0, 5:
        ahead = read_ahead(batches_of, first, ENV.device)
        for step in range(first, first + 6):
            batches, n_target = next(ahead)
            expected_batches, expected_n_target = batches_of(step)
            assert n_target == expected_n_target and len(batches) == 3
            for (ids, targets), (expected_ids, expected_targets) in zip(batches, expected_batches):
                assert torch.equal(ids, expected_ids) and torch.equal(targets, expected_targets)


def test_an_error_of_the_reading_thread_reaches_the_step_that_needs_the_batch():
    def batches_of(step):
        if step == 2:
            raise OSError("the disk is gone")
        return [], step
    ahead = read_ahead(batches_of, 0, ENV.device)
    assert [next(ahead)[1], next(ahead)[1]] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_a_step_without_targets_divides_by_1(tok, tmp_path):
    rows = pack_chats(tmp_path / "x.rows", [chat("q" * 40, "a")] * 8, tok, 15)
    batches, n_target = micro_batches(rows, 0, 8, 4, ENV, 0, only_learned=True)
    assert n_target == 1 and all((targets == -1).all() for _, targets in batches)


def test_a_long_corpus_is_read_as_a_stream(tok, tmp_path):
    """Packing never holds the whole corpus: rows are written before the last texts are read."""
    path = tmp_path / "x.rows"
    # How much is written whenever a text is asked for.
    asked = []

    def texts():
        for i in range(4000):
            asked.append(path.with_name("x.rows.tmp").stat().st_size)
            yield "text " * 50
    pack_documents(path, texts, tok, 63, {}, ENV)
    assert asked[-1] > 0.5 * path.stat().st_size and asked == sorted(asked)
