"""Every fusion rule against its slow float64 reference, and the identities that tie the rules together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import fusion_reference as ref
import numpy as np
import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from nbce_rag.checks import Range
from nbce_rag.errors import InputError
from nbce_rag.evaluation.methods.peers.cad import Cad
from nbce_rag.fusion import (
    RULES,
    Acd,
    AdaCad,
    Berag,
    CkPlug,
    Dvd,
    Experts,
    Fused,
    FusionRule,
    FusionState,
    Max,
    Mean,
    MinEntropy,
    Posterior,
    Rule,
    contrast,
    nucleus,
    resolve_rule,
    responsibilities,
    truncate,
)
from nbce_rag.fusion.numbers import grid_of, ranges_of, values_of
from nbce_rag.fusion.posterior import _lift

NEG_INF = -math.inf

# ---------------------------------------------------------------------------------------------------------
# Examples


@dataclass
class Case:
    """Several steps of G questions: log-probs [steps, G, n + 1, V] (float64), and what is known."""

    log_probs: np.ndarray[Any, np.dtype[np.float64]]
    known: list[ref.Known]
    picks: list[float]  # in [0, 1): which of the tokens is chosen, step by step

    @property
    def groups(self) -> int:
        return int(self.log_probs.shape[1])

    @property
    def n(self) -> int:
        return int(self.log_probs.shape[2]) - 1

    def tensor(self, step: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.tensor(self.log_probs[step], dtype=dtype)

    def state(self, dtype: torch.dtype = torch.float64) -> FusionState:
        def side(name: str) -> Tensor | None:
            values = [getattr(known, name) for known in self.known]
            return None if values[0] is None else torch.tensor(values, dtype=dtype)

        names = ("scores", "relevance", "refusal", "evidence", "joint", "extract")
        return FusionState(**{name: side(name) for name in names})  # type: ignore[arg-type]

    def only(self, g: int) -> Case:
        return Case(self.log_probs[:, g : g + 1], self.known[g : g + 1], self.picks)

    def with_passages(self, order: Sequence[int]) -> Case:
        """The same with the passages in another order, or some of them twice."""

        def side(values: list[float] | None) -> list[float] | None:
            return None if values is None else [values[k] for k in order]

        known = [ref.Known(*map(side, astuple(k))) for k in self.known]
        return Case(self.log_probs[:, :, [0, *(k + 1 for k in order)]], known, self.picks)


def log_softmax(logits: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    shape = logits.shape
    rows = [ref.normalise(row.tolist()) for row in logits.reshape(-1, shape[-1])]
    return np.array(rows, dtype=np.float64).reshape(shape)


def random_logits(
    rng: np.random.Generator, shape: tuple[int, ...], kind: str
) -> np.ndarray[Any, np.dtype[np.float64]]:
    if kind == "sharp":
        return rng.normal(size=shape) * 8
    if kind == "grid":  # many ties within and between rows
        return rng.integers(0, 3, size=shape).astype(np.float64)
    if kind == "flat":
        return np.zeros(shape)
    if kind == "mixed":  # rows from nearly flat to nearly certain
        return rng.normal(size=shape) * np.exp(rng.uniform(-4, 3, size=(*shape[:-1], 1)))
    return rng.normal(size=shape) * 2


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    max_vocab: int = 40,
    max_n: int = 5,
    kinds: Sequence[str] = ("plain", "sharp", "grid", "flat", "mixed"),
    infinities: bool = True,
    equal_rows: bool = True,
    sides: bool = True,
    steps: int = 3,
) -> Case:
    """Random cases. Token 0 is possible in every row, unless the rows are wholly hypothesis's own."""
    groups, n = draw(st.integers(1, 3)), draw(st.integers(1, max_n))
    steps = draw(st.integers(1, steps))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()) and "grid" in kinds:
        # Small enough that hypothesis may choose, and shrink, every number itself.
        shape = (steps, groups, n + 1, draw(st.integers(2, 5)))
        values = st.sampled_from([-5.0, -1.0, 0.0, 0.5, 3.0]) | st.floats(-20, 20, width=32)
        logits = draw(hnp.arrays(np.float64, shape, elements=values))
    else:
        shape = (steps, groups, n + 1, draw(st.integers(2, max_vocab)))
        logits = random_logits(rng, shape, draw(st.sampled_from(list(kinds))))
    if infinities and draw(st.booleans()):
        excluded = rng.random(shape) < draw(st.sampled_from([0.1, 0.5, 0.9]))
        excluded[..., 0] = False
        logits = np.where(excluded, NEG_INF, logits)
    if equal_rows and draw(st.booleans()):
        logits[:, :, draw(st.integers(0, n))] = logits[:, :, draw(st.integers(0, n))]
    # None, or one kind of knowledge about all passages of all questions
    has = [draw(st.booleans()) if sides else False for _ in range(6)]
    known = [
        ref.Known(
            scores=rng.uniform(-1, 1, n).tolist() if has[0] else None,
            relevance=(rng.normal(size=n) * 5).tolist() if has[1] else None,
            refusal=rng.choice([0.0, 1.0, 0.3, 0.999], n).tolist() if has[2] else None,
            evidence=rng.dirichlet(np.ones(n)).tolist() if has[3] else None,
            joint=ref.one_hot(int(rng.integers(n)), n) if has[4] and n > 1 else None,
            extract=ref.one_hot(int(rng.integers(n)), n) if has[5] and n > 1 else None,
        )
        for _ in range(groups)
    ]
    picks = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=steps, max_size=steps))
    return Case(log_softmax(logits), known, picks)


def values(kind: type[FusionRule], name: str) -> st.SearchStrategy[float | None]:
    """Values of one of a rule's numbers: its default, those of its grid, and others in its range."""
    numbers = ranges_of(kind)[name]
    low = numbers.least + (0.1 if numbers.above or math.isinf(numbers.most) else 0.0)
    some: list[float | None] = [getattr(kind, name), *grid_of(kind).get(name, ()), min(numbers.most, 1.0)]
    return st.sampled_from(some) | st.floats(low, min(numbers.most, low + 5))


def numbers_of(kind: type[FusionRule]) -> st.SearchStrategy[dict[str, Any]]:
    """What `fuse` sees of a rule's numbers; the engine sees to which passages are read by sentences."""
    return st.fixed_dictionaries(
        {name: values(kind, name) for name in ranges_of(kind) if name not in ("focus", "together")}
    )


def outside(numbers: Range) -> list[float]:
    """Numbers just outside a range, and far from it."""
    low = [numbers.least if numbers.above else numbers.least - 1e-6, numbers.least - 1]
    return [value for value in (*low, numbers.most + 1e-6, numbers.most + 1) if math.isfinite(value)]


beta = st.sampled_from([0.0, 0.25, 1.0, -0.5]) | st.floats(-0.9, 5)
top_p = st.sampled_from([0.95, 1.0, 0.5]) | st.floats(0.01, 0.99)


@st.composite
def rules(draw: st.DrawFn) -> FusionRule:
    kind = draw(st.sampled_from(list(RULES.values())))
    return kind(**draw(numbers_of(kind)))


# One of each with the published numbers, and with everything that can be switched off switched off.
ALL_RULES: list[FusionRule] = [
    *(kind() for kind in RULES.values()),
    MinEntropy(beta=0.0, eta=0.0, top_p=1.0),
    MinEntropy(beta=0.0, alpha=0.1),
    Mean(beta=0.0),
    Mean(top_p=1.0),
    Max(beta=0.0, top_p=1.0),
    Max(beta=-0.5),
    Experts(gamma=0.0),
    Posterior(beta=0.0, gamma=0.0, epsilon=0.0, cutoff=0.0),
    Posterior(beta=-0.5, epsilon=1.0, cutoff=1.0),
    Posterior(cutoff=0.0),
    Posterior(opening=0.0),
    Posterior(extract=0.5),
    Posterior(gamma=3.0, cutoff=0.0, opening=0.5),
    Posterior(least=0.3),
    Posterior(least=1.0, epsilon=0.0, cutoff=0.0),
]
each_rule = pytest.mark.parametrize("rule", ALL_RULES, ids=repr)


def fusing(rule: FusionRule) -> dict[str, Any]:
    """The numbers that `fuse` sees; the engine sees to which passages are read by sentences."""
    return {name: value for name, value in vars(rule).items() if name not in ("focus", "together")}


def assert_close(actual: Tensor, expected: Any, tolerance: float = 1e-8) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    actual = actual.double()
    assert actual.shape == expected.shape
    assert not actual.isnan().any()
    excluded = (expected == NEG_INF).tolist()
    assert (actual == NEG_INF).tolist() == excluded
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def pick(fused: Tensor, choice: float) -> int:
    """One of the tokens that may be chosen; any token where none may (a constraint chose it)."""
    allowed = (fused > NEG_INF).nonzero().flatten().tolist() or list(range(fused.shape[-1]))
    return int(allowed[int(choice * len(allowed))])


def evidence_for(fused: Fused, log_probs: Tensor, tokens: Tensor) -> Tensor:
    groups = torch.arange(len(tokens))
    return responsibilities(fused.weights, log_probs[groups, 1:, tokens])


def play(rule: Rule, case: Case, dtype: torch.dtype = torch.float64) -> list[tuple[Fused, Tensor, Tensor]]:
    """Every step of a case: (fused, tokens [G], evidence [G, n])."""
    state, steps = case.state(dtype), []
    for t in range(len(case.log_probs)):
        log_probs = case.tensor(t, dtype)
        fused = rule.fuse(log_probs, state)
        tokens = torch.tensor([pick(row, case.picks[t]) for row in fused.log_probs])
        state.evidence = evidence_for(fused, log_probs, tokens)
        steps.append((fused, tokens, state.evidence))
    return steps


def assume_clear(rule: FusionRule, case: Case, tokens: Sequence[Sequence[int]]) -> None:
    """Drop the example if its outcome hangs on rounding; tokens [steps][G] as they were chosen."""
    for g in range(case.groups):
        reference = ref.REFERENCES[type(rule).name](case.known[g], **fusing(rule))
        for t, rows in enumerate(case.log_probs[:, g].tolist()):
            try:
                reference.fuse(rows)
            except ref.CloseCall:
                reject()
            reference.observe(rows, tokens[t][g])


def has_equal_rows(case: Case) -> bool:
    """Whether two passages have equal rows somewhere, so that their order decides between them."""
    pairs = itertools.combinations(range(1, case.n + 1), 2)
    return any((case.log_probs[:, :, j] == case.log_probs[:, :, k]).all(-1).any() for j, k in pairs)


def play_clear(rule: FusionRule, case: Case) -> list[tuple[Fused, Tensor, Tensor]]:
    steps = play(rule, case)
    assume_clear(rule, case, [tokens.tolist() for _, tokens, _ in steps])
    return steps


# ---------------------------------------------------------------------------------------------------------
# The references


@pytest.mark.parametrize("kind", list(RULES.values()), ids=lambda kind: kind.name)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_rule_equals_its_reference_step_by_step(kind: type[FusionRule], data: st.DataObject) -> None:
    case = data.draw(cases(), label="case")
    chosen = data.draw(numbers_of(kind), label="numbers")
    steps = play(kind(**chosen), case)
    for g in range(case.groups):
        reference = ref.REFERENCES[kind.name](case.known[g], **chosen)
        for t, (fused, tokens, evidence) in enumerate(steps):
            rows = case.log_probs[t, g].tolist()
            try:
                expected, weights = reference.fuse(rows)
            except ref.CloseCall:
                break  # from here on the two may rightly go different ways
            assert_close(fused.log_probs[g], expected)
            assert_close(fused.weights[g], weights)
            assert_close(evidence[g], reference.observe(rows, int(tokens[g])))


def test_the_other_passages_count_where_one_is_all_but_certain() -> None:
    """b = sum_k (1 - w_k) p_k / (n - 1), of which 1 - w_1 = w_2 = 1e-12 is all there is at token 0."""
    scores = [math.log(1e12) / 10, 0.0]
    rows = log_softmax(np.array([[[0.0, 0.0], [0.0, 0.0], [-np.inf, 0.0]]]))
    state = FusionState(scores=torch.tensor([scores], dtype=torch.float64))
    rule = Posterior(beta=0.0, gamma=1.0, cutoff=0.0, least=0.0)
    fused = rule.fuse(torch.tensor(rows), state).log_probs[0]
    log_p = math.log(0.5) - math.log1p(1e-12)
    log_b = math.log(0.5) - math.log(1e12) - math.log1p(1e-12)
    assert fused[0].item() == pytest.approx(log_p + (log_p - log_b), rel=1e-12)


@pytest.mark.parametrize("kind", list(RULES.values()), ids=lambda kind: kind.name)
@pytest.mark.parametrize("vocab", [1000, 5000])
def test_rule_equals_its_reference_on_a_large_vocabulary(kind: type[FusionRule], vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    shape = (2, 2, 4, vocab)
    # From rows that are all but certain to rows whose nucleus is most of the vocabulary.
    logits = rng.normal(size=shape) * np.array([1.0, 0.2, 2.0, 6.0])[:, None]
    known = [
        ref.Known(rng.uniform(0, 1, 3).tolist(), rng.normal(size=3).tolist(), rng.random(3).tolist())
        for _ in range(2)
    ]
    case = Case(log_softmax(logits), known, [0.0, 0.999])
    for g in range(2):
        reference = ref.REFERENCES[kind.name](known[g], **fusing(kind()))
        for t, (fused, tokens, evidence) in enumerate(play(kind(), case)):
            expected, weights = reference.fuse(case.log_probs[t, g].tolist())
            assert_close(fused.log_probs[g], expected)
            assert_close(fused.weights[g], weights)
            assert_close(evidence[g], reference.observe(case.log_probs[t, g].tolist(), int(tokens[g])))


def assert_nucleus(rows: np.ndarray[Any, np.dtype[np.float64]], top_p: float) -> None:
    """rows [R, V]; threshold, entropy and what `truncate` keeps."""
    log_probs = torch.tensor(rows)
    threshold, entropy = nucleus(log_probs, top_p)
    assert threshold.shape == entropy.shape == log_probs.shape[:-1]
    expected = [ref.truncate(row, top_p) for row in rows.tolist()]
    assert_close(truncate(log_probs, threshold), expected)
    assert_close(entropy, [ref.entropy(row) for row in expected])


@pytest.mark.parametrize("vocab", [2, 63, 64, 65, 511, 512, 513, 4095, 4096, 4097, 6000])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.95, 0.999, 1.0])
def test_nucleus_equals_full_sort_at_every_size(vocab: int, top_p: float) -> None:
    """Sizes around those at which more of a row is looked at; rows of one call stop at different ones."""
    rng = np.random.default_rng(vocab)
    noise = rng.normal(size=(7, vocab))
    ranks = np.log(np.arange(vocab) + 1.0)
    logits = np.stack(
        [
            noise[0] * 8,  # sharp
            noise[1] * 0.01,  # nearly flat
            np.zeros(vocab),  # flat: one tie
            rng.permutation(-1.1 * ranks),  # the long tail of a language model
            np.where(np.arange(vocab) % 3 == 0, 0.0, noise[4] - 9),  # a tie of a third of the vocabulary
            np.where(np.arange(vocab) % 2 == 0, NEG_INF, noise[5]),
            np.where(np.arange(vocab) == 1, 0.0, NEG_INF),  # certain
        ]
    )
    assert_nucleus(log_softmax(logits), top_p)


@given(case=cases(max_vocab=700), top_p=top_p)
@settings(max_examples=60, deadline=None)
def test_nucleus_equals_full_sort(case: Case, top_p: float) -> None:
    rows = case.log_probs.reshape(-1, case.log_probs.shape[-1])
    try:
        assert_nucleus(rows, top_p)
    except ref.CloseCall:
        reject()


def test_nucleus_of_a_known_row() -> None:
    row = torch.tensor([0.1, 0.4, 0.2, 0.2, 0.1], dtype=torch.float64).log()
    for top_p, kept in ((0.3, [1]), (0.5, [1, 2, 3]), (0.7, [1, 2, 3]), (0.85, [0, 1, 2, 3, 4])):
        threshold, entropy = nucleus(row, top_p)
        assert (row >= threshold).nonzero().flatten().tolist() == kept
        assert float(entropy) == pytest.approx(-sum(float(row[v].exp() * row[v]) for v in kept))


def test_nucleus_keeps_the_shape_of_its_batch() -> None:
    log_probs = torch.randn(2, 3, 4, 100, dtype=torch.float64).log_softmax(-1)
    threshold, entropy = nucleus(log_probs, 0.9)
    assert threshold.shape == entropy.shape == (2, 3, 4)
    alone = nucleus(log_probs[1, 2, 3], 0.9)
    assert_close(threshold[1, 2, 3], alone[0])
    assert_close(entropy[1, 2, 3], alone[1])


@pytest.mark.parametrize("beta", [-0.5, 0.0, 0.25, 3.0])
def test_contrast_where_either_side_is_excluded(beta: float) -> None:
    pooled = torch.tensor([-1.0, -1.0, NEG_INF, NEG_INF])
    baseline = torch.tensor([-3.0, NEG_INF, -3.0, NEG_INF])
    expected = [-1.0 + 2.0 * beta, -1.0, NEG_INF, NEG_INF]
    assert contrast(pooled, baseline, beta).tolist() == pytest.approx(expected)
    assert contrast(pooled, baseline, torch.full((4,), beta)).tolist() == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------------------
# Identities


@given(case=cases(max_vocab=20))
@settings(max_examples=80, deadline=None)
def test_posterior_that_always_moves_on_is_the_fixed_mixture(case: Case) -> None:
    rule = Posterior(beta=0.0, gamma=0.0, epsilon=1.0, cutoff=0.0, least=0.0)
    prior = rule.log_prior(case.state(), case.tensor()[:, 1:, 0]).exp()
    for t, (fused, _, _) in enumerate(play(rule, case)):
        mixture = (prior[..., None] * case.tensor(t)[:, 1:].exp()).sum(1)
        assert_close(fused.weights, prior)
        assert_close(fused.log_probs.exp(), mixture)


@given(case=cases(max_vocab=20), tau=st.sampled_from([0.05, 0.1, 1.0]))
@settings(max_examples=80, deadline=None)
def test_berag_that_prunes_nothing_is_a_posterior_without_contrasts(case: Case, tau: float) -> None:
    """... that never moves on and knows of no refusal."""
    for known in case.known:
        known.refusal = None
    rule = Posterior(beta=0.0, gamma=0.0, alpha=0.0, epsilon=0.0, cutoff=0.0, focus=0.0, least=0.0, tau=tau)
    steps = zip(play(Berag(tau, mass=1.0), case), play(rule, case), strict=True)
    for (a, _, e), (b, _, f) in steps:
        assert_close(a.log_probs, b.log_probs)
        assert_close(a.weights, b.weights)
        assert_close(e, f)


@given(case=cases(max_n=5))
@settings(max_examples=80, deadline=None)
def test_what_berag_has_pruned_never_comes_back_and_little_is_pruned(case: Case) -> None:
    gone = torch.zeros(case.groups, case.n, dtype=torch.bool)
    before: Tensor | None = None
    for fused, _, evidence in play(Berag(), case):
        assert not (fused.weights[gone] > 0).any()
        if before is not None:
            lost = (before * (fused.weights == 0)).sum(-1)
            assert (lost <= 1 / (2 * case.n) + 1e-9).all()
        gone |= fused.weights == 0
        before = evidence


@given(case=cases(max_n=1))
@settings(max_examples=60, deadline=None)
def test_one_row_of_all_passages_gives_the_published_form(case: Case) -> None:
    """CAD with the strength of the step; mixtures of logs between row 0 and that row."""
    log_probs, state = case.tensor(), case.state()
    rows, baseline = log_probs[:, 1], log_probs[:, 0]
    adaptive = AdaCad().fuse(log_probs, state).log_probs
    plain = AdaCad(floor=2.0).fuse(log_probs, state).log_probs
    assert_close(plain, Cad(2.0).fuse(log_probs, state).log_probs)
    acd = Acd().fuse(log_probs, state).log_probs
    for g in range(case.groups):
        strength = ref.jensen_shannon(rows[g].tolist(), baseline[g].tolist())
        assert -1e-9 <= strength <= math.log(2) + 1e-9
        assert_close(adaptive[g], Cad(max(strength, 0.0)).fuse(log_probs, state).log_probs[g])
    both = (rows > NEG_INF) & (baseline > NEG_INF)
    least, most = torch.minimum(rows, baseline), torch.maximum(rows, baseline)
    assert ((acd >= least - 1e-9) & (acd <= most + 1e-9))[both].all()


def test_ck_plug_is_a_dial_between_memory_and_passages() -> None:
    """The passage makes the model no surer, so that the dial counts."""
    p = torch.tensor([[[0.7, 0.2, 0.1], [0.2, 0.5, 0.3]]], dtype=torch.float64)
    chosen = [int(CkPlug(alpha=a).fuse(p.log(), FusionState()).log_probs.argmax()) for a in (0.0, 1.0)]
    assert chosen == [2, 0]  # 0.3 / 0.1 is the largest ratio; row 0 says the first
    sure = torch.tensor([[[0.4, 0.3, 0.3], [0.02, 0.97, 0.01]]], dtype=torch.float64)
    for alpha in (None, 0.0, 1.0):
        assert_close(CkPlug(alpha=alpha).fuse(sure.log(), FusionState()).log_probs, sure.log()[:, 1])


def test_dvd_reads_the_row_of_all_passages_as_its_prompt() -> None:
    p = torch.tensor([[[0.4, 0.3, 0.3], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3], [0.3, 0.6, 0.1]]]).double()
    state = FusionState(joint=torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64))
    fused = Dvd(top_p=1.0).fuse(p.log(), state)
    zero, plus, minus, whole = p[0].log()
    trust, gain = 0.3 - 0.1, 0.7 - 0.1
    assert_close(fused.log_probs[0], whole + trust * (whole - zero) + gain * (plus - minus))
    assert_close(fused.weights, [[1.0, 0.0, 0.0]])
    # Where that row is dropped, the surest passage stands for it again.
    state.evidence = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    left = state.keep(torch.tensor([0, 1]))
    expected = Dvd(top_p=1.0).fuse(p[:, :3].log(), FusionState()).log_probs
    assert_close(Dvd(top_p=1.0).fuse(p[:, :3].log(), left).log_probs, expected)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("impossible", [0.0, 0.4])
def test_posterior_that_never_moves_on_is_rag_sequence(n: int, impossible: float) -> None:
    """prod_t of the predictions = sum_k pi_k prod_t p_k(y_t), for every sequence there is."""
    vocab, length = 3, 4
    rng = np.random.default_rng(7 * n)
    sequences = list(itertools.product(range(vocab), repeat=length))
    model: dict[tuple[int, ...], np.ndarray[Any, np.dtype[np.float64]]] = {}
    for t in range(length):
        for prefix in itertools.product(range(vocab), repeat=t):
            logits = rng.normal(size=(n + 1, vocab)) * 2
            excluded = rng.random(logits.shape) < impossible
            excluded[:, 0] = False
            model[prefix] = log_softmax(np.where(excluded, NEG_INF, logits))
    scores, relevance = rng.uniform(0, 0.2, n), rng.normal(size=n)
    prior = np.exp(log_softmax(scores / 0.1 + 0.3 * relevance))

    # All sequences are questions of one batch.
    state = FusionState(
        scores=torch.tensor(np.tile(scores, (len(sequences), 1))),
        relevance=torch.tensor(np.tile(relevance, (len(sequences), 1))),
    )
    rule = Posterior(beta=0.0, gamma=0.0, epsilon=0.0, cutoff=0.0)
    product = torch.ones(len(sequences), dtype=torch.float64)
    for t in range(length):
        log_probs = torch.tensor(np.stack([model[y[:t]] for y in sequences]))
        tokens = torch.tensor([y[t] for y in sequences])
        fused = rule.fuse(log_probs, state)
        chosen = fused.log_probs.gather(-1, tokens[:, None])[:, 0]
        product = product * chosen.exp()
        state.evidence = evidence_for(fused, log_probs, tokens)

    expected = [
        math.fsum(
            prior[k] * math.prod(math.exp(model[y[:t]][k + 1, y[t]]) for t in range(length)) for k in range(n)
        )
        for y in sequences
    ]
    assert_close(product, expected, 1e-12)
    assert float(product.sum()) == pytest.approx(1.0, abs=1e-9)


@given(case=cases(max_vocab=20, kinds=["plain", "mixed"], infinities=False))
@settings(max_examples=80, deadline=None)
def test_mean_is_the_naive_bayes_product(case: Case) -> None:
    n = case.n
    for rule in (Mean(top_p=1.0), Mean(beta=n - 1.0, top_p=1.0)):
        p = case.tensor().exp()
        product = p[:, 1:].prod(1) / p[:, 0] ** (n - 1)
        fused = rule.fuse(case.tensor(), case.state())
        assert_close(fused.log_probs.softmax(-1), product / product.sum(-1, keepdim=True))


@given(case=cases(max_vocab=20, kinds=["plain", "sharp"]), data=st.data())
@settings(max_examples=60, deadline=None)
def test_experts_do_not_see_a_rows_offset(case: Case, data: st.DataObject) -> None:
    offsets = data.draw(hnp.arrays(np.float64, (case.n + 1, 1), elements=st.integers(-30, 30)))
    shifted = Case(log_softmax(case.log_probs + offsets), case.known, case.picks)
    steps = zip(play_clear(Experts(), case), play_clear(Experts(), shifted), strict=True)
    for (a, _, _), (b, _, _) in steps:
        assert_close(a.log_probs, b.log_probs)
        assert_close(a.weights, b.weights)


def test_experts_keep_the_divergence_of_the_first_step() -> None:
    first = torch.tensor([[[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64).log()
    later = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]] * 2, dtype=torch.float64).log()
    state = FusionState()
    Experts().fuse(first, state)
    fused = Experts().fuse(later, state).log_probs
    rows, baseline = later[:, 1], later[:, 0]
    assert_close(fused[0], rows[0])  # row and row 0 were the same: no contrast
    strength = math.log(2)  # nothing in common: the largest divergence there is
    assert_close(fused[1], (1 + strength) * rows[1] - strength * baseline[1])


@pytest.mark.parametrize(
    ("scores", "winner"),
    [
        ([0.5, 0.5], 0),
        ([0.2, 0.8], 1),
        ([0.0005, 0.004], 1),  # 0.001 and 0.004
        ([-1.0, 0.0005], 0),  # 0.001 both
        ([1.0, 7.0], 0),  # 1 both
    ],
)
def test_experts_clamp_the_scores(scores: list[float], winner: int) -> None:
    p = torch.tensor([[[0.5, 0.5], [0.9, 0.1], [0.6, 0.4]]], dtype=torch.float64)
    state = FusionState(scores=torch.tensor([scores], dtype=torch.float64))
    assert Experts(gamma=1.0).fuse(p.log(), state).weights.argmax(-1).tolist() == [winner]


@given(
    rule=rules(),
    case=cases(max_n=6, kinds=["plain", "sharp", "mixed"], infinities=False, equal_rows=False),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_order_of_passages_only_orders_the_evidence(
    rule: FusionRule, case: Case, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(case.n)))
    assume(not has_equal_rows(case))
    steps = zip(play_clear(rule, case), play(rule, case.with_passages(order)), strict=True)
    for (a, x, e), (b, y, f) in steps:
        assert_close(b.log_probs, a.log_probs)
        assert_close(b.weights, a.weights[:, order])
        assert x.tolist() == y.tolist()
        assert_close(f, e[:, order])


@given(case=cases(max_n=4, kinds=["plain", "sharp", "mixed"]), data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_passage_that_comes_twice_does_not_change_min_entropy(case: Case, data: st.DataObject) -> None:
    order = list(range(case.n))
    first = case.n if has_equal_rows(case) else 0  # a copy does not overtake a passage that it ties with
    order.insert(data.draw(st.integers(first, case.n)), data.draw(st.integers(0, case.n - 1)))
    for known in case.known:
        known.evidence = None  # halving it between the two would be another question
    rule = MinEntropy(beta=data.draw(beta), eta=data.draw(st.sampled_from([0.0, 0.1, 2.0])), alpha=0.1)
    steps = zip(play_clear(rule, case), play(rule, case.with_passages(order)), strict=True)
    for (a, _, _), (b, _, _) in steps:
        assert a.log_probs.argmax(-1).tolist() == b.log_probs.argmax(-1).tolist()
        assert_close(b.log_probs, a.log_probs)


@given(case=cases(), cutoff=st.floats(0.001, 1), beta=beta)
@settings(max_examples=100, deadline=None)
def test_posterior_cutoff_equals_masking_the_whole_mixture(case: Case, cutoff: float, beta: float) -> None:
    fused, weights = Posterior(beta=beta, cutoff=cutoff).fuse(case.tensor(), case.state())
    whole = Posterior(beta=0.0, gamma=0.0, cutoff=0.0).fuse(case.tensor(), case.state()).log_probs
    ratio = (whole - whole.amax(-1, keepdim=True)).exp()
    assume(not ((ratio - cutoff).abs() < 1e-9).any() or cutoff == 1)
    kept = ratio >= cutoff - 1e-9
    expected = torch.where(
        kept, Posterior(beta=beta, cutoff=0.0).fuse(case.tensor(), case.state())[0], NEG_INF
    )
    if cutoff < 1:
        assert_close(fused, expected)
    else:  # equal up to rounding: any of the best, and at least one
        assert (fused > NEG_INF).any(-1).all()
        assert not ((fused > NEG_INF) & ~kept).any()
    assert_close(weights.sum(-1), torch.ones(case.groups))


@given(case=cases(), beta=beta, gamma=st.floats(0, 4))
@settings(max_examples=60, deadline=None)
def test_posterior_gains_nothing_from_others_that_say_the_same(case: Case, beta: float, gamma: float) -> None:
    """Equal rows: what the others say is what is said, whatever the weights are."""
    log_probs = case.tensor()
    log_probs[:, 1:] = log_probs[:, 1:2]
    plain = Posterior(beta=beta, gamma=0.0, cutoff=0.0).fuse(log_probs, case.state())
    lifted = Posterior(beta=beta, gamma=gamma, cutoff=0.0).fuse(log_probs, case.state())
    assert_close(lifted.log_probs, plain.log_probs)
    assert_close(lifted.weights, plain.weights)


def test_posterior_prefers_what_only_the_supporting_passage_says() -> None:
    """Token 0 is said over any passage, token 1 over the leading one, token 2 over another one."""
    p = torch.tensor(
        [[[0.4, 0.3, 0.3], [0.5, 0.4, 0.1], [0.6, 0.01, 0.39], [0.7, 0.01, 0.29]]], dtype=torch.float64
    )
    scores = torch.tensor([[0.9, 0.2, 0.1]], dtype=torch.float64)
    chosen = [
        int(Posterior(beta=0.0, gamma=gamma).fuse(p.log(), FusionState(scores=scores)).log_probs.argmax())
        for gamma in (0.0, 0.5)
    ]
    assert chosen == [0, 1]


def test_posterior_over_one_passage_has_no_others() -> None:
    log_probs = torch.randn(2, 2, 30, dtype=torch.float64).log_softmax(-1)
    one, plain = (Posterior(gamma=gamma).fuse(log_probs, FusionState()).log_probs for gamma in (2.0, 0.0))
    assert_close(one, plain, 0)


def test_posterior_prior_weighs_what_is_known() -> None:
    rule = Posterior(tau=0.1, alpha=0.5)
    like = torch.zeros(1, 3, dtype=torch.float64)
    scores = torch.tensor([[0.5, 0.6, 0.7]], dtype=torch.float64)
    relevance = torch.tensor([[4.0, 0.0, -2.0]], dtype=torch.float64)
    refusal = torch.tensor([[0.0, 0.5, 0.75]], dtype=torch.float64)

    def ratios(**known: Tensor) -> list[float]:
        prior = rule.log_prior(FusionState(**known), like)  # type: ignore[arg-type]
        assert float(prior.exp().sum()) == pytest.approx(1.0)
        return (prior - prior[:, :1])[0].tolist()

    assert ratios() == [0, 0, 0]
    assert ratios(scores=scores) == pytest.approx([0, 1, 2])
    assert ratios(relevance=relevance) == pytest.approx([0, -2, -3])
    assert ratios(refusal=refusal) == pytest.approx([0, math.log(0.5), math.log(0.25)])
    together = [0, 1 - 2 + math.log(0.5), 2 - 3 + math.log(0.25)]
    assert ratios(scores=scores, relevance=relevance, refusal=refusal) == pytest.approx(together)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_posterior_where_every_passage_refuses(dtype: torch.dtype) -> None:
    log_probs = torch.randn(1, 4, 9, dtype=dtype).log_softmax(-1)
    everyone = Posterior().fuse(log_probs, FusionState(refusal=torch.ones(1, 3, dtype=dtype)))
    assert_close(everyone.weights, [[1 / 3] * 3], 1e-6)
    one = Posterior().fuse(log_probs, FusionState(refusal=torch.tensor([[1.0, 0.0, 1.0]], dtype=dtype)))
    assert_close(one.weights, [[0.0, 1.0, 0.0]], 1e-5)


def test_min_entropy_stays_with_the_previous_passage_by_eta() -> None:
    p = torch.tensor([[[0.5, 0.5, 0.0], [0.89, 0.11, 0.0], [0.0, 0.1, 0.9]]], dtype=torch.float64)
    for eta, winner in ((0.0, 1), (0.005, 1), (0.05, 0)):
        state = FusionState(evidence=torch.tensor([[1.0, 0.0]], dtype=torch.float64))
        fused = MinEntropy(eta=eta, top_p=1.0).fuse(p.log(), state)
        assert fused.weights.argmax(-1).tolist() == [winner]


def test_min_entropy_alpha_prefers_the_relevant_passage() -> None:
    p = torch.tensor([[[0.5, 0.5], [0.9, 0.1], [0.7, 0.3]]], dtype=torch.float64)
    relevance = torch.tensor([[0.0, 5.0]], dtype=torch.float64)
    for alpha, winner in ((0.0, 0), (0.01, 0), (0.1, 1)):
        fused = MinEntropy(alpha=alpha).fuse(p.log(), FusionState(relevance=relevance))
        assert fused.weights.argmax(-1).tolist() == [winner]


def test_mean_takes_whole_rows_where_their_nuclei_share_nothing() -> None:
    p = torch.tensor([[[0.4, 0.3, 0.3], [0.96, 0.03, 0.01], [0.01, 0.03, 0.96]]], dtype=torch.float64)
    fused = Mean(beta=0.0).fuse(p.log(), FusionState()).log_probs
    assert_close(fused, p[:, 1:].log().mean(1))


# ---------------------------------------------------------------------------------------------------------
# What holds for every rule


@given(rule=rules(), case=cases(max_vocab=30))
@settings(max_examples=200, deadline=None)
def test_weights_are_a_distribution_and_some_token_is_left(rule: FusionRule, case: Case) -> None:
    """Token 0 has a positive probability in every row of these cases."""
    for dtype in (torch.float64, torch.float32):
        for fused, _, evidence in play(rule, case, dtype):
            assert fused.log_probs.shape == (case.groups, case.log_probs.shape[-1])
            assert fused.weights.shape == (case.groups, case.n)
            assert fused.log_probs.dtype == fused.weights.dtype == dtype
            assert not fused.log_probs.isnan().any()
            assert (fused.log_probs < math.inf).all()
            assert (fused.log_probs > NEG_INF).any(-1).all()
            for share in (fused.weights, evidence):
                assert (share >= 0).all()
                assert_close(share.sum(-1), torch.ones(case.groups), 1e-5)


@given(
    rule=rules(),
    logits=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 2), st.integers(2, 5), st.integers(2, 6)),
        elements=st.floats(-(2.0**17), 2.0**17, width=32) | st.sampled_from([0.0, -1e4, 1e4, 88.0, -104.0]),
    ),
    side=st.floats(-1e3, 1e3),
)
@settings(max_examples=200, deadline=None)
def test_no_rule_yields_nan_on_finite_input(
    rule: FusionRule, logits: np.ndarray[Any, np.dtype[np.float32]], side: float
) -> None:
    log_probs = torch.tensor(logits).log_softmax(-1)
    groups, n = log_probs.shape[0], log_probs.shape[1] - 1
    some = torch.linspace(-1, 1, n).expand(groups, n) * side
    state = FusionState(some.clamp(-1, 1), some, some.abs().clamp(0, 1))
    for _ in range(2):
        fused = rule.fuse(log_probs, state)
        assert fused.log_probs.isfinite().any(-1).all()
        assert not fused.log_probs.isnan().any()
        assert not fused.weights.isnan().any()
        for token in range(logits.shape[-1]):
            evidence = evidence_for(fused, log_probs, torch.full((groups,), token))
            assert not evidence.isnan().any()
            state.evidence = evidence


@pytest.mark.parametrize("certain", [[0, 0, 0], [0, 1, 0], [0, 1, 2], [2, 0, 0]])
@each_rule
def test_rows_that_are_certain(rule: FusionRule, certain: list[int]) -> None:
    """One token with probability 1, the others -inf; the rows may even contradict each other."""
    log_probs = torch.full((1, 3, 3), NEG_INF)
    log_probs[0, range(3), certain] = 0.0
    fused = rule.fuse(log_probs, FusionState())
    assert not fused.log_probs.isnan().any()
    assert not fused.weights.isnan().any()
    if certain[1] == certain[2]:
        assert fused.log_probs.argmax(-1).tolist() == [certain[1]]
        assert (fused.log_probs > NEG_INF).sum() == 1


@given(rule=rules(), case=cases())
@settings(max_examples=100, deadline=None)
def test_questions_of_a_batch_do_not_see_each_other(rule: FusionRule, case: Case) -> None:
    together = play_clear(rule, case)
    for g in range(case.groups):
        for (a, x, e), (b, y, f) in zip(together, play(rule, case.only(g)), strict=True):
            assert_close(b.log_probs[0], a.log_probs[g])
            assert_close(b.weights[0], a.weights[g])
            assert int(y[0]) == int(x[g])
            assert_close(f[0], e[g])


@given(rule=rules(), case=cases())
@settings(max_examples=60, deadline=None)
def test_states_of_questions_can_be_joined_and_parted(rule: FusionRule, case: Case) -> None:
    """Joined at the first step, parted after it, joined again for the second: as if never parted."""
    whole = case.state()
    parts = [case.only(g).state() for g in range(case.groups)]
    for step in range(len(case.log_probs)):
        log_probs = case.tensor(step)
        expected = rule.fuse(log_probs, whole)
        joined = FusionState.stack(parts)
        actual = rule.fuse(log_probs, joined)
        assert torch.equal(actual.log_probs, expected.log_probs)
        assert torch.equal(actual.weights, expected.weights)
        parts = joined.unstack(case.groups)
        whole.evidence = evidence_for(expected, log_probs, torch.zeros(case.groups, dtype=torch.long))
        for g, part in enumerate(parts):
            for name in ("scores", "relevance", "refusal", "evidence", "joint"):
                own, all_of_them = getattr(part, name), getattr(joined, name)
                assert (own is None) == (all_of_them is None)
                assert own is None or torch.equal(own, all_of_them[g : g + 1])
            assert part.memory.keys() == whole.memory.keys()
            assert all(torch.equal(part.memory[name][0], whole.memory[name][g]) for name in whole.memory)
            part.evidence = whole.evidence[g : g + 1]


@each_rule
def test_input_is_not_modified(rule: FusionRule) -> None:
    generator = torch.Generator().manual_seed(3)
    log_probs = torch.randn(2, 4, 200, generator=generator).log_softmax(-1)
    log_probs[0, 1, 5] = NEG_INF
    sides = [torch.rand(2, 3, generator=generator) for _ in range(3)]
    evidence = torch.rand(2, 3, generator=generator).softmax(-1)
    state = FusionState(sides[0], sides[1], sides[2], evidence)
    before = [x.clone() for x in (log_probs, *sides, evidence)]
    first = rule.fuse(log_probs, state)
    second = rule.fuse(log_probs, state)
    for x, y in zip((log_probs, *sides, evidence), before, strict=True):
        assert torch.equal(x, y)
    assert state.scores is sides[0]
    assert state.evidence is evidence
    # ... and a step that is repeated gives the same again.
    assert torch.equal(first.log_probs, second.log_probs)
    assert torch.equal(first.weights, second.weights)


@each_rule
def test_knowledge_may_come_in_another_precision(rule: FusionRule) -> None:
    log_probs = torch.randn(1, 4, 50, generator=torch.Generator().manual_seed(5)).log_softmax(-1)
    known = torch.tensor([[0.1, 0.5, 0.9]], dtype=torch.float64)
    fused = rule.fuse(log_probs, FusionState(scores=known, relevance=known, refusal=known))
    assert fused.log_probs.dtype == fused.weights.dtype == torch.float32
    expected = rule.fuse(log_probs, FusionState(known.float(), known.float(), known.float()))
    assert_close(fused.log_probs, expected.log_probs, 1e-5)


@each_rule
def test_outputs_do_not_alias_what_the_next_step_reads(rule: FusionRule) -> None:
    generator = torch.Generator().manual_seed(4)
    log_probs = torch.randn(1, 3, 50, generator=generator).log_softmax(-1)
    state = FusionState(scores=torch.rand(1, 2, generator=generator))
    first = rule.fuse(log_probs, state)
    expected = first.log_probs.clone(), first.weights.clone()
    before = log_probs.clone()
    # Samplers mask scores in place.
    first.log_probs.fill_(NEG_INF)
    first.weights.zero_()
    assert torch.equal(log_probs, before)
    second = rule.fuse(log_probs, state)
    assert torch.equal(second.log_probs, expected[0])
    assert torch.equal(second.weights, expected[1])


@each_rule
@pytest.mark.parametrize("vocab", [40, 3000])
def test_float32_is_close_to_float64(rule: FusionRule, vocab: int) -> None:
    """Random rows have no ties, and none of these has a cumulative mass within rounding of top_p."""
    rng = np.random.default_rng(vocab)
    logits = rng.normal(size=(3, 2, 5, vocab)) * np.array([2.0, 1.0, 3.0, 0.5, 6.0])[:, None]
    known = [
        ref.Known(rng.uniform(0, 1, 4).tolist(), rng.normal(size=4).tolist(), rng.random(4).tolist())
        for _ in range(2)
    ]
    case = Case(log_softmax(logits), known, [0.0, 0.5, 0.9])
    steps = zip(play(rule, case), play(rule, case, torch.float32), strict=True)
    for (double, x, e), (single, y, f) in steps:
        assert single.log_probs.dtype == torch.float32
        assert_close(single.log_probs, double.log_probs, 2e-4)
        assert_close(single.weights, double.weights, 2e-4)
        assert x.tolist() == y.tolist()
        assert_close(f, e, 2e-4)


def test_untruncated_allows_every_token() -> None:
    log_probs = torch.randn(1, 4, 100, dtype=torch.float64).log_softmax(-1) * 1.0
    for kind in RULES.values():
        rule = kind()
        whole = rule.untruncated()
        assert type(whole) is kind
        assert (whole.fuse(log_probs, FusionState()).log_probs > NEG_INF).all()
        cut = {"top_p": 1.0, "cutoff": 0.0} | ({"gamma": 0.0, "least": 0.0} if kind is Posterior else {})
        changed = {name: cut[name] for name in rule.__dict__ if name in cut}
        assert whole == replace(rule, **changed)  # type: ignore[type-var]
    assert MinEntropy(0.5, 0.2, 0.8, 0.3).untruncated() == MinEntropy(0.5, 0.2, 1.0, 0.3)
    assert Mean(0.5, 0.8).untruncated() == Mean(0.5, 1.0)
    assert Max(0.5, 0.8).untruncated() == Max(0.5, 1.0)
    whole = Posterior(0.5, 0.0, 0.2, 0.4, 0.3, 0.0, least=0.0)
    assert Posterior(0.5, 1.5, 0.2, 0.4, 0.3, 0.2).untruncated() == whole


# ---------------------------------------------------------------------------------------------------------
# Evidence


share = st.just(0.0) | st.floats(1e-6, 1)


@given(
    weights=hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 6)), elements=share),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_responsibilities_are_bayes_rule(
    weights: np.ndarray[Any, np.dtype[np.float64]], data: st.DataObject
) -> None:
    assume((weights.sum(-1) > 1e-3).all())
    weights = weights / weights.sum(-1, keepdims=True)
    elements = st.floats(-50, 0) | st.just(NEG_INF)
    token = data.draw(hnp.arrays(np.float64, weights.shape, elements=elements))
    evidence = responsibilities(torch.tensor(weights), torch.tensor(token))
    for g in range(len(weights)):
        assert_close(evidence[g], ref.bayes(weights[g].tolist(), token[g].tolist()))
    assert_close(evidence.sum(-1), np.ones(len(weights)))


def test_responsibilities_of_an_impossible_token_are_the_weights() -> None:
    weights = torch.tensor([[0.25, 0.75, 0.0], [0.25, 0.75, 0.0], [0.5, 0.25, 0.25]])
    token = torch.tensor([[NEG_INF] * 3, [NEG_INF, NEG_INF, -1.0], [NEG_INF, -2.0, -2.0]])
    expected = [[0.25, 0.75, 0.0], [0.25, 0.75, 0.0], [0.0, 0.5, 0.5]]
    assert_close(responsibilities(weights, token), expected, 1e-6)


def test_responsibilities_of_tiny_probabilities() -> None:
    """Far below what float32 can hold as a probability."""
    evidence = responsibilities(torch.tensor([0.5, 0.5]), torch.tensor([-1000.0, -1000.0 + math.log(3)]))
    assert_close(evidence, [0.25, 0.75], 1e-4)


# ---------------------------------------------------------------------------------------------------------
# Choosing a rule


def test_rules_go_by_their_names() -> None:
    assert list(RULES)[:5] == ["min-entropy", "mean", "max", "experts", "posterior"]
    for name, kind in RULES.items():
        assert resolve_rule(name) == kind()
        assert kind().name == name
    assert resolve_rule("posterior", beta=0.5, cutoff=0) == Posterior(beta=0.5, cutoff=0)
    assert resolve_rule("mean", beta=2.0) == Mean(beta=2.0)


def test_a_rule_of_ones_own() -> None:
    """The rule of the module's docstring."""

    class Vote:
        name = "vote"

        def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
            rows = log_probs[:, 1:]
            weights = rows.amax(-1).softmax(-1)
            return Fused((rows.exp() * weights[..., None]).sum(1).log(), weights)

    vote = Vote()
    assert resolve_rule(vote) is vote
    p = torch.tensor([[[0.5, 0.5], [0.6, 0.4], [0.2, 0.8]]], dtype=torch.float64)
    fused = vote.fuse(p.log(), FusionState())
    assert_close(fused.weights, [[0.6 / 1.4, 0.8 / 1.4]])
    assert_close(fused.log_probs.exp(), [[0.52 / 1.4, 0.88 / 1.4]])


def test_instances_are_taken_as_they_are() -> None:
    rule = Posterior(beta=0.0)
    assert resolve_rule(rule) is rule


@pytest.mark.parametrize(
    ("rule", "given_numbers", "told"),
    [
        ("postirior", {}, ["'postirior'", *RULES]),
        ("", {}, ["''", *RULES]),
        ("experts", {"beta": 0.5}, ["experts", "beta", "gamma"]),
        ("mean", {"eta": 0.5, "alpha": 1.0}, ["alpha, eta", "beta", "top_p"]),
        ("posterior", {"tau": 0.0}, ["tau=0.0"]),
        (Posterior, {}, ["Posterior", "posterior", "fuse"]),
        (None, {}, ["None", "posterior", "fuse"]),
        (3, {}, ["3", "posterior", "fuse"]),
    ],
)
def test_what_is_no_rule(rule: Any, given_numbers: dict[str, float], told: list[str]) -> None:
    with pytest.raises(InputError) as error:
        resolve_rule(rule, **given_numbers)
    for words in told:
        assert words in str(error.value)


OUT_OF_RANGE: dict[str, list[float]] = {
    "beta": [-1.0, -2.0],
    "eta": [-0.1],
    "top_p": [0.0, -0.5, 1.01],
    "alpha": [-0.1],
    "gamma": [-1.0],
    "focus": [-0.1, 1.1],
    "tau": [0.0, -0.1],
    "epsilon": [-0.01, 1.01],
    "cutoff": [-0.01, 1.01],
    "opening": [-0.01, 1.01],
    "together": [-1.0],
    "extract": [-0.1, 1.0],
}


@pytest.mark.parametrize("kind", list(RULES.values()), ids=lambda kind: kind.name)
def test_numbers_out_of_range_are_named(kind: type[FusionRule]) -> None:
    assert ranges_of(kind).keys() == kind().__dict__.keys()
    for option, numbers in ranges_of(kind).items():
        for value in [*OUT_OF_RANGE.get(option, ()), *outside(numbers), math.nan, math.inf, NEG_INF]:
            with pytest.raises(InputError) as error:
                kind(**{option: value})
            assert f"{kind.__name__}: {option}={value!r}" in str(error.value)


def test_numbers_at_the_edge_of_their_range_are_fine() -> None:
    MinEntropy(beta=-0.999, eta=0, top_p=1, alpha=0)
    Mean(beta=-0.999, top_p=1e-6)
    Max(beta=0, top_p=1)
    Experts(gamma=0)
    Posterior(beta=0, tau=1e-3, alpha=0, epsilon=0, cutoff=0)
    Posterior(epsilon=1, cutoff=1)
    log_probs = torch.randn(1, 4, 9).log_softmax(-1)
    smallest = Posterior(cutoff=math.ulp(0.0)).fuse(log_probs, FusionState()).log_probs
    assert_close(smallest, Posterior(cutoff=0.0).fuse(log_probs, FusionState()).log_probs, 1e-5)


@given(case=cases())
@settings(max_examples=50, deadline=None)
def test_a_long_answer_opens_without_contrast_and_goes_on_with_it(case: Case) -> None:
    long = Posterior().for_long()
    assert long == Posterior(opening=0.0, least=0.0, together=4)
    log_probs = case.tensor()
    plain = Posterior(beta=0.0, gamma=0.0, least=0.0)
    first, later = case.state(), case.state()
    first.evidence = None
    assert_close(long.fuse(log_probs, first).log_probs, plain.fuse(log_probs, first).log_probs)
    later.evidence = torch.full_like(log_probs[:, 1:, 0], 1 / case.n)
    assert_close(long.fuse(log_probs, later).log_probs, Posterior(least=0.0).fuse(log_probs, later).log_probs)


@each_rule
def test_a_number_that_is_given_stays_in_long_answers(rule: FusionRule) -> None:
    numbers = values_of(rule)
    assert {
        name: values_of(rule.for_long())[name] for name, value in numbers.items() if value is not None
    } == {name: value for name, value in numbers.items() if value is not None}
    assert rule.for_long().for_long() == rule.for_long()
    some = Posterior(opening=0.5, least=0.1, together=0)
    assert some.for_long() == some
    assert Posterior(opening=0.5, least=0.1).for_long().apart() == some


def test_a_label_has_the_numbers_that_are_not_the_usual_ones() -> None:
    assert [kind().label for kind in RULES.values()] == list(RULES)
    assert Posterior(epsilon=0.2, focus=0).label == "posterior(epsilon=0.2,focus=0)"
    assert Posterior().for_long().label == "posterior(least=0,opening=0,together=4)"
    assert Mean(beta=0).label == "mean(beta=0)"


def test_what_a_rule_needs_is_known_beforehand() -> None:
    needs = {rule: (rule.uses_relevance, rule.uses_refusal) for rule in (kind() for kind in RULES.values())}
    assert (
        needs.items()
        >= {
            MinEntropy(): (False, False),
            Mean(): (False, False),
            Max(): (False, False),
            Experts(): (False, False),
            Posterior(): (True, True),
        }.items()
    )
    assert MinEntropy(alpha=0.1).uses_relevance
    assert not Posterior(alpha=0.0).uses_relevance


def test_posterior_lifts_by_all_others_without_a_matrix_of_them() -> None:
    torch.manual_seed(0)
    n = 7
    weights = torch.randn(3, n, dtype=torch.float64).mul(20).softmax(-1)
    rows = torch.randn(3, n, dtype=torch.float64)
    log_p = (rows + weights.log()).logsumexp(-1)
    others = (weights @ (1 - torch.eye(n, dtype=torch.float64))).log()
    expected = log_p - (rows + others - math.log(n - 1)).logsumexp(-1)
    assert torch.allclose(_lift(log_p, rows, weights), expected, rtol=1e-9)
