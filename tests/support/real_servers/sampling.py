"""Which cases of a matrix `make test` runs: each way and each driver is there, and not each with each.

Of a test marked ``matrix``, with two parameters or more, every value of each is kept; of one parameter with many
values, every third, another third from test to test. The rest is for `make soak`. With ``--thin``, for a run on another
release of a library, that goes for all tests, however few values there are. The rule is fixed: the same cases run each
time.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final
from zlib import crc32

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_THIRD: Final = 3
_MANY: Final = 6


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thin", action="store_true", help="sample every parametrised test: see real_servers.sampling")


@pytest.hookimpl(tryfirst=True)  # before those with the mark are deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    cases: defaultdict[str, list[pytest.Function]] = defaultdict(list)
    thin = bool(config.getoption("--thin"))
    for item in items:
        wanted = thin or item.get_closest_marker("matrix")
        if wanted and isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            cases[item.nodeid.split("[")[0]].append(item)
    for name, of_one_test in cases.items():
        for item in _left_out(name, of_one_test, thin=thin):
            item.add_marker(pytest.mark.soak)


def _left_out(name: str, cases: Sequence[pytest.Function], *, thin: bool) -> Iterable[pytest.Function]:
    # A column for each parametrization; a value is known by its id, and told by when it came first.
    columns = list(zip(*(case.callspec._idlist for case in cases), strict=True))
    numbers = [{value: n for n, value in enumerate(dict.fromkeys(column))} for column in columns]
    sizes = [len(each) for each in numbers if len(each) > 1]
    if len(sizes) > 1:
        every, begin = min(sizes), 0
    elif sizes and sizes[0] >= (_THIRD if thin else _MANY):
        every, begin = _THIRD, crc32(name.encode())
    else:
        return []
    rows = zip(*columns, strict=True)
    places = [begin + sum(numbers[n][value] for n, value in enumerate(row)) for row in rows]
    return [case for case, place in zip(cases, places, strict=True) if place % every]
