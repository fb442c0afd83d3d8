"""The host's one engine, and the session of the request, as a web framework's extension keeps them."""

from __future__ import annotations

import os

from sqlalchemy import create_engine
from sqlalchemy.orm import scoped_session, sessionmaker


class Database:
    """What ``db`` is."""

    def __init__(self) -> None:
        self.engine = create_engine(os.environ["HOST_DATABASE_URL"])
        self.maker = sessionmaker(bind=self.engine, expire_on_commit=False)
        self.session = scoped_session(sessionmaker(self.engine))


db = Database()
