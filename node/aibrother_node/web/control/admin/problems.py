"""What else the admin API answers than what `web/errors.py` maps: other statuses, and members that programs read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aibrother_node.errors import NodeError
from aibrother_node.web.answer import Answer, problem
from aibrother_node.web.errors import answer_error

if TYPE_CHECKING:
    from collections.abc import Mapping


class Problem(NodeError):
    """An answer with a status of its own, for handlers to raise.

    Attributes:
        status, title: the code and its name in RFC 9110.
        members: of the problem document, beside `type`, `title`, `status` and `detail` (RFC 9457, 3.2); JSON values.
        headers: further header fields.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        members: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.members = dict(members or {})
        self.headers = dict(headers or {})


def answer_problem(error: BaseException, method: str) -> Answer:
    """The problem document for whatever a handler raised; a full disk is 507 wherever something is to be written."""
    if isinstance(error, Problem):
        return problem(
            error.status,
            error.title,
            str(error),
            headers=tuple(error.headers.items()),
            method=method,
            members=error.members,
        )
    return answer_error(error, method, writing=method not in ("GET", "HEAD"))
