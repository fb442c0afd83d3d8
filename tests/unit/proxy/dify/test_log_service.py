"""Which calls of a host's pages of logs are asked of the cache, and what is no page of the shape that is known."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Integer, StaticPool, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from tidegate.proxy.dify.log_service import LogService, OtherShapeError, is_untouched, lacking, taken_apart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows_of_a_host"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)


@pytest.fixture
def maker() -> Iterator[sessionmaker[Session]]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Row(id=1))
    yield sessionmaker(engine)
    engine.dispose()


def hold(session: Session) -> Row:
    row = session.get_one(Row, 1)
    session.commit()
    return row


TOUCHES: dict[str, Callable[[Session], Any]] = {
    "read": lambda session: session.execute(text("SELECT 1")),
    "nest": lambda session: session.begin_nested(),
    "delete": lambda session: session.delete(session.get_one(Row, 1)),
    "add": lambda session: session.add(Row(id=2)),
    "hold": hold,
    "listen": lambda session: event.listen(session, "do_orm_execute", lambda _: None),
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_a_session_that_has_done_anything_is_not_untouched(maker: sessionmaker[Session], touch: str) -> None:
    with maker() as session:
        assert is_untouched(session)
        held = TOUCHES[touch](session)  # a session forgets rows that nobody holds
        assert not is_untouched(session), held


def test_a_session_that_has_begun_and_done_nothing_is_untouched(maker: sessionmaker[Session]) -> None:
    with maker.begin() as session:
        assert is_untouched(session)
    with Session(maker.kw["bind"]) as session:
        assert is_untouched(session)


def test_what_is_another_session_than_sqlalchemy_s_own_is_not_untouched(maker: sessionmaker[Session]) -> None:
    class Choosing(Session):
        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            return super().get_bind(*args, **kwargs)

    assert not is_untouched(sessionmaker(maker.kw["bind"], class_=Choosing)())
    assert not is_untouched(scoped_session(maker))
    assert not is_untouched(None)


class View:
    def __init__(self, log: Any, details: Any) -> None:
        self.log = log
        self.details_ = details


def page(*items: Any, **more: Any) -> dict[str, Any]:
    return {"page": 1, "limit": 20, "total": 3, "has_more": False, "data": list(items), **more}


def test_a_log_of_two_items_is_one_row() -> None:
    one, two = Row(id=1), Row(id=2)
    found = taken_apart(page(*(View(log, {"trigger_metadata": str(log.id)}) for log in (one, two, one))), View)
    assert found.rows == [one, two]
    assert found.data == {
        "page": 1,
        "limit": 20,
        "total": 3,
        "has_more": False,
        "logs": [0, 1, 0],
        "metadata": ["1", "2", "1"],
    }


class Other(View):
    pass


def with_more(view: View) -> View:
    view.__dict__["more"] = 1
    return view


@pytest.mark.parametrize(
    "given",
    [
        None,
        SimpleNamespace(data=[]),
        page(cursor=""),
        {**page(), "data": ()},
        page(Other(Row(), None)),
        page(with_more(View(Row(), None))),
        page(View(Row(), {"trigger_metadata": "", "more": 1})),
    ],
    ids=["nothing", "no mapping", "another key", "a tuple", "another class", "an attribute more", "a detail more"],
)
def test_a_page_of_another_shape_is_not_taken_apart(given: Any) -> None:
    with pytest.raises(OtherShapeError):
        taken_apart(given, View)


def test_a_release_that_lacks_a_parameter_or_demands_another_is_left_as_it_is() -> None:
    def known(
        self: Any, *, session: Any, app_model: Any, created_at_before: Any, created_at_after: Any, page: int, limit: int
    ) -> None: ...

    def fewer(self: Any, *, session: Any, app_model: Any, page: int, limit: int) -> None: ...

    def more(
        self: Any,
        *,
        session: Any,
        app_model: Any,
        created_at_before: Any,
        created_at_after: Any,
        page: int,
        limit: int,
        region: str,
    ) -> None: ...

    why = [lacking(inspect.signature(one)) for one in (known, fewer, more)]
    assert why == [
        "",
        "this release has no parameter created_at_after, created_at_before",
        "nothing is known of its parameter region",
    ]
    assert LogService(SimpleNamespace(), object, known).lacking == "it has no LogView"
    assert LogService(SimpleNamespace(LogView=View), object, known).lacking == ""
