"""Asking for memory before it is taken, where an operator may give more than it was given."""

from __future__ import annotations

from tsengine.query.context import QueryContext


def require_room(ctx: QueryContext, n_samples: int) -> None:
    """Raise QueryLimitExceeded if the query may not hold so many more samples.

    Nothing stays on the account: the result of an operator is put there when it is done.
    """
    ctx.account(n_samples)
    ctx.account(-n_samples)
