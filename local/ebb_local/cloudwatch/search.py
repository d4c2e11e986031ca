"""Search expressions: which metrics `{Namespace,Dimension} Name="value" word` means.

Words are matched against whole tokens of namespace, name and dimensions, `Property=word` against those of one of them,
quoted values as they stand; AND (the default), OR, NOT and brackets combine them. Only metrics that were published
within two weeks are found, 500 at most.
Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/search-expression-syntax.html
"""

import re
from collections.abc import Callable

from ebb_local.cloudwatch.expressions import ExpressionError
from ebb_local.cloudwatch.store import Series

MOST_FOUND = 500
_SCHEMA = re.compile(r"\s*\{([^}]*)\}\s*(.*)", re.DOTALL)
_TERM = re.compile(
    r"\s*(?:(?P<sign>[()])|(?P<word>AND|OR|NOT)\b|(?P<property>[\w.:/#-]+)\s*=\s*(?P<value>\"[^\"]*\"|[^\s()]+)"
    r"|(?P<bare>\"[^\"]*\"|[^\s()\"]+))"
)
Test = Callable[[Series], bool]


def matcher(text: str) -> Test:
    """Return the test that a search expression makes of a metric. Raises ExpressionError."""
    schema = _SCHEMA.fullmatch(text)
    terms = schema.group(2) if schema else text
    tests: list[Test] = []
    if schema:
        namespace, *names = [part.strip().strip('"') for part in schema.group(1).split(",")]
        wanted = sorted(names)
        tests.append(lambda series: series.namespace == namespace and [name for name, _ in series.dimensions] == wanted)
    if terms.strip():
        tests.append(_Terms(terms).whole())
    return lambda series: all(test(series) for test in tests)


class _Terms:
    """Reads the terms of a search: OR binds loosest, AND may be left out."""

    def __init__(self, text: str) -> None:
        self._found: list[dict[str, str | None]] = []
        self._place, at = 0, 0
        while text[at:].strip():
            match = _TERM.match(text, at)
            if not match:
                raise ExpressionError(f"unexpected '{text[at:].strip()[:10]}' in a search")
            self._found.append(match.groupdict())
            at = match.end()

    def whole(self) -> Test:
        test = self._either()
        if self._place < len(self._found):
            raise ExpressionError("a bracket too many in a search")
        return test

    def _is(self, kind: str, text: str) -> bool:
        return self._place < len(self._found) and self._found[self._place][kind] == text

    def _either(self) -> Test:
        tests = [self._both()]
        while self._is("word", "OR"):
            self._place += 1
            tests.append(self._both())
        return lambda series: any(test(series) for test in tests)

    def _both(self) -> Test:
        tests = [self._one()]
        while self._place < len(self._found) and not self._is("word", "OR") and not self._is("sign", ")"):
            if self._is("word", "AND"):
                self._place += 1
            tests.append(self._one())
        return lambda series: all(test(series) for test in tests)

    def _one(self) -> Test:
        if self._place >= len(self._found):
            raise ExpressionError("a search ends too early")
        term = self._found[self._place]
        self._place += 1
        if term["word"] == "NOT":
            inner = self._one()
            return lambda series: not inner(series)
        if term["sign"] == "(":
            inside = self._either()
            if not self._is("sign", ")"):
                raise ExpressionError("a bracket is missing in a search")
            self._place += 1
            return inside
        return _term(term["property"], term["value"] or term["bare"] or "")


def _term(name: str | None, wanted: str) -> Test:
    exact, text = wanted.startswith('"'), wanted.strip('"')

    def test(series: Series) -> bool:
        values = _values(series, name)
        return text in values if exact and name else any(_holds(value, text) for value in values)

    return test


def _values(series: Series, name: str | None) -> list[str]:
    if name is None:
        return [series.namespace, series.name, *(part for pair in series.dimensions for part in pair)]
    if name in ("MetricName", "Namespace"):
        return [series.name if name == "MetricName" else series.namespace]
    return [value for dimension, value in series.dimensions if dimension == name.removeprefix(":aws.")]


def _holds(value: str, wanted: str) -> bool:
    tokens = {token.lower() for token in re.split(r"[^A-Za-z0-9]+", value)} | {
        token.lower() for token in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", value)
    }
    return value.lower() == wanted.lower() or all(
        part.lower() in tokens for part in re.split(r"[^A-Za-z0-9]+", wanted) if part
    )
