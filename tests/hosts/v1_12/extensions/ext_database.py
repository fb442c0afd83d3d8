from host_database import db

__all__ = ["db"]
