"""What errors say: never a password, whatever the drivers quote of it. The errors are the drivers' own."""

from __future__ import annotations

from typing import Any

import psycopg
import psycopg2
import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tidegate import error_text
from tidegate.error_text import first_line, remember_password, traceback_text, without_passwords
from tidegate.errors import SettingsError

DRIVERS = (psycopg, psycopg2)
PASSWORDS = (
    "hid den",
    "hid'den",
    'hid"den',
    "hid@den",
    "hid/den",
    "hid%den",
    "hid\\den",
    "hid den=x",
    "[hidden",
    "hi:d#den?",
)
FORMS = (
    "host=127.0.0.1 port=1 user=u password={}",
    "host=127.0.0.1 port=1 password='{}' user=u",
    "postgresql://u:{}@127.0.0.1:1/db",
    "postgresql://127.0.0.1:1/db?user=u&password={}",
    "host=127.0.0.1 port=1 user=u passfile={}",
)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_text, "_known", type(error_text._known)())


def failure(driver: Any, conninfo: str) -> BaseException:
    with pytest.raises((driver.Error, ValueError)) as raised:
        driver.connect(conninfo, connect_timeout=2)
    error: BaseException = raised.value
    return error


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_no_piece_of_a_password_that_nobody_knows_is_said(driver: Any, password: str, form: str) -> None:
    error = failure(driver, form.format(password))
    wrapped = DBAPIError("SELECT 1", None, error)
    for said in (first_line(error), first_line(wrapped), without_passwords(str(error)), traceback_text(error)):
        assert "hid" not in said, said
        assert "den" not in said, said
    assert first_line(error)


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_password_that_is_known_is_masked_in_every_spelling(driver: str, password: str) -> None:
    url = URL.create(f"postgresql+{driver}", "u", password, "127.0.0.1", 1, "db")
    remember_password(password)
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    texts = [
        f"what now: {password}",
        f"what now: {quoted}",
        url.render_as_string(hide_password=False),
        f"connect({password!r})",
        f"FATAL: {{'a': {password!r}}}",
    ]
    for text in texts:
        said = without_passwords(text, by_driver=False)
        assert "den" not in said, said
        assert "***" in said
    engine = create_engine(url, connect_args={"connect_timeout": 2})
    with pytest.raises(DBAPIError) as raised:
        engine.connect()
    assert "Connection refused" in first_line(raised.value)


def test_the_password_of_the_environment_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "hidden word")
    assert without_passwords("FATAL: hidden word") == "FATAL: ***"


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect: host=h password=hid den user=x",
        "cannot connect: host=h password='hid den' user=x",
        "cannot connect: host=h user=x password=hid den",
        "connect(host='h', password='hid den', user='x')",
        "bad arguments: {'host': 'h', 'password': 'hid den'}",
        "PGPASSWORD=hid den psql",
    ],
)
def test_what_stands_where_a_password_belongs_is_masked(text: str) -> None:
    said = without_passwords(text, by_driver=False)
    assert "hid" not in said
    assert "den" not in said
    assert said.startswith(text[:6])


def test_a_quoted_piece_of_a_password_that_is_known_is_masked() -> None:
    remember_password("hid@den.part")
    said = without_passwords('could not translate host name "den.part" to address: Name or service not known')
    assert said == 'could not translate host name "***" to address: Name or service not known'


def test_a_password_of_two_lines_is_masked() -> None:
    remember_password("hid\nden")
    assert without_passwords("FATAL: hid\nden") == "FATAL: ***"
    assert without_passwords("FATAL: " + repr("hid\nden"), by_driver=False) == "FATAL: '***'"
    assert first_line(ValueError("FATAL: hid\nden")) == "FATAL: ***"


def test_a_short_password_is_masked_as_a_word_only() -> None:
    remember_password("at")
    assert without_passwords("wait at a gate") == "wait *** a gate"


def test_only_so_many_passwords_are_known() -> None:
    for number in range(1000):
        remember_password(f"token-{number}")
    assert len(error_text._known) == error_text._MOST_KNOWN
    assert without_passwords("token-999") == "***"


KEPT = (
    'connection to server at "db-1.example", port 5432 failed: Connection refused',
    'connection to server on socket "/run/postgresql/.s.PGSQL.5432" failed: No such file or directory',
    'FATAL:  password authentication failed for user "dify"',
    'FATAL:  database "dify" does not exist',
    'could not translate host name "db-1" to address: Name or service not known',
    "failed to resolve host 'db-1': [Errno -2] Name or service not known",
)


@pytest.mark.parametrize("text", KEPT)
def test_what_helps_is_kept(text: str) -> None:
    remember_password("a very long password")
    assert without_passwords(text) == text


def test_what_a_server_says_of_a_statement_is_kept() -> None:
    class Raised(psycopg.Error):
        sqlstate = "42601"

    text = 'syntax error at or near ") the end"'
    assert first_line(DBAPIError("SELECT )", None, Raised(text))) == text
    assert "the end" not in first_line(DBAPIError("SELECT )", None, psycopg.Error(text)))


def test_errors_of_this_library_are_kept_as_they_are() -> None:
    text = 'the "password=..." of postgresql+psycopg://user@host/dify'
    assert first_line(SettingsError(text)) == text
    remember_password("host/dify")
    assert "dify" not in first_line(SettingsError(text))


def test_an_error_without_a_text_says_its_type() -> None:
    assert first_line(TimeoutError()) == "TimeoutError"


def test_a_traceback_shows_where_and_no_password() -> None:
    remember_password("hidden word")
    with pytest.raises(ValueError, match="hidden word") as raised:
        int("hidden word")
    said = traceback_text(raised.value)
    assert "test_error_text.py" in said
    assert "ValueError: invalid literal" in said
    assert "hidden word" not in said
