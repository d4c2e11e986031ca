"""What the report's page consists of, as text and numbers: `view` fills it, `page` renders it."""

from dataclasses import dataclass

from ebb.report import charts, spent


@dataclass(frozen=True)
class Figure:
    """One number at a glance."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table: its caption, the names of its columns, its rows, and which columns hold numbers (from 0)."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Problem:
    """Why a run did not succeed, and what to do."""

    message: str
    where: tuple[str, ...]
    remedy: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Lane:
    """A stage in the timeline."""

    name: str
    told: str
    bar: charts.Bar | None


@dataclass(frozen=True)
class Cell:
    """A count of a confusion matrix; `heat` is its share of its row in percent, `right` says that it is no mistake."""

    count: int
    heat: int
    right: bool


@dataclass(frozen=True)
class Confusion:
    """How the test rows of each class were answered."""

    caption: str
    labels: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Residuals:
    """How far the answers are from the truth: quantiles, and where they stand between the outermost, in percent."""

    table: Table
    low: float
    quarter: float
    middle: float
    three_quarters: float
    high: float
    zero: float | None


@dataclass(frozen=True)
class Decision:
    """What was decided, with its reason and what it was judged on."""

    what: str
    chosen: str
    reason: str
    numbers: tuple[tuple[str, str], ...] = ()
    alternatives: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Group:
    """The decisions of one stage."""

    title: str
    decisions: tuple[Decision, ...]
    opened: bool


@dataclass(frozen=True)
class Page:
    """Everything that the page shows, as text."""

    run_id: str
    project: str
    status: str
    tone: str
    headline: str
    when: str
    glance: tuple[Figure, ...]
    problem: Problem | None
    asked: Table
    spec: Table
    lanes: tuple[Lane, ...]
    whole: str
    stages: Table
    ladder: Table | None
    search: str
    pareto: charts.Pareto | None
    quality: str
    legend: tuple[tuple[str, str], ...]
    candidates: Table | None
    comparison: Table | None
    payback: str
    confusion: Confusion | None
    residuals: Residuals | None
    serving: Table | None
    served: str
    footprint: Table | None
    reaches: tuple[spent.Group, ...]
    avoided: Table | None
    saved: str
    greener: tuple[str, ...]
    groups: tuple[Group, ...]
    brief: bool
    sources: Table
    made_from: tuple[tuple[str, str], ...]
