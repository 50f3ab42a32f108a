"""Slow, obvious references of the fusion rules: float64, plain Python, one question, one token at a time.

Written from the published formulas and the docstrings of `nbce_rag.fusion`, not from its code: full
sorts, full sums, loops over passages and tokens. A reference works on `rows`, a list of n + 1 lists of
V log-probs (row 0 read no passage), and remembers what it needs between steps.

Where a formula's outcome hangs on the last bits of a number (a cumulative mass that equals top_p, two
different rows with the same entropy), no reference can say what another order of summation must find:
it raises `CloseCall`, and the test draws another example. Equal rows are not close calls: there the
rules promise the lower index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "REFERENCES",
    "CloseCall",
    "Known",
    "Reference",
    "bayes",
    "contrast",
    "entropy",
    "jensen_shannon",
    "normalise",
    "nucleus",
]

NEG_INF = -math.inf
CLOSE = 1e-9

Row = Sequence[float]


class CloseCall(Exception):
    """The outcome depends on rounding."""


def normalise(logits: Row) -> list[float]:
    """Log-softmax; at least one finite logit."""
    top = max(logits)
    log_total = top + math.log(math.fsum(math.exp(x - top) for x in logits))
    return [x - log_total for x in logits]


def nucleus(row: Row, top_p: float) -> set[int]:
    """Tokens kept by top-p: descending, while the mass before them is < top_p, and ties with the last."""
    if top_p == 1:
        return set(range(len(row)))
    kept: list[int] = []
    mass = 0.0
    for v in sorted(range(len(row)), key=lambda v: -row[v]):
        tie = bool(kept) and row[v] == row[kept[-1]]
        if kept and not tie and abs(mass - top_p) < CLOSE:
            raise CloseCall
        if kept and not tie and mass >= top_p:
            break
        kept.append(v)
        mass += math.exp(row[v])
    return set(kept)


def truncate(row: Row, top_p: float) -> list[float]:
    kept = nucleus(row, top_p)
    return [x if v in kept else NEG_INF for v, x in enumerate(row)]


def entropy(row: Row) -> float:
    """-sum p log p over the tokens that are not -inf, not renormalised; nats."""
    return -math.fsum(math.exp(x) * x for x in row if x != NEG_INF)


def contrast(pooled: float, baseline: float, beta: float) -> float:
    """One token: (1 + beta) pooled - beta baseline; an excluded token stays so."""
    if pooled == NEG_INF or baseline == NEG_INF:
        return pooled
    return (1 + beta) * pooled - beta * baseline


def contrast_rows(pooled: Row, baseline: Row, beta: float) -> list[float]:
    return [contrast(x, y, beta) for x, y in zip(pooled, baseline, strict=True)]


def jensen_shannon(p_row: Row, q_row: Row) -> float:
    terms = []
    for a, b in zip(p_row, q_row, strict=True):
        p, q = math.exp(a), math.exp(b)
        if p > 0:
            terms.append(0.5 * p * math.log(p / (0.5 * (p + q))))
        if q > 0:
            terms.append(0.5 * q * math.log(q / (0.5 * (p + q))))
    return math.fsum(terms)


def bayes(weights: Row, token_log_probs: Row) -> list[float]:
    """weights_k * p_k(token), normalised; the weights where that is zero for all."""
    joint = [w * math.exp(x) for w, x in zip(weights, token_log_probs, strict=True)]
    total = math.fsum(joint)
    return list(weights) if total == 0 else [x / total for x in joint]


def mean(values: Row) -> float:
    return NEG_INF if NEG_INF in values else math.fsum(values) / len(values)


def lowest(keys: Sequence[float], rows: Sequence[Row]) -> int:
    """Index of the smallest key, among equal rows the first."""
    best = min(range(len(keys)), key=lambda k: keys[k])
    for k, key in enumerate(keys):
        same = key == keys[best] and list(rows[k]) == list(rows[best])
        if not same and abs(key - keys[best]) < CLOSE:
            raise CloseCall
    return best


@dataclass
class Known:
    """What is known about the n passages of one question besides the log-probs; None: unknown."""

    scores: list[float] | None = None
    relevance: list[float] | None = None
    refusal: list[float] | None = None
    evidence: list[float] | None = None  # for the token before the first step
    joint: list[float] | None = None  # 1 for the row that reads all passages, if there is one
    extract: list[float] | None = None  # 1 for the row that reads sentences of several


REFERENCES: dict[str, type[Reference]] = {}
"""The reference of each rule, by the name of the rule. It is made from `Known` and the rule's numbers."""


class Reference:
    """A rule: `fuse` gives (fused scores, weights), `observe` tells it which token was chosen."""

    def __init_subclass__(cls, rule: str) -> None:
        REFERENCES[rule] = cls

    def __init__(self, known: Known) -> None:
        self.known = known
        self.evidence = known.evidence
        self.weights: list[float] = []

    def fuse(self, rows: Sequence[Row]) -> tuple[list[float], list[float]]:
        fused, self.weights = self.step(rows[1:], rows[0])
        return fused, self.weights

    def step(self, passages: Sequence[Row], baseline: Row) -> tuple[list[float], list[float]]:
        raise NotImplementedError

    def observe(self, rows: Sequence[Row], token: int) -> list[float]:
        """The evidence for the token: Bayes' rule over the passages."""
        self.evidence = bayes(self.weights, [row[token] for row in rows[1:]])
        return self.evidence


def one_hot(k: int, n: int) -> list[float]:
    return [float(j == k) for j in range(n)]


class ReferenceMinEntropy(Reference, rule="min-entropy"):
    def __init__(self, known: Known, beta: float, eta: float, top_p: float, alpha: float) -> None:
        super().__init__(known)
        self.beta, self.eta, self.top_p, self.alpha = beta, eta, top_p, alpha
        # The row of the previous step: kept here as a number, not read off the evidence.
        self.previous: int | None = None
        if known.evidence is not None:
            self.previous = max(range(len(known.evidence)), key=lambda k: (known.evidence or [])[k])

    def step(self, passages: Sequence[Row], baseline: Row) -> tuple[list[float], list[float]]:
        cut = [truncate(row, self.top_p) for row in passages]
        keys = []
        for k, row in enumerate(cut):
            key = entropy(row)
            if k == self.previous:
                key -= self.eta
            if self.known.relevance is not None:
                key -= self.alpha * self.known.relevance[k]
            keys.append(key)
        k = lowest(keys, passages)
        self.previous = k
        fused = contrast_rows(cut[k], truncate(baseline, self.top_p), self.beta)
        return fused, one_hot(k, len(passages))


class ReferenceMean(Reference, rule="mean"):
    def __init__(self, known: Known, beta: float | None, top_p: float) -> None:
        super().__init__(known)
        self.beta, self.top_p = beta, top_p

    def step(self, passages: Sequence[Row], baseline: Row) -> tuple[list[float], list[float]]:
        n = len(passages)
        beta = n - 1 if self.beta is None else self.beta
        cut = [truncate(row, self.top_p) for row in passages]
        cut_baseline = truncate(baseline, self.top_p)
        if all(any(row[v] == NEG_INF for row in cut) for v in range(len(baseline))):
            cut, cut_baseline = [list(row) for row in passages], list(baseline)
        pooled = [mean([row[v] for row in cut]) for v in range(len(baseline))]
        return contrast_rows(pooled, cut_baseline, beta), [1 / n] * n


class ReferenceMax(Reference, rule="max"):
    def __init__(self, known: Known, beta: float, top_p: float) -> None:
        super().__init__(known)
        self.beta, self.top_p = beta, top_p

    def step(self, passages: Sequence[Row], baseline: Row) -> tuple[list[float], list[float]]:
        n = len(passages)
        cut = [truncate(row, self.top_p) for row in passages]
        pooled = [max(row[v] for row in cut) for v in range(len(baseline))]
        return contrast_rows(pooled, truncate(baseline, self.top_p), self.beta), [1 / n] * n


class ReferenceExperts(Reference, rule="experts"):
    def __init__(self, known: Known, gamma: float) -> None:
        super().__init__(known)
        self.gamma = gamma
        self.strengths: list[float] | None = None

    def step(self, passages: Sequence[Row], baseline: Row) -> tuple[list[float], list[float]]:
        if self.strengths is None:
            self.strengths = [min(1.0, max(0.0, jensen_shannon(row, baseline))) for row in passages]
        experts = [contrast_rows(row, baseline, b) for row, b in zip(passages, self.strengths, strict=True)]
        keys = []
        for k, expert in enumerate(experts):
            key = max(expert)
            if self.known.scores is not None:
                key += self.gamma * math.log(min(1.0, max(0.001, self.known.scores[k])))
            keys.append(-key)
        k = lowest(keys, passages)
        return experts[k], one_hot(k, len(passages))


class ReferencePosterior(Reference, rule="posterior"):
    def __init__(
        self,
        known: Known,
        beta: float,
        gamma: float,
        tau: float,
        alpha: float,
        epsilon: float,
        cutoff: float,
        least: float | None,
        opening: float | None,
        extract: float,
    ) -> None:
        super().__init__(known)
        self.beta, self.gamma, self.tau = beta, gamma, tau
        self.extract = extract
        self.opening = 1.0 if opening is None else opening
        self.alpha, self.epsilon, self.cutoff = alpha, epsilon, cutoff
        self.least = 0.03 if least is None else least

    def prior(self, n: int) -> list[float]:
        logits = [0.0] * n
        for k in range(n):
            if self.known.scores is not None:
                logits[k] += self.known.scores[k] / self.tau
            if self.known.relevance is not None:
                logits[k] += self.alpha * self.known.relevance[k]
        extracts = self.known.extract or [0.0] * n
        if self.extract and 0 < sum(extracts) < n:
            for kind, share in ((1.0, self.extract), (0.0, 1 - self.extract)):
                some = [k for k in range(n) if extracts[k] == kind]
                for k, log_share in zip(some, normalise([logits[k] for k in some]), strict=True):
                    logits[k] = log_share + math.log(share)
        for k in range(n):
            if self.known.refusal is not None:
                logits[k] += math.log(max(1e-6, 1 - self.known.refusal[k]))
        most = max(logits)
        for k in range(n):
            share = math.exp(logits[k] - most)
            if self.least > 0 and logits[k] != most and abs(share - self.least) < CLOSE:
                raise CloseCall
            if share < self.least:
                logits[k] = NEG_INF
        return [math.exp(x) for x in normalise(logits)]

    def step(self, passages: Sequence[Row], baseline: Row) -> tuple[list[float], list[float]]:
        n, vocab = len(passages), len(baseline)
        prior = self.prior(n)
        weights = prior
        if self.evidence is not None:
            weights = [
                (1 - self.epsilon) * w + self.epsilon * pi for w, pi in zip(self.evidence, prior, strict=True)
            ]
        p = [math.fsum(weights[k] * math.exp(passages[k][v]) for k in range(n)) for v in range(vocab)]
        best = max(range(vocab), key=lambda v: p[v])
        fused = []
        contrasts = self.opening if self.evidence is None else 1.0
        for v in range(vocab):
            ratio = p[v] / p[best]
            same = all(row[v] == row[best] for row in passages)
            if self.cutoff > 0 and not same and abs(ratio - self.cutoff) < CLOSE:
                raise CloseCall
            log_p = math.log(p[v]) if p[v] > 0 else NEG_INF
            score = contrast(log_p, baseline[v], contrasts * self.beta)
            if n > 1 and self.evidence is None:
                others = [math.fsum(weights[:k] + weights[k + 1 :]) for k in range(n)]
                b = math.fsum(others[k] * math.exp(passages[k][v]) for k in range(n)) / (n - 1)
                if b > 0 and p[v] > 0:
                    score += contrasts * self.gamma * (log_p - math.log(b))
            fused.append(score if ratio >= self.cutoff else NEG_INF)
        return fused, weights


class ReferenceBerag(Reference, rule="berag"):
    def __init__(self, known: Known, tau: float, mass: float | None) -> None:
        super().__init__(known)
        self.tau, self.mass = tau, mass

    def step(self, passages: Sequence[Row], baseline: Row) -> tuple[list[float], list[float]]:
        n = len(passages)
        scores = self.known.scores or [0.0] * n
        prior = [math.exp(x) for x in normalise([score / self.tau for score in scores])]
        q = prior if self.evidence is None else self.evidence
        bound = 1 - 1 / (2 * n) if self.mass is None else self.mass
        stay: list[int] = []
        for k in sorted(range(n), key=lambda k: -q[k]):
            held = math.fsum(q[j] for j in stay)
            if bound < 1 and stay:
                if abs(held - bound) < CLOSE or (held >= bound and abs(q[k] - q[stay[-1]]) < CLOSE):
                    raise CloseCall
                if held >= bound:
                    break
            stay.append(k)
        total = math.fsum(q[k] for k in stay)
        left = [q[k] / total if k in stay else 0.0 for k in range(n)]
        p = [math.fsum(left[k] * math.exp(passages[k][v]) for k in stay) for v in range(len(baseline))]
        return [math.log(x) if x > 0 else NEG_INF for x in p], left


class ReferenceDvd(Reference, rule="dvd"):
    def __init__(self, known: Known, top_p: float) -> None:
        super().__init__(known)
        self.top_p = top_p

    def step(self, passages: Sequence[Row], baseline: Row) -> tuple[list[float], list[float]]:
        joint = self.known.joint or [0.0] * len(passages)
        singles = [k for k in range(len(passages)) if not joint[k]]
        cut = [truncate(row, self.top_p) for row in passages]
        zero = truncate(baseline, self.top_p)
        entropies = [self.top_entropy(row) for row in cut]
        plus = singles[lowest([entropies[k] for k in singles], [passages[k] for k in singles])]
        minus = singles[lowest([-entropies[k] for k in singles], [passages[k] for k in singles])]
        whole = plus if len(singles) == len(passages) else joint.index(1.0)
        full = cut[whole]
        if (
            abs(10 * self.top_entropy(zero) - self.top_entropy(full)) < CLOSE
            and self.top_entropy(full) > CLOSE
        ):
            raise CloseCall
        remembers = 10 * self.top_entropy(zero) < self.top_entropy(full)
        g = max(self.lead(cut[plus]) - self.lead(cut[minus]), 0.0)
        b = max(self.lead(full) - self.lead(zero), 0.0)
        fused = []
        for f, z, high, low in zip(full, zero, cut[plus], cut[minus], strict=True):
            if low == NEG_INF or (z == NEG_INF and not remembers):
                fused.append(f)
            elif NEG_INF in (high, z) or (f == NEG_INF and not remembers):
                fused.append(NEG_INF)
            elif remembers:
                fused.append(z + g * (high - low))
            else:
                fused.append((1 + b) * f - b * z + g * (high - low))
        if max(fused) == NEG_INF:
            fused = full
        return fused, one_hot(plus, len(passages))

    @staticmethod
    def top_entropy(row: Row) -> float:
        return entropy(sorted(row, reverse=True)[:10])

    @staticmethod
    def lead(row: Row) -> float:
        p = sorted((math.exp(x) for x in normalise(row)), reverse=True)
        return p[0] - p[1]


def surest(passages: Sequence[Row]) -> int:
    """The row of least entropy, which stands for one prompt of all passages."""
    return lowest([entropy(row) for row in passages], passages)


class ReferenceAdaCad(Reference, rule="adacad"):
    def __init__(self, known: Known, floor: float) -> None:
        super().__init__(known)
        self.floor = floor

    def step(self, passages: Sequence[Row], baseline: Row) -> tuple[list[float], list[float]]:
        k = surest(passages)
        a = max(jensen_shannon(passages[k], baseline), self.floor)
        return contrast_rows(passages[k], baseline, a), one_hot(k, len(passages))


class ReferenceAcd(Reference, rule="acd"):
    def step(self, passages: Sequence[Row], baseline: Row) -> tuple[list[float], list[float]]:
        k = surest(passages)
        without, within = entropy(baseline), entropy(passages[k])
        a = without / (without + within) if without + within > 0 else 0.5
        fused = [
            f if NEG_INF in (f, z) else z + a * (f - z) for f, z in zip(passages[k], baseline, strict=True)
        ]
        return fused, one_hot(k, len(passages))


class ReferenceCkPlug(Reference, rule="ck-plug"):
    def __init__(self, known: Known, alpha: float | None, cutoff: float) -> None:
        super().__init__(known)
        self.alpha, self.cutoff = alpha, cutoff

    def likely(self, row: Row) -> set[int]:
        tenth, best = sorted(row, reverse=True)[:10][-1], max(row)
        for x in row:
            if self.cutoff > 0 and x != best and abs(x - best - math.log(self.cutoff)) < CLOSE:
                raise CloseCall
        share = best + math.log(self.cutoff) if self.cutoff > 0 else NEG_INF
        return {v for v, x in enumerate(row) if x >= tenth or x >= share}

    def step(self, passages: Sequence[Row], baseline: Row) -> tuple[list[float], list[float]]:
        k = surest(passages)
        row = passages[k]
        left = sorted(self.likely(row) | self.likely(baseline))
        h_f = entropy(normalise([row[v] for v in left]))
        h_0 = entropy(normalise([baseline[v] for v in left]))
        if abs(h_0 - 2 * h_f) < CLOSE and h_f > 0:
            raise CloseCall
        fused = [NEG_INF] * len(row)
        for v in left:
            f, z = row[v], baseline[v]
            if NEG_INF in (f, z) or h_0 >= 2 * h_f:
                fused[v] = f
            elif self.alpha is None:
                m = 1 + abs(h_f - h_0) / (h_f + h_0)
                fused[v] = 2 * z * h_f / (h_f + m * h_0) + 2 * (f - z) * h_0 / (h_f + m * h_0)
            else:
                fused[v] = self.alpha * z + (1 - self.alpha) * (f - z)
        return fused, one_hot(k, len(passages))
