"""Metric math: what the Expression of a metric query means.

An expression yields a number, a series (moment -> number) or several series. Series are joined on the moments that both
have; a comparison yields 1 or 0. Functions that are not in `_FUNCTIONS` are refused by name.
Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html. That FILL fills a series
in which nothing was published at all: assumed.
"""

import itertools
import math
import operator
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Points = dict[int, float]


class ExpressionError(Exception):
    """The expression cannot be understood or is not for this cloud; the text says where."""


class Labelled(NamedTuple):
    """One of several series, and what it is called."""

    label: str
    points: Points


Result = float | Points | list[Labelled]


@dataclass(frozen=True)
class Scope:
    """What an expression can see: the results of other queries, the moments of the whole range, and searches."""

    results: Mapping[str, Result]
    metrics: Sequence[str]  # ids of the queries that name a metric, for METRICS()
    moments: Sequence[int]
    period_s: int
    search: Callable[[str, str, int], list[Labelled]]


_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<sign>==|!=|<=|>=|&&|\|\||[-+*/^<>(),\[\]]))"
)
_COMPARE: dict[str, Callable[[float, float], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def identifiers(expression: str) -> set[str]:
    """Return the ids that an expression refers to; METRICS() refers to none by name."""
    tokens = [match.groupdict() for match in _TOKEN.finditer(expression)]
    return {token["name"] for token in tokens if token["name"] and token["name"][0].islower()}


def evaluate(expression: str, scope: Scope) -> Result:
    """Return what an expression yields. Raises ExpressionError."""
    parser = _Parser(expression, scope)
    result = parser.logical()
    if parser.sign():
        raise ExpressionError(f"unexpected '{parser.sign()}' in {expression}")
    if isinstance(result, str):
        raise ExpressionError(f"{expression} is a text")
    return result


class _Parser:
    """Reads and evaluates in one pass, from the loosest binding operator to the tightest."""

    def __init__(self, expression: str, scope: Scope) -> None:
        self._tokens: list[tuple[str, str]] = []
        self._place, self._scope = 0, scope
        at = 0
        while expression[at:].strip():
            match = _TOKEN.match(expression, at)
            if not match:
                raise ExpressionError(f"unexpected '{expression[at:].strip()[:10]}' in {expression}")
            kind = str(match.lastgroup)
            self._tokens.append((kind, match.group(kind)))
            at = match.end()

    def sign(self) -> str:
        """Return the token in hand, empty at the end."""
        return self._tokens[self._place][1] if self._place < len(self._tokens) else ""

    def _take(self, expected: str = "") -> tuple[str, str]:
        if self._place >= len(self._tokens) or (expected and self.sign() != expected):
            raise ExpressionError(f"expected '{expected or 'a value'}' before '{self.sign() or 'the end'}'")
        self._place += 1
        return self._tokens[self._place - 1]

    def logical(self) -> Any:
        left = self._comparison()
        while self.sign() in ("AND", "OR", "&&", "||"):
            apply = _both if self._take()[1] in ("AND", "&&") else _either
            left = _joined(left, self._comparison(), apply)
        return left

    def _comparison(self) -> Any:
        left = self._sum()
        while self.sign() in _COMPARE:
            left = self._binary(left, self._sum, _COMPARE)
        return left

    def _sum(self) -> Any:
        left = self._product()
        while self.sign() in ("+", "-"):
            left = self._binary(left, self._product, {"+": operator.add, "-": operator.sub})
        return left

    def _product(self) -> Any:
        left = self._power()
        while self.sign() in ("*", "/"):
            left = self._binary(left, self._power, {"*": operator.mul, "/": _divide})
        return left

    def _power(self) -> Any:
        left = self._unary()
        while self.sign() == "^":
            left = self._binary(left, self._unary, {"^": operator.pow})
        return left

    def _binary(self, left: Any, right: Callable[[], Any], known: dict[str, Callable[[float, float], Any]]) -> Any:
        apply = known[self._take()[1]]
        return _joined(left, right(), apply)

    def _unary(self) -> Any:
        if self.sign() == "-":
            self._take()
            return _mapped(self._unary(), operator.neg)
        return self._atom()

    def _atom(self) -> Any:
        kind, text = self._take()
        if kind == "number":
            return float(text)
        if kind == "text":
            return text[1:-1]
        if text == "(":
            inside = self.logical()
            self._take(")")
            return inside
        if text == "[":
            return _as_many(self._list("]"))
        if kind == "name" and self.sign() == "(":
            self._take()
            return self._call(text)
        if kind == "name" and text in self._scope.results:
            return self._scope.results[text]
        if kind == "name" and text in ("REPEAT", "LINEAR"):
            return text
        raise ExpressionError(f"'{text}' is no id of this request")

    def _list(self, closing: str) -> list[Any]:
        items: list[Any] = []
        while self.sign() != closing:
            items.append(self.logical())
            if self.sign() != closing:
                self._take(",")
        self._take(closing)
        return items

    def _call(self, name: str) -> Any:
        arguments = self._list(")")
        if name not in _FUNCTIONS:
            raise ExpressionError(f"the embedded cloud does not know the function {name}")
        try:
            return _FUNCTIONS[name](self._scope, *arguments)
        except TypeError as error:
            raise ExpressionError(f"{name} cannot take these arguments") from error


def _both(left: float, right: float) -> float:
    return float(bool(left and right))


def _either(left: float, right: float) -> float:
    return float(bool(left or right))


def _divide(left: float, right: float) -> float | None:
    return left / right if right else None


def _joined(left: Any, right: Any, apply: Callable[[float, float], Any]) -> Any:
    """Apply to two numbers, to each moment that both series have, or to each of several series."""
    if isinstance(left, list) or isinstance(right, list):
        many, other = (left, right) if isinstance(left, list) else (right, left)
        if isinstance(other, list):
            raise ExpressionError("two lists of series cannot be combined")
        pairs = [(each.points, other) if isinstance(left, list) else (other, each.points) for each in many]
        return [Labelled(each.label, _joined(*pair, apply)) for each, pair in zip(many, pairs, strict=True)]
    if isinstance(left, dict) and isinstance(right, dict):
        found = {moment: apply(left[moment], right[moment]) for moment in left if moment in right}
    elif isinstance(left, dict):
        found = {moment: apply(value, right) for moment, value in left.items()}
    elif isinstance(right, dict):
        found = {moment: apply(left, value) for moment, value in right.items()}
    else:
        result = apply(left, right)
        return float("nan") if result is None else float(result)
    return {moment: float(value) for moment, value in found.items() if value is not None}


def _mapped(value: Any, apply: Callable[[float], Any]) -> Any:
    if isinstance(value, list):
        return [Labelled(each.label, _mapped(each.points, apply)) for each in value]
    if isinstance(value, dict):
        return {moment: apply(number) for moment, number in value.items()}
    return apply(value)


def _points(value: Any) -> Points:
    if not isinstance(value, dict):
        raise ExpressionError("a series is wanted here")
    return value


def _as_many(items: Sequence[Any]) -> list[Labelled]:
    """Return a list of series; several in it are put side by side."""
    many: list[Labelled] = []
    for number, item in enumerate(items):
        many += item if isinstance(item, list) else [Labelled(str(number), _points(item))]
    return many


def _over(apply: Callable[[list[float]], float]) -> Callable[..., Any]:
    """Make an aggregate: of one series a number, of several series a series."""

    def aggregate(scope: Scope, value: Any) -> Any:
        if isinstance(value, list):
            moments = sorted({moment for each in value for moment in each.points})
            return {
                moment: apply([each.points[moment] for each in value if moment in each.points]) for moment in moments
            }
        if isinstance(value, dict):
            return apply(list(value.values())) if value else {}
        return value

    return aggregate


def _fill(scope: Scope, value: Any, filler: Any) -> Any:
    if isinstance(value, list):
        return [Labelled(each.label, _fill(scope, each.points, filler)) for each in value]
    points = _points(value)
    if isinstance(filler, dict):
        return {**{moment: filler[moment] for moment in scope.moments if moment in filler}, **points}
    if not isinstance(filler, str):
        return {moment: points.get(moment, filler) for moment in scope.moments}
    return _repeated(points, scope.moments) if filler == "REPEAT" else _interpolated(points, scope.moments)


def _repeated(points: Points, moments: Sequence[int]) -> Points:
    found: Points = {}
    for moment in moments:
        if moment in points:
            found[moment] = points[moment]
        elif found:
            found[moment] = found[max(found)]
    return found


def _interpolated(points: Points, moments: Sequence[int]) -> Points:
    known = sorted(points)
    found = dict(points)
    for moment in moments:
        before = [each for each in known if each < moment]
        after = [each for each in known if each > moment]
        if moment not in points and before and after:
            first, last = before[-1], after[0]
            share = (moment - first) / (last - first)
            found[moment] = points[first] + share * (points[last] - points[first])
    return dict(sorted(found.items()))


def _if(scope: Scope, condition: Any, then: Any, otherwise: Any = None) -> Any:
    if not isinstance(condition, dict):
        return then if condition else ({} if otherwise is None else otherwise)

    def at(branch: Any, moment: int) -> float | None:
        return branch.get(moment) if isinstance(branch, dict) else branch

    found = {moment: at(then if met else otherwise, moment) for moment, met in condition.items()}
    return {moment: value for moment, value in found.items() if value is not None}


def _metrics(scope: Scope, part: str = "") -> list[Labelled]:
    return _as_many([scope.results[name] for name in scope.metrics if part in name])


def _search(scope: Scope, text: str, statistic: str, period: float = 0) -> list[Labelled]:
    return scope.search(text, statistic, int(period) or scope.period_s)


def _rate(scope: Scope, value: Any) -> Any:
    if isinstance(value, list):
        return [Labelled(each.label, _rate(scope, each.points)) for each in value]
    ordered = sorted(_points(value).items())
    return {
        later: (second - first) / (later - earlier) for (earlier, first), (later, second) in itertools.pairwise(ordered)
    }


def _running_sum(scope: Scope, value: Any) -> Points:
    total, found = 0.0, {}
    for moment, number in sorted(_points(value).items()):
        total += number
        found[moment] = total
    return found


def _first_or_last(place: int) -> Callable[..., Any]:
    return lambda scope, many: many[place].points if isinstance(many, list) else many


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "SUM": _over(sum),
    "AVG": _over(statistics.fmean),
    "MIN": _over(min),
    "MAX": _over(max),
    "STDDEV": _over(statistics.pstdev),
    "DATAPOINT_COUNT": _over(lambda values: float(len(values))),
    "ABS": lambda scope, value: _mapped(value, abs),
    "CEIL": lambda scope, value: _mapped(value, lambda number: float(math.ceil(number))),
    "FLOOR": lambda scope, value: _mapped(value, lambda number: float(math.floor(number))),
    "FILL": _fill,
    "IF": _if,
    "METRICS": _metrics,
    "SEARCH": _search,
    "RATE": _rate,
    "RUNNING_SUM": _running_sum,
    "PERIOD": lambda scope, value: float(scope.period_s),
    "TIME_SERIES": lambda scope, value: {moment: value for moment in scope.moments},
    "FIRST": _first_or_last(0),
    "LAST": _first_or_last(-1),
}
