"""Which tests run where: all in `make soak`, nearly all in CI, a sample of each kind in `make test`.

**A matrix.** Of a test with two parameters or more, every value of each is kept, and not each with each; of one
parameter with many values, every third, another third from test to test. In CI that goes for tests marked ``matrix``,
in `make test` for all, however few values there are; and in both for a run on another release of a library
(``--thin``).

**A file.** In `make test`, every second test of a file that starts servers or processes, and with ``--thin`` every
third. Of those without, unit tests and the simulation, all are there.

The rules are fixed: the same tests run each time.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final
from zlib import crc32

import pytest

from real_servers.amounts import IS_SHORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_THIRD: Final = 3
_MANY: Final = 6
_FEW: Final = 3
"""A file with fewer tests is left as it is."""
_WITHOUT_SERVERS: Final = ("tests/unit/", "tests/simulation/", "tests/typing/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thin", action="store_true", help="sample every parametrised test: see real_servers.sampling")


@pytest.hookimpl(tryfirst=True)  # before those with the mark are deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    thin = bool(config.getoption("--thin"))
    left_out = list(_of_matrices(items, thin=thin or IS_SHORT))
    if IS_SHORT:
        left_out += _of_files(items, 3 if thin else 2)
    for item in left_out:
        item.add_marker(pytest.mark.soak)


def _of_matrices(items: Sequence[pytest.Item], *, thin: bool) -> Iterable[pytest.Item]:
    cases: defaultdict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        wanted = thin or item.get_closest_marker("matrix")
        if wanted and isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            cases[item.nodeid.split("[")[0]].append(item)
    for name, of_one_test in cases.items():
        yield from _of_one(name, of_one_test, thin=thin)


def _of_one(name: str, cases: Sequence[pytest.Function], *, thin: bool) -> Iterable[pytest.Function]:
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


def _of_files(items: Sequence[pytest.Item], every: int) -> Iterable[pytest.Item]:
    files: defaultdict[str, dict[str, list[pytest.Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        if not item.nodeid.startswith(_WITHOUT_SERVERS):
            files[item.nodeid.split("::")[0]][item.nodeid.split("[")[0]].append(item)
    for name, tests in files.items():
        if len(tests) >= _FEW:
            begin = crc32(name.encode())
            yield from (item for at, cases in enumerate(tests.values(), begin) if at % every for item in cases)
