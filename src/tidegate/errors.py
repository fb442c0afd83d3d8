"""All errors that Tidegate raises of its own.

::

    TidegateError
      SettingsError            a setting cannot work; names the setting, its value, and what would work
      CacheUnavailable         only if the caller chose consistency over availability; nothing was committed
      RoutingError             a call could not be brought to a server that may answer it
        NoNodeAvailable          no server of a shard can take it; names the shard, and what is wrong with each
        CommitUnknown            the connection was lost during COMMIT, which may have happened or not
        Overloaded               the primary has more to do than it can; come back later
        UnknownTenant            no shard is known for a tenant, because the shard map was never read
        StaleShardMap            a shard does not own what the shard map says it owns; nothing was written
        TenantSwitch             a second tenant in a unit of work, which is on one shard
        PartialResult            some shards answered and some failed; says which, and holds what succeeded
      PolicyError              a repository and its policy table do not agree, or a table cannot be tracked
      RepositoryImportError    a class path in the settings cannot be imported or built
      QueryError               a query cannot be composed; names the operator or field, and those known
      LazyColumnError          a lazy column cannot be loaded any more, because its row is gone
      EmbeddedServerError      an embedded server did not start, stop or answer in time
      WorkflowRunError         a run cannot be paused, or a pause cannot be resumed or deleted; a RuntimeError
      BenchmarkError           a benchmark cannot run here, or what it compares does not agree

Other errors of a plain repository (``ValueError``, those of the database) pass unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidegate.error_text import first_line
from tidegate.public import public

if TYPE_CHECKING:
    from collections.abc import Mapping


@public
class TidegateError(Exception):
    """The root of all errors that Tidegate raises of its own."""


@public
class SettingsError(TidegateError):
    """A setting cannot work. The message names the setting, its value, and what would work."""


@public
class PolicyError(TidegateError):
    """A repository and its policy table do not agree, or a table cannot be tracked as its row says."""


@public
class CacheUnavailable(TidegateError):  # noqa: N818  # a state of the servers, not a mistake
    """The cache could not be told of a write, so the write was refused: nothing was committed."""


@public
class RoutingError(TidegateError):
    """A call could not be brought to a server that may answer it."""


@public
class NoNodeAvailable(RoutingError):  # noqa: N818  # a state of the servers, not a mistake
    """No server of a shard can take the call. The message says what is wrong with each."""


@public
class CommitUnknown(RoutingError):  # noqa: N818  # a state of the servers, not a mistake
    """The connection was lost during COMMIT: the transaction has happened, or will happen, or has not.

    It is not retried.
    """


@public
class Overloaded(RoutingError):  # noqa: N818  # a state of the servers, not a mistake
    """The primary has more to do than it can, and this read was not let in. Nothing was asked of the database."""


@public
class UnknownTenant(RoutingError):  # noqa: N818  # a state of the servers, not a mistake
    """No shard is known for a tenant, because the shard map was never read. No shard is guessed."""


@public
class StaleShardMap(RoutingError):  # noqa: N818
    """A shard does not own what the shard map says it owns, so nothing was written. The map must be read again."""

    map_is_new = False
    """Whether the map was read again already: then a call that was refused at its beginning may be tried again at once,
    and finds the right shard.
    """


@public
class TenantSwitch(RoutingError):  # noqa: N818
    """A second tenant was used in a unit of work, which is on the shard of the first."""


@public
class PartialResult(RoutingError):  # noqa: N818
    """Some shards answered and some failed.

    Args:
        what: what the shards were asked for.
        succeeded: by shard, the answer, or what was done.
        failed: by shard, the error.
    """

    def __init__(self, what: str, succeeded: Mapping[str, Any], failed: Mapping[str, BaseException]) -> None:
        super().__init__(what, succeeded, failed)  # a pickled error is made anew of these
        self.succeeded = dict(succeeded)
        self.failed = dict(failed)

    def __str__(self) -> str:
        reasons = "; ".join(f"{shard}: {first_line(error)}" for shard, error in self.failed.items())
        done = ", ".join(self.succeeded) or "none"
        count = f"{len(self.failed)} of {len(self.failed) + len(self.succeeded)}"
        return f"{self.args[0]} failed on {count} shards ({reasons}); succeeded on: {done}"


@public
class RepositoryImportError(TidegateError):
    """A class path in the settings cannot be imported, or what it names cannot be built."""


@public
class QueryError(TidegateError, ValueError):
    """A query cannot be composed. The message lists what would have been accepted."""


@public
class LazyColumnError(TidegateError):
    """A lazy column was touched, but its row is no longer in the database."""


@public
class EmbeddedServerError(TidegateError):
    """An embedded server did not start, stop or answer in time. The message ends with its log."""


@public
class WorkflowRunError(TidegateError, RuntimeError):
    """A run is not in the state that pausing or resuming needs, or its pause does not exist."""


@public
class BenchmarkError(TidegateError):
    """A benchmark cannot run here, or its contenders answer differently. The message says what would help."""
