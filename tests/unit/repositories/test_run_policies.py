"""What the answers of the run repository depend on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tidegate.cache.tags import template
from tidegate.repositories.pagination import InfiniteScrollPagination
from tidegate.repositories.policies import GUARD
from tidegate.repositories.run_policies import MOST_DAYS, days, page_days, range_days

APP = "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20"
NOON = datetime(2026, 3, 1, 12, 0)  # noqa: DTZ001  # columns are naive UTC
OF_APP = (GUARD, f"app:{APP}")


def test_days_are_spelt_as_rows_spell_theirs() -> None:
    of_row = template("runs:{app_id}:{created_at:day}")
    for moment in (NOON, NOON.replace(year=500), NOON.replace(year=1, month=1, day=2)):
        assert days(APP, moment, moment)[0] == of_row.expand({"app_id": APP, "created_at": moment})


def test_a_page_depends_on_its_days_or_on_its_app() -> None:
    def tags(span: tuple[datetime, datetime] | None) -> list[str]:
        return list(page_days({"app_id": APP}, InfiniteScrollPagination([], 20, has_more=True, span=span)))

    assert tags(None) == list(OF_APP)
    assert tags((NOON, NOON - timedelta(days=1))) == [
        f"runs:{APP}:20260228",
        f"runs:{APP}:20260301",
        f"app:{APP}",
    ]
    assert len(tags((NOON, NOON - timedelta(days=MOST_DAYS - 1)))) == MOST_DAYS + 1
    assert tags((NOON, NOON - timedelta(days=MOST_DAYS))) == list(OF_APP)


def test_statistics_depend_on_the_days_of_a_closed_range_in_utc() -> None:
    def tags(start: datetime | None, end: datetime | None) -> list[str]:
        return list(range_days({"app_id": APP, "start_date": start, "end_date": end}, []))

    assert tags(NOON, None) == tags(None, NOON) == tags(NOON, NOON - timedelta(days=3)) == list(OF_APP)
    aware = NOON.replace(tzinfo=UTC)
    assert tags(aware, aware + timedelta(hours=1)) == [f"runs:{APP}:20260301", f"app:{APP}"]
