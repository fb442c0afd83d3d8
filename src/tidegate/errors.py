"""Everything Tidegate raises of its own.

::

    TidegateError
      SettingsError            a setting that cannot work: names the setting, the value, and what would
      PolicyError              a repository and its policy table do not agree
      RepositoryImportError    a class path in the settings cannot be imported or built
      QueryError               a query that cannot be composed: names the operator or field, and those known
      LazyColumnError          a lazy column cannot be loaded any more, because its row is gone
      EmbeddedServerError      an embedded server did not start, stop or answer in time
      BenchmarkError           a benchmark cannot run here, or what it compares does not agree

What a plain repository raises (``ValueError``, ``WorkflowRunError``, the database's own errors) passes unchanged.
"""

from __future__ import annotations


class TidegateError(Exception):
    """The root of all errors of Tidegate's own."""


class SettingsError(TidegateError):
    """A setting cannot work; the message names the setting, its value, and what would work."""


class PolicyError(TidegateError):
    """A repository and its policy table do not agree."""


class RepositoryImportError(TidegateError):
    """A class path in the settings cannot be imported, or what it names cannot be built."""


class QueryError(TidegateError, ValueError):
    """A query cannot be composed; the message lists what would have been accepted."""


class LazyColumnError(TidegateError):
    """A lazy column was touched, and its row is no longer in the database."""


class EmbeddedServerError(TidegateError):
    """An embedded server did not start, stop or answer in time; the message ends with its log."""


class BenchmarkError(TidegateError):
    """A benchmark cannot run here, or its contenders answer differently; the message says what would help."""
