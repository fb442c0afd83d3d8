"""Everything Tidegate raises of its own.

::

    TidegateError
      SettingsError            a setting that cannot work: names the setting, the value, and what would
      CacheUnavailable         only where the caller asked for consistency over availability; nothing was committed
      RoutingError             a call could not be brought to a server that may answer it
        NoNodeAvailable          no server of a shard can take it: names the shard, and what is wrong with each
        CommitUnknown            the connection was lost during COMMIT: it may have happened, or not
        Overloaded               the primary has more to do than it can; come back later
        UnknownTenant            no shard is known for a tenant: the shard map was never read
        StaleShardMap            a shard does not own what the shard map says it owns; nothing was written
        TenantSwitch             two tenants in one unit of work, which is on one shard
        PartialResult            some shards answered and some failed: says which, and holds what succeeded
      PolicyError              a repository and its policy table do not agree, or a write that no rule can see
      RepositoryImportError    a class path in the settings cannot be imported or built
      QueryError               a query that cannot be composed: names the operator or field, and those known
      LazyColumnError          a lazy column cannot be loaded any more, because its row is gone
      EmbeddedServerError      an embedded server did not start, stop or answer in time
      WorkflowRunError         a run cannot be paused, or a pause resumed or deleted; a RuntimeError
      BenchmarkError           a benchmark cannot run here, or what it compares does not agree

What else a plain repository raises (``ValueError``, the database's own errors) passes unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidegate.public import public

if TYPE_CHECKING:
    from collections.abc import Mapping


@public
class TidegateError(Exception):
    """The root of all errors of Tidegate's own."""


@public
class SettingsError(TidegateError):
    """A setting cannot work; the message names the setting, its value, and what would work."""


@public
class PolicyError(TidegateError):
    """A repository and its policy table do not agree, or a write names no tenant whose marks could be changed."""


@public
class CacheUnavailable(TidegateError):  # noqa: N818  # the name that the design gives it
    """The cache could not be told of a write, which was refused: nothing was committed."""


@public
class RoutingError(TidegateError):
    """A call could not be brought to a server that may answer it."""


@public
class NoNodeAvailable(RoutingError):  # noqa: N818  # the name that the design gives it
    """No server of a shard can take the call; the message says what is wrong with each."""


@public
class CommitUnknown(RoutingError):  # noqa: N818  # the name that the design gives it
    """The connection was lost during COMMIT: the transaction has happened, or will, or has not. It is not retried."""


@public
class Overloaded(RoutingError):  # noqa: N818  # the name that the design gives it
    """The primary has more to do than it can, and this read was not let in; nothing was asked of the database."""


@public
class UnknownTenant(RoutingError):  # noqa: N818  # the name that the design gives it, as for those below
    """No shard is known for a tenant: the shard map was never read. No shard is guessed."""


@public
class StaleShardMap(RoutingError):  # noqa: N818
    """A shard does not own what the shard map says it owns, so nothing was written: read the map again."""

    map_is_new = False
    """Whether that was done: what was refused as it began finds the right shard if it is tried again at once."""


@public
class TenantSwitch(RoutingError):  # noqa: N818
    """A second tenant in a unit of work, which is on the shard of the first."""


@public
class PartialResult(RoutingError):  # noqa: N818
    """Some shards answered and some failed.

    Args:
        what: what was asked of them.
        succeeded: answers, or what was done, by shard.
        failed: errors by shard.
    """

    def __init__(self, what: str, succeeded: Mapping[str, Any], failed: Mapping[str, BaseException]) -> None:
        super().__init__(what, succeeded, failed)  # what it is made of anew, where an error is pickled
        self.succeeded = dict(succeeded)
        self.failed = dict(failed)

    def __str__(self) -> str:
        reasons = "; ".join(f"{shard}: {_reason(error)}" for shard, error in self.failed.items())
        done = ", ".join(self.succeeded) or "none"
        count = f"{len(self.failed)} of {len(self.failed) + len(self.succeeded)}"
        return f"{self.args[0]} failed on {count} shards ({reasons}); succeeded on: {done}"


@public
class RepositoryImportError(TidegateError):
    """A class path in the settings cannot be imported, or what it names cannot be built."""


@public
class QueryError(TidegateError, ValueError):
    """A query cannot be composed; the message lists what would have been accepted."""


@public
class LazyColumnError(TidegateError):
    """A lazy column was touched, and its row is no longer in the database."""


@public
class EmbeddedServerError(TidegateError):
    """An embedded server did not start, stop or answer in time; the message ends with its log."""


@public
class WorkflowRunError(TidegateError, RuntimeError):
    """A run is not in the state that pausing or resuming needs, or its pause is not there."""


@public
class BenchmarkError(TidegateError):
    """A benchmark cannot run here, or its contenders answer differently; the message says what would help."""


def _reason(error: BaseException) -> str:
    """One line: what databases say goes on for several, with the statement."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
