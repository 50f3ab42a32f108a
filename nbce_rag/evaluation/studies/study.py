"""What all studies share: the data, the engine, runs that are kept in a folder, and what they hand back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ...checks import COUNT
from ...embedding.resolve import EmbedderLike
from ...embedding.sentence_transformer import DEFAULT_EMBEDDER
from ...engine.nbce import NBCE
from ...errors import InputError
from ...files import write_json, write_whole
from ...passages import Passage
from ..data.dataset import Dataset
from ..data.questions import Question
from ..log import Row, RunLog
from ..methods.names import parse_methods
from ..metrics import Figures
from ..retrieval import embedder_name, retrieve
from ..runner import MAX_TOKENS, Progress, evaluate, in_style
from . import STUDIES
from .pictures import Draw, require_matplotlib

__all__ = ["Finding", "Study", "run_study"]


@dataclass(frozen=True)
class Finding:
    """What a study found.

    Attributes:
        title: of table and picture.
        about: what was done and what the columns are, in sentences.
        columns: keys of the rows that the table shows, and their heads.
        rows: one mapping a line, in JSON types.
        draw: draws the picture.
    """

    title: str
    about: str
    columns: Mapping[str, str]
    rows: Sequence[Row]
    draw: Draw


@dataclass(frozen=True)
class Study:
    """Data, engine and folder of a study.

    Attributes:
        out: folder of logs, tables and pictures. The same study goes on there where it ended.
        data: all questions and passages.
        nbce: the engine. `run_study` sets the style that suits the study, "long" in `long` and "short" in the
            others, where the engine has neither a style nor a wording of its own.
        methods: names of the methods; None takes the study's own.
        k: passages read where the study does not vary them; None takes the study's own.
        points: the numbers that are tried; None takes the study's own.
        limit, seed, half: which questions, see `Dataset.sample`.
        batch_size, max_tokens: as in `evaluate`.
        embedder: as in `PassageIndex.create`.
        progress: as in `evaluate`.
    """

    out: Path
    data: Dataset
    nbce: NBCE
    methods: str | None = None
    k: int | None = None
    points: tuple[int, ...] | None = None
    limit: int | None = None
    seed: int = 0
    half: int | None = None
    batch_size: int = 8
    max_tokens: int | None = None
    embedder: EmbedderLike = DEFAULT_EMBEDDER
    progress: Progress | None = field(default=None, compare=False)

    @property
    def sample(self) -> Dataset:
        """The questions that are asked."""
        return self.data.sample(self.limit, seed=self.seed, half=self.half)

    @property
    def depth(self) -> int:
        """How many passages a question can have."""
        if self.data.own_contexts:
            return max(len(question.contexts) for question in self.data.questions)
        return len(self.data.passages)

    def log(self, name: str) -> Path:
        """Where the run of this name is logged."""
        return self.out / "logs" / f"{name}.jsonl"

    def run(self, name: str, data: Dataset, *, methods: str, k: int, **changes: Any) -> Figures:
        """An evaluation of a sample, logged under a name; its report, of these methods only."""
        options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "max_tokens": self.max_tokens,
            "model": self.nbce,
            "embedder": self.embedder,
            "index": None if data.own_contexts else self.out / "index",
            "log": self.log(name),
            "progress": self.progress,
        } | changes
        report = evaluate(None, data, methods=methods, k=k, **options)
        names = [method.name for method in parse_methods(methods)]
        return report | {"methods": {name: report["methods"][name] for name in names}}

    def rows(self, name: str, methods: str) -> dict[str, list[Row]]:
        """Lines about answers of a run, by method, in the order of the questions."""
        log = RunLog.read(self.log(name))
        place = {id_: number for number, id_ in enumerate(log.retrieval)}
        by_method: dict[str, list[Row]] = {method.name: [] for method in parse_methods(methods)}
        for (method, _), row in sorted(log.rows.items(), key=lambda item: place[item[0][1]]):
            if method in by_method:
                by_method[method].append(row)
        return {method: rows for method, rows in by_method.items() if rows}

    def search(self, k: int) -> dict[str, list[Passage]]:
        """The k best passages of each question of the sample."""
        data = self.sample
        header = {"dataset_sha256": data.sha256, "k": k, "embedder": embedder_name(self.embedder)}
        log = RunLog.resume(self.log(f"search-{k}"), header)
        try:
            return retrieve(data, log, k, self.embedder, self.out / "index")
        finally:
            log.close()

    def over(
        self, name: str, contexts: Callable[[Question], Sequence[Passage] | None], **changes: Any
    ) -> Dataset:
        """The sample, each question over passages of its own; without those that get None.

        Raises:
            InputError: no question is left.
        """
        questions: list[Question] = []
        passages: dict[str, Passage] = {}
        for question in self.sample.questions:
            own = contexts(question)
            if own is not None:
                questions.append(replace(question, contexts=tuple(own), **changes))
                passages |= {passage.id: passage for passage in own}
        if not questions:
            raise InputError(f"No question of {self.data.name} suits this study; it needs gold passages.")
        for question in questions:
            passages |= {id_: self.data.passages[id_] for id_ in question.gold_ids}
        return Dataset(f"{self.data.name}-{name}", tuple(questions), passages, own_contexts=True)

    def possible(self, points: Sequence[int], most: int) -> list[int]:
        """The user's points, else these, up to what the data allows.

        Raises:
            InputError: there is none, or one below 1.
        """
        order = sorted(set(self.points or points))
        COUNT.check("points", order[0])
        if not (rest := [point for point in order if point <= most]):
            raise InputError(f"{self.data.name} has {most} passages to choose from; give points up to that.")
        return rest

    def settings(self) -> Figures:
        """What a reader has to know to make it again."""
        return {
            "dataset": self.data.name,
            "questions": len(self.sample.questions),
            "limit": self.limit,
            "seed": self.seed,
            "half": self.half,
            "model": self.nbce.model.name,
            "dtype": self.nbce.model.dtype,
            "style": self.nbce.options.style,
            "max_tokens": self.max_tokens,
        }


def run_study(name: str, study: Study) -> Finding:
    """Runs a study and writes NAME.md, NAME.json and NAME.png into its folder.

    Raises:
        InputError: an unknown study, or data that do not suit it.
        MissingDependencyError: matplotlib is not installed.
    """
    if name not in STUDIES:
        raise InputError(f"Unknown study {name!r}; choose one of {', '.join(STUDIES)}.")
    require_matplotlib()
    module = import_module(f".{name}", __package__)
    find: Callable[[Study], Finding] = module.find
    nbce = in_style(study.nbce, None, getattr(module, "STYLE", "short"))
    max_tokens = study.max_tokens or MAX_TOKENS[nbce.options.style or "short"]
    study = replace(study, nbce=nbce, max_tokens=max_tokens)
    finding = find(study)
    settings = study.settings()
    write_json(
        study.out / f"{name}.json",
        {"study": name, "title": finding.title, "about": finding.about, "settings": settings}
        | {"rows": list(finding.rows)},
    )
    write_whole(study.out / f"{name}.md", _markdown(name, finding, settings).encode())
    write_whole(study.out / f"{name}.png", finding.draw())
    return finding


def _markdown(name: str, finding: Finding, settings: Figures) -> str:
    about = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
    lines = [
        f"# {finding.title}",
        "",
        finding.about,
        "",
        f"{about}.",
        "",
        f"![{finding.title}]({name}.png)",
        "",
    ]
    lines += [f"| {' | '.join(finding.columns.values())} |", f"|{' --- |' * len(finding.columns)}"]
    lines += [f"| {' | '.join(cell(row.get(key)) for key in finding.columns)} |" for row in finding.rows]
    return "\n".join(lines) + "\n"


def cell(value: object) -> str:
    """A value as a table shows it: numbers with three decimals, intervals as "a to b", nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, (list, tuple)):
        return " to ".join(cell(bound) for bound in value)
    return str(value).replace("|", "\\|")
