"""The contract that every backend keeps: subclass `ModelContract` and give it a model and a whole pass.

As `langchain-tests` has it for adapters: nothing is overridden but the fixtures. Whatever passes can stand
behind `NBCE`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nbce_rag.errors import InputError
from nbce_rag.kv.store import PassageKVStore
from nbce_rag.models.model import Model, Reading, RowPrompt, Rows, TokenIds

__all__ = ["ModelContract"]


class ModelContract:
    """See the module.

    Attributes:
        tolerance: how far log-probs may be off, nats.
        sums_tolerance: how far sums of several of them may be off, nats.
        most: token ids in use, from 3 to below this.
    """

    tolerance = 1e-4
    sums_tolerance = 2e-3
    most = 39

    @pytest.fixture
    def model(self) -> Model:
        """The backend under test."""
        raise NotImplementedError

    def whole(self, model: Model, ids: TokenIds) -> Tensor:
        """[T, V] log-probs after each token of one row, by one plain pass without anything kept."""
        raise NotImplementedError

    # What the tests are made of.

    def ids(self, count: int, seed: int) -> TokenIds:
        """Token ids at random."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randint(3, self.most, (count,), generator=generator).tolist())

    def prompt(self, *lengths: int, suffix: int = 6, seed: int = 1, **more: object) -> RowPrompt:
        """Rows with contexts of these lengths; 0 is an empty context."""
        contexts = tuple(self.ids(length, 100 * seed + place) for place, length in enumerate(lengths))
        vocabulary = frozenset(token for ids in contexts for token in ids)
        return RowPrompt(contexts, self.ids(suffix, seed), vocabulary=vocabulary, **more)  # type: ignore[arg-type]

    def rows_of(self, prompt: RowPrompt) -> list[TokenIds]:
        """Token ids of each row, read whole."""
        return [(*context, *prompt.suffix) for context in prompt.contexts]

    def close(self, ours: Tensor, plain: Tensor) -> None:
        torch.testing.assert_close(ours.cpu(), plain.cpu(), atol=self.tolerance, rtol=0)

    def check_first(self, model: Model, prompt: RowPrompt, reading: Reading) -> None:
        """The first log-probs of all rows are those of whole passes."""
        for row, log_probs in zip(self.rows_of(prompt), reading.log_probs, strict=True):
            self.close(log_probs, self.whole(model, row)[-1])

    def check_step(self, model: Model, rows: Rows, grown: list[TokenIds], new: Tensor) -> list[TokenIds]:
        """A step of all rows is what whole passes say; the rows as they are then."""
        log_probs = rows.step(new)
        assert log_probs.shape == (len(grown), new.shape[1], model.vocab_size)
        assert log_probs.dtype == torch.float32
        grown = [(*row, *tokens) for row, tokens in zip(grown, new.tolist(), strict=True)]
        for row, ours in zip(grown, log_probs, strict=True):
            self.close(ours, self.whole(model, row)[-new.shape[1] :])
        return grown

    def new(self, rows: int, tokens: int, seed: int) -> Tensor:
        """[rows, tokens] token ids at random."""
        return torch.tensor([self.ids(tokens, 1000 * seed + row) for row in range(rows)])

    # Reading.

    def test_what_it_says_of_itself(self, model: Model) -> None:
        assert model.name
        assert model.fingerprint
        assert model.window > 64
        assert model.batch_tokens >= 1
        assert all(0 <= token < model.vocab_size for token in model.eos_ids)
        assert getattr(torch, model.dtype).is_floating_point

    def test_contexts_apart_equal_one_whole_pass(self, model: Model) -> None:
        prompt = self.prompt(0, 3, 40, 11)
        rows, [reading] = model.open([prompt], 8)
        assert len(rows) == len(reading.log_probs) == 4
        assert reading.log_probs.shape == (4, model.vocab_size)
        assert reading.log_probs.dtype == torch.float32
        assert reading.log_probs.exp().sum(-1).tolist() == pytest.approx([1] * 4, abs=1e-3)
        assert (reading.question, reading.refusal, reading.reused) == (None, None, (0, 0, 0, 0))
        self.check_first(model, prompt, reading)

    def test_a_row_alone(self, model: Model) -> None:
        prompt = self.prompt(0, suffix=1)
        rows, [reading] = model.open([prompt], 2)
        self.check_first(model, prompt, reading)
        self.check_step(model, rows, self.rows_of(prompt), self.new(1, 1, 3))

    def test_another_order_gives_the_same(self, model: Model) -> None:
        prompt = self.prompt(0, 5, 30, 12)
        turned = RowPrompt(prompt.contexts[::-1], prompt.suffix)
        _, [one] = model.open([prompt], 4)
        _, [other] = model.open([turned], 4)
        self.close(one.log_probs, other.log_probs.flip(0))

    def test_another_batch_gives_the_same(self, model: Model) -> None:
        prompts = [
            self.prompt(0, 7, 25),
            self.prompt(2, 60, suffix=3, seed=2),
            self.prompt(0, suffix=9, seed=3),
        ]
        rows, readings = model.open(prompts, 5)
        assert [len(reading.log_probs) for reading in readings] == [3, 2, 1]
        assert len(rows) == 6
        for prompt, reading in zip(prompts, readings, strict=True):
            self.check_first(model, prompt, reading)
        grown = [row for prompt in prompts for row in self.rows_of(prompt)]
        for step in range(3):
            grown = self.check_step(model, rows, grown, self.new(6, 1, step))

    def test_small_passes_give_the_same(self, model: Model) -> None:
        asked = range(1, 5) if model.can.likelihood else None
        prompt = self.prompt(0, 9, 31, 8, question=asked)
        _, [whole] = model.open([prompt], 4, None, 100_000)
        for tokens in (1, 40):
            _, [parts] = model.open([prompt], 4, None, tokens)
            self.close(parts.log_probs, whole.log_probs)
            if asked is None:
                continue
            assert parts.question is not None
            assert whole.question is not None
            torch.testing.assert_close(parts.question, whole.question, atol=10 * self.tolerance, rtol=1e-3)

    def test_the_likelihood_of_the_question(self, model: Model) -> None:
        """Differences between rows, which is what it is for."""
        if not model.can.likelihood:
            pytest.skip("the backend gives none, and says so")
        for question in (range(6), range(2, 5)):
            prompt = self.prompt(0, 6, 28, question=question)
            _, [reading] = model.open([prompt], 4)
            assert reading.question is not None
            sums = []
            for context, row in zip(prompt.contexts, self.rows_of(prompt), strict=True):
                log_probs = self.whole(model, row)
                places = [len(context) + at for at in question if at > 0]
                sums.append(sum(float(log_probs[at - 1, row[at]]) for at in places))
            ours = (reading.question[1:] - reading.question[0]).tolist()
            assert ours == pytest.approx([total - sums[0] for total in sums[1:]], abs=self.sums_tolerance)

    def test_a_refusal_is_scored_and_leaves_no_trace(self, model: Model) -> None:
        if not model.can.likelihood:
            pytest.skip("the backend gives none, and says so")
        refusal = self.ids(4, 77)
        prompt = self.prompt(0, 6, 28, refusal=refusal)
        rows, [reading] = model.open([prompt], 6)
        assert reading.refusal is not None
        grown = self.rows_of(prompt)
        for row, ours in zip(grown, reading.refusal.log().tolist(), strict=True):
            log_probs = self.whole(model, (*row, *refusal))
            at = len(row)
            plain = sum(float(log_probs[at + i - 1, token]) for i, token in enumerate(refusal))
            assert ours == pytest.approx(plain, abs=self.sums_tolerance)
        self.check_first(model, prompt, reading)
        self.check_step(model, rows, grown, self.new(3, 2, 5))

    def test_what_it_cannot_do_is_refused(self, model: Model) -> None:
        """By the name of the backend's model where a prompt asks for it; rows say it of themselves."""
        if not model.can.likelihood:
            for asks in ({"question": range(1, 3)}, {"refusal": (3, 4)}):
                with pytest.raises(InputError, match=model.name):
                    model.open([self.prompt(0, 4, **asks)], 2)
        rows, _ = model.open([self.prompt(0, 4)], 4)
        rows.step(self.new(2, 1, 1))
        if not model.can.rewind:
            with pytest.raises(InputError):
                rows.rewind(1)
        if not model.can.repeat:
            with pytest.raises(InputError):
                rows.keep([1, 1])
        assert rows.room >= 3

    # The store.

    def test_stored_and_read_back_gives_the_same(self, model: Model, tmp_path: Path) -> None:
        prompt = self.prompt(0, 5, 33)
        plain_rows, [plain] = model.open([prompt], 4)
        stores = (PassageKVStore(), PassageKVStore(0, tmp_path), PassageKVStore(1 << 30, tmp_path))
        for store in stores:
            for again in (False, True):
                rows, [reading] = model.open([prompt], 4, store.of(model))
                store.flush()
                expected = (0, 5, 33) if again or store is stores[2] else (0, 0, 0)
                assert reading.reused == expected
                self.close(reading.log_probs, plain.log_probs)
                new = self.new(3, 2, 1)
                self.close(rows.step(new), model.open([prompt], 4)[0].step(new))
        assert len(plain_rows) == 3
        for store in stores:
            store.close()

    def test_contexts_read_ahead_are_reused(self, model: Model) -> None:
        prompt = self.prompt(4, 17, 33)
        store = PassageKVStore()
        contexts = store.of(model)
        assert prompt.contexts[1] not in contexts
        model.read([*prompt.contexts[1:], ()], contexts)
        assert prompt.contexts[1] in contexts
        _, [reading] = model.open([prompt], 4, contexts)
        assert reading.reused == (0, 17, 33)
        self.check_first(model, prompt, reading)

    def test_a_context_that_cannot_be_its_own_is_read_anew(self, model: Model) -> None:
        prompt = self.prompt(0, 9, 12)
        contexts = PassageKVStore().of(model)
        contexts.put(prompt.contexts[1], {"0.keys": torch.zeros(1, 1, 1), "0.values": torch.zeros(1, 1, 1)})
        contexts.put(prompt.contexts[2], {"nonsense": torch.zeros(3)})
        for expected in ((0, 0, 0), (0, 9, 12)):
            _, [reading] = model.open([prompt], 4, contexts)
            assert reading.reused == expected
            self.check_first(model, prompt, reading)

    # Stepping.

    def test_several_tokens_at_once_equal_one_by_one(self, model: Model) -> None:
        prompt = self.prompt(0, 4, 21)
        one, _ = model.open([prompt], 9)
        other, _ = model.open([prompt], 9)
        new = self.new(3, 9, 1)
        self.close(one.step(new), torch.cat([other.step(new[:, at : at + 1]) for at in range(9)], 1))

    def test_many_steps(self, model: Model) -> None:
        """Beyond what sliding windows see."""
        prompt = self.prompt(0, 2, 26)
        rows, _ = model.open([prompt], 14)
        grown = self.rows_of(prompt)
        for step in range(14):
            assert rows.room >= 14 - step
            grown = self.check_step(model, rows, grown, self.new(3, 1, step))

    def test_rewind(self, model: Model) -> None:
        if not model.can.rewind:
            pytest.skip("the backend cannot, and says so")
        prompt = self.prompt(0, 4, 21)
        rows, _ = model.open([prompt], 9)
        grown = self.check_step(model, rows, self.rows_of(prompt), self.new(3, 2, 1))
        room = rows.room
        rows.step(self.new(3, 5, 2))
        rows.rewind(5)
        assert rows.room == room
        rows.step(self.new(3, 4, 3))
        rows.rewind(3)
        rows.rewind(0)
        grown = [(*row, int(new)) for row, new in zip(grown, self.new(3, 4, 3)[:, 0], strict=True)]
        self.check_step(model, rows, grown, self.new(3, 2, 4))

    def test_no_more_than_was_appended_is_taken_back(self, model: Model) -> None:
        if not model.can.rewind:
            pytest.skip("the backend cannot, and says so")
        rows, _ = model.open([self.prompt(0, 4)], 9)
        rows.step(self.new(2, 3, 1))
        for tokens in (4, -1):
            with pytest.raises(InputError, match="rewind"):
                rows.rewind(tokens)
        rows.rewind(3)

    def test_keep(self, model: Model) -> None:
        prompt = self.prompt(0, 4, 21, 9)
        rows, _ = model.open([prompt], 6)
        grown = self.check_step(model, rows, self.rows_of(prompt), self.new(4, 1, 1))
        order = [2, 0, 3]
        kept = rows.keep(order)
        assert len(kept) == 3
        assert kept.room == rows.room
        some = self.check_step(model, kept, [grown[row] for row in order], self.new(3, 2, 2))
        # The old ones are as they were.
        self.check_step(model, rows, grown, self.new(4, 1, 3))
        self.check_step(model, kept, some, self.new(3, 1, 4))

    def test_one_row_several_times(self, model: Model) -> None:
        if not model.can.repeat:
            pytest.skip("the backend cannot, and says so")
        prompt = self.prompt(0, 15)
        rows, _ = model.open([prompt], 6)
        grown = self.rows_of(prompt)
        order = [1, 0, 1, 1]
        self.check_step(model, rows.keep(order), [grown[row] for row in order], self.new(4, 3, 2))

    @pytest.mark.parametrize("longer", [False, True])
    def test_joined(self, model: Model, longer: bool) -> None:
        prompts = [self.prompt(0, 8, 12), self.prompt(1, 50 if longer else 3, seed=2)]
        one, _ = model.open(prompts[:1], 6)
        other, _ = model.open(prompts[1:], 6)
        grown = self.check_step(model, one, self.rows_of(prompts[0]), self.new(3, 2, 1))
        both = one.joined(other)
        assert len(both) == 5
        assert both.room >= min(one.room, other.room)
        together = [*grown, *self.rows_of(prompts[1])]
        for step in range(2):
            together = self.check_step(model, both, together, self.new(5, 1, 7 + step))
        # The old ones are as they were.
        self.check_step(model, one, grown, self.new(3, 1, 9))
        self.check_step(model, other, self.rows_of(prompts[1]), self.new(2, 1, 9))

    def test_rows_lag_behind_and_catch_up(self, model: Model) -> None:
        prompt = self.prompt(0, 8, 30, 13)
        rows, _ = model.open([prompt], 12)
        grown = self.rows_of(prompt)
        new = self.new(4, 6, 1)

        def advance(some: Sequence[int], first: int, last: int) -> None:
            log_probs = rows.step(new[list(some), first:last], some)
            assert log_probs.shape[:2] == (len(some), last - first)
            for row, ours in zip(some, log_probs, strict=True):
                grown[row] = (*grown[row], *new[row, first:last].tolist())
                self.close(ours, self.whole(model, grown[row])[first - last :])

        for step in range(4):
            advance([2, 0], step, step + 1)
        assert rows.room == 12 - 4
        advance([1, 3], 0, 4)  # two that lag alike, at once
        advance([0, 3], 4, 6)
        advance([1], 4, 6)
        advance([2], 4, 6)
        self.check_step(model, rows, grown, self.new(4, 2, 2))

    def test_rows_at_different_places_step_together(self, model: Model) -> None:
        prompt = self.prompt(0, 8, 30)
        rows, _ = model.open([prompt], 12)
        grown = self.rows_of(prompt)
        first = self.new(2, 3, 1)
        rows.step(first, [2, 1])
        grown[2], grown[1] = (*grown[2], *first[0].tolist()), (*grown[1], *first[1].tolist())
        if model.can.rewind:
            rows.rewind(1, [1])
            grown[1] = grown[1][:-1]
        grown = self.check_step(model, rows, grown, self.new(3, 2, 2))
        kept = rows.keep([1, 2])
        self.check_step(model, kept, grown[1:], self.new(2, 1, 3))

    # Bounds and errors.

    def test_room_is_true(self, model: Model) -> None:
        rows, _ = model.open([self.prompt(0, 5)], 3)
        room = rows.room
        assert room >= 3
        rows.step(self.new(2, room, 1))
        assert rows.room == 0
        with pytest.raises(InputError, match="room"):
            rows.step(self.new(2, 1, 2))

    def test_impossible_steps_change_nothing(self, model: Model) -> None:
        prompt = self.prompt(0, 5)
        rows, _ = model.open([prompt], 3)
        for ids, which in (
            (self.new(3, 1, 1), None),
            (self.new(1, 1, 1), None),
            (torch.zeros(2, 0, dtype=torch.long), None),
            (torch.zeros(2, dtype=torch.long), None),
            (self.new(2, 1, 1), [0, 2]),
            (self.new(2, 1, 1), [1, 1]),
            (self.new(1, 1, 1), [-1]),
            (torch.zeros(0, 1, dtype=torch.long), []),
        ):
            with pytest.raises(InputError):
                rows.step(ids, which)
        for which in ([], [0, 5]):
            with pytest.raises(InputError):
                rows.keep(which)
        self.check_step(model, rows, self.rows_of(prompt), self.new(2, 2, 2))

    def test_cost_grows_with_rows_and_tokens(self, model: Model) -> None:
        assert 0 < model.cost(1, 10) < model.cost(2, 10) <= model.cost(2, 20)
        assert model.cost(4, 100) >= 4 * model.context_bytes(100) > 0
        assert model.free() > 0

    def test_what_is_kept_takes_what_it_says(self, model: Model) -> None:
        store = PassageKVStore()
        for tokens in (3, 60):
            store.clear()
            model.read([self.ids(tokens, 5)], store.of(model))
            assert store.nbytes == pytest.approx(model.context_bytes(tokens), rel=0.02, abs=64)

    def test_two_threads(self, model: Model) -> None:
        prompts = [self.prompt(0, 5, 20, seed=seed) for seed in range(4)]
        store = PassageKVStore().of(model)
        problems: list[BaseException] = []

        def run(prompt: RowPrompt) -> None:
            try:
                for _ in range(3):
                    rows, [reading] = model.open([prompt], 4, store)
                    self.check_first(model, prompt, reading)
                    self.check_step(model, rows, self.rows_of(prompt), self.new(3, 2, 1))
            except BaseException as problem:
                problems.append(problem)

        threads = [threading.Thread(target=run, args=(prompt,)) for prompt in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
