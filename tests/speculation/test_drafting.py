"""The parts of speculative decoding: automaton, costs, choice, budget, and sources of drafts."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.inference.sampling import Sampler
from wkv.inference.sequence import RunningSequence
from wkv.inference.speculation import DraftModel, Speculation, speculation_for
from wkv.inference.speculation.choose import Offer, choose
from wkv.inference.speculation.drafter import Drafter, Rates
from wkv.inference.speculation.pass_costs import TABLES, PassCosts
from wkv.inference.speculation.suffix_automaton import SuffixAutomaton
from wkv.inference.speculation.time_budget import TimeBudget

GREEDY = wkv.Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)


def longest_repeated_suffix(text):
    """Return the length of the longest suffix that also ends earlier, by comparing all of them."""
    for size in range(len(text) - 1, 0, -1):
        suffix = text[len(text) - size :]
        if any(text[at : at + size] == suffix for at in range(len(text) - size)):
            return size
    return 0


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.integers(0, n - 1), max_size=60)))
def test_the_automaton_finds_what_brute_force_finds(tokens):
    automaton = SuffixAutomaton()
    for count, token in enumerate(tokens, 1):
        automaton.push(token)
        text = tokens[:count]
        size = longest_repeated_suffix(text)
        assert automaton.match == size
        draft = automaton.draft(5)
        if not size:
            assert draft == []
            continue
        # The draft continues an earlier occurrence, periodically if that overlaps the end.
        starts = [at for at in range(count - size) if text[at : at + size] == text[count - size :]]
        assert any(
            all(draft[i] == [*text, *draft][at + size + i] for i in range(5)) for at in starts
        )
    assert automaton.n_states <= max(1, 2 * len(tokens))


def test_the_latest_occurrence_is_followed():
    automaton = SuffixAutomaton()
    automaton.extend([1, 2, 3, 9, 1, 2, 4, 8, 1, 2])
    assert (automaton.match, automaton.draft(2)) == (2, [4, 8])


def test_costs_follow_the_table_then_the_measurements():
    costs = PassCosts({1: 1.0, 2: 1.2, 4: 1.4, 8: 2.0})
    assert [costs.of(rows) for rows in (1, 3, 6, 10)] == pytest.approx([1, 1.3, 1.7, 2.3])
    assert not costs.is_measured
    for _ in range(5):
        costs.record(1, 0.010)
    assert costs.of(2) == pytest.approx(0.012)
    for _ in range(3):
        costs.record(2, 0.014)
    assert costs.of(2) == pytest.approx(0.014)
    for _ in range(3):
        costs.record(4, 1.0)  # the machine was busy
    assert costs.of(4) == pytest.approx(0.028)


@given(
    st.lists(st.lists(st.floats(0.01, 1), max_size=6), min_size=1, max_size=3),
    st.sampled_from(list(TABLES.values())),
)
def test_the_choice_for_one_sequence_is_the_best_and_for_more_it_pays(rates, table):
    costs = PassCosts(table).of
    offers = [Offer(one, TimeBudget()) for one in rates]
    rich = TimeBudget()
    rich.left = 100.0
    for offer in offers:
        offer.budget.left = 100.0
    choice = choose(offers, costs, rich, 17)
    count = len(rates)

    def speed(drafts):
        expected = float(count)
        for one, k in zip(rates, drafts, strict=True):
            expected += sum(float(torch.tensor(one[: i + 1]).prod()) for i in range(k))
        return expected / costs(count + sum(drafts))

    plain = count / costs(count)
    if any(choice.drafts):
        assert speed(choice.drafts) > 1.0299 * plain
    if count == 1:
        best = max(speed([k]) for k in range(len(rates[0]) + 1))
        assert speed(choice.drafts) == pytest.approx(best if best > 1.03 * plain else plain)


def test_large_batches_draft_only_what_is_almost_certain():
    costs, rich = PassCosts(TABLES["int4"]).of, TimeBudget()
    rich.left = 100.0

    def drafts(count, rate):
        offers = [Offer([rate] * 4, rich) for _ in range(count)]
        return sum(choose(offers, costs, rich, 17).drafts)

    assert drafts(1, 0.9) > 0
    assert drafts(1, 0.1) == 0
    assert drafts(12, 0.95) > 0
    assert drafts(12, 0.3) == 0
    assert drafts(64, 1.0) == 0


class AlwaysWrong(Drafter):
    """Claims that its drafts are certain, but they are never right."""

    def offer(self, sequence, most, model_cost):
        super().offer(sequence, most, model_cost)
        return Offer([0.99] * max(0, min(most, sequence.remaining - 1)), self.budget)

    def send(self, sequence, count, extra):
        self._source = type(self._source)((0.99,) * count, lambda k: [0] * k)
        return super().send(sequence, count, extra)


@pytest.mark.parametrize("form", TABLES)
def test_a_drafter_that_is_always_wrong_costs_little(form, byte_model):
    costs = PassCosts(TABLES[form], is_fixed=True)
    speculation = Speculation(costs)
    sequence = RunningSequence(byte_model.tokenizer, GREEDY, 1000, ())
    sequence.drafter = AlwaysWrong(Rates())
    spent, worst = 0.0, 0.0
    for count in range(1, 600):
        sequence.accept(65)
        (drafts,) = speculation.next_drafts([sequence])
        spent += costs.of(1 + len(drafts))
        assert 65 not in drafts
        if count >= 100:
            worst = max(worst, spent / count)
    assert sequence.draft_counts.drafted > 0
    assert sequence.draft_counts.accepted == 0
    assert worst <= 1.03 + 1e-9


def test_short_replies_share_one_budget(byte_model):
    speculation = Speculation(PassCosts(TABLES["int4"], is_fixed=True))
    spent = tokens = 0.0
    for _ in range(40):
        sequence = RunningSequence(byte_model.tokenizer, GREEDY, 1000, ())
        sequence.drafter = AlwaysWrong(speculation._rates)
        for _ in range(15):
            sequence.accept(65)
            (drafts,) = speculation.next_drafts([sequence])
            spent += speculation.costs.of(1 + len(drafts))
            tokens += 1
        sequence.accept(65)
        speculation.update([sequence])
    assert spent <= 1.02 * tokens + 1 + 1e-6


def test_rates_are_learned_without_drafting():
    rates, chance = Rates(), random.Random(3)
    sequence = RunningSequence(wkv.load().tokenizer, GREEDY, 10_000, ())
    sequence.drafter = drafter = Drafter(rates, [1, 2])
    before = rates.match.rate(1)
    for _ in range(400):  # random tokens: a match of one token says nothing
        sequence.token_ids.append(chance.randrange(20))
        drafter.update(sequence)
        drafter.offer(sequence, 4, 0.0)
        drafter.send(sequence, 0, 0.0)
    assert rates.match.rate(1) < before
    assert sequence.draft_counts.drafted == 0


def test_a_prediction_is_drafted_from_its_beginning(demo):
    greedy = {"sampling": GREEDY, "max_tokens": 40}
    text = wkv.generate(demo, "Alice was", speculate="off", **greedy).text
    speculation = speculation_for(demo, 8)
    sequence = RunningSequence(demo.tokenizer, GREEDY, 40, ())
    ids = demo.tokenizer.encode(text)
    sequence.drafter = speculation.drafter([], ids)
    sequence.accept(ids[0])
    (drafts,) = speculation.next_drafts([sequence])
    assert drafts == ids[1:9]
    sequence.accept(drafts[0])
    sequence.accept(drafts[1] + 1)  # the prediction was wrong from here on
    speculation.next_drafts([sequence])
    assert sequence.draft_counts.accepted == 1


def test_impossible_drafts_are_not_sent(demo):
    tokenizer, banned = demo.tokenizer, demo.tokenizer.encode("x")[0]
    end = tokenizer.end_of_text
    for stop in (banned, end):
        sampling = wkv.Sampling(temperature=0, banned=(banned,))
        sequence = RunningSequence(tokenizer, sampling, 40, ())
        speculation = speculation_for(demo, 8)
        sequence.drafter = speculation.drafter([301, 302, 303, stop, 304, 301])
        sequence.accept(302)
        assert speculation.next_drafts([sequence]) == [[303]]
    sequence = RunningSequence(tokenizer, GREEDY, 2, ())
    sequence.drafter = speculation.drafter([301, 302, 303, 301])
    sequence.accept(302)
    assert speculation.next_drafts([sequence]) == [[]]  # the next token is the last one


def test_a_draft_model_gives_the_same_text_and_drafts_well(demo):
    small = wkv.load(strategy="cpu int8")
    for sampling in (GREEDY, wkv.Sampling(seed=3, top_p=0.6)):
        options = {"sampling": sampling, "max_tokens": 40}
        plain = wkv.generate(demo, "Alice was beginning", speculate="off", **options)
        drafted = wkv.generate(demo, "Alice was beginning", speculate=3, draft=small, **options)
        assert (drafted.text, drafted.token_ids) == (plain.text, plain.token_ids)
        assert torch.equal(drafted.state.logits, plain.state.logits)
        assert drafted.drafts.accepted > 0.7 * drafted.drafts.drafted > 10


def test_a_draft_model_goes_on_from_what_it_has_read(demo):
    owner = DraftModel(demo, demo)
    first = owner.reader([5, 6, 7])
    assert first.is_ready([8])
    second = owner.reader([5, 6, 7, 8, 9])
    assert second.common([5, 6, 7, 8]) == 4
    assert second.is_ready([])
    expected = demo.forward([5, 6, 7, 8, 9])[0]
    assert torch.allclose(second._state.logits[0], expected)
    assert owner.reader([5, 1]).common([5, 1]) == 0


def test_a_draft_model_needs_the_same_vocabulary(demo, tmp_path, byte_model):
    with pytest.raises(wkv.InputError, match="has 256 ids and the model's has 2048"):
        wkv.generate(demo, "Alice", draft=byte_model)
    path = tmp_path / "other.pth"
    save_pth(random_checkpoint("7", n_layer=1, n_embd=64, vocab_size=2048), path)
    words = [repr(str(number)) for number in range(1, 2048)]
    lines = [f"{i} {word} {len(word) - 2}" for i, word in enumerate(words, 1)]
    (tmp_path / "words.txt").write_text("\n".join(lines) + "\n")
    other = wkv.load(path, "cpu fp32", tokenizer=tmp_path / "words.txt")
    with pytest.raises(wkv.InputError, match="vocabulary differs from the model's in"):
        wkv.generate(demo, "Alice", draft=other)
    with pytest.raises(wkv.InputError, match=r"a loaded wkv\.Model, str was given"):
        wkv.generate(demo, "Alice", draft="small.pth")
    with pytest.raises(wkv.InputError, match="speculate is 'off'"):
        wkv.generate(demo, "Alice", draft=demo, speculate="off")


def test_copies_of_samplers_go_on_alike():
    sampler = Sampler(wkv.Sampling(seed=1))
    sampler.record(5, "a")
    copy = sampler.copy()
    copy.record(6, "b")
    assert (sampler.position, list(sampler.counts.ids)) == (1, [5])
    sampler.record(6, "b")
    assert list(sampler.counts.counts) == list(copy.counts.counts)
    assert sampler.noise_key == copy.noise_key
