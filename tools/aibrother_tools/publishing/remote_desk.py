"""The publisher's desk: edits the catalog of a node elsewhere with the keys that are here.

    bring what is signed now, verified → decide, as the signer's own desk does → sign the roles → send them in
    it has moved on meanwhile? → again

Two publishers at once both come through: who is second applies the edit to what the first one made of the catalog.
Where an answer is lost, the catalog itself tells whether it came to that.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aibrother_node.catalog.accept import Draft
from aibrother_node.catalog.commit import Signing as SigningWith
from aibrother_node.catalog.commit import can_sign
from aibrother_node.catalog.deciding import DECIDED, Done, decide
from aibrother_node.catalog.desk import utc_now
from aibrother_node.catalog.drafting import check_role, draft_refresh, draft_rotation, is_visible, keyids
from aibrother_node.catalog.keys import KeyRing
from aibrother_node.catalog.roles import EXPIRIES
from aibrother_node.errors import InvalidInput, NodeError, NotFound, Refused, Temporary
from aibrother_node.store.disk import Disk

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from aibrother_node.catalog.desk import Signing
    from aibrother_node.catalog.repository import Repository
    from aibrother_tools.admin_node import AdminNode
    from aibrother_tools.publishing.catalog_copy import CatalogCopy

TRIES: Final = 16
"""How often it is tried: each time another publisher came first, or an answer was lost."""
_MOST_AHEAD: Final = 1000  # a role's numbers that interruptions have used up; a node that says more would use up all
_SLOWEST: Final = 4.0  # seconds between two tries, at most
_TIMEOUT: Final = 120.0  # seconds for the answer to what is sent in: the files that are named are looked at


class RemoteDesk:
    """Edits the catalog of one node elsewhere.

    Args:
        node: its admin API.
        copy: its catalog.
        signing: the keys that are here.
        rng: jitter.
        tell: is told what people should know.
    """

    def __init__(
        self,
        node: AdminNode,
        copy: CatalogCopy,
        signing: Signing,
        rng: random.Random,
        tell: Callable[[str], None],
    ) -> None:
        self._node = node
        self._copy = copy
        self._signing = signing
        self._rng = rng
        self._tell = tell

    def repository(self) -> Repository:
        """The catalog as it is now, verified."""
        return self._copy.sync(utc_now(), self._signing.expiries)

    def check(self, action: Mapping[str, Any]) -> None:
        """Make sure, before anything is uploaded, that an edit is allowed, can be signed here, and is taken there.

        Raises:
            as `run`.
        """
        state = self._node.ask("GET", "/catalog")
        if isinstance(state, dict) and state.get("signer") is False:
            raise Refused("that node doesn't sign the catalog, it follows one: publish to the node that signs")
        self._draft(self.repository(), action, self._ring(), {})

    def run(self, action: Mapping[str, Any], *, patient: bool = False) -> Done:
        """Carry out an edit, as the signer's desk has it.

        Args:
            action: what to do.
            patient: wait for a node that can't be reached, since much was done for this already.

        Raises:
            Refused: it breaks a rule, the keys that it takes aren't here, or the token isn't good for it.
            Temporary: others came first again and again, or the node can't be reached.
            and as `decide`.
        """
        match action.get("do"):
            case do if do in DECIDED:
                ring = self._ring()
                return self._send(lambda repository, free: self._draft(repository, action, ring, free), patient=patient)
            case "rotate":
                return self._rotate(action)
            case "refresh":
                ring = self._ring(_folders(action))
                return self._send(lambda repository, _: self._refreshed(repository, ring))
        raise InvalidInput(f"{action.get('do')!r:.40} is nothing that is done from afar")

    # -- what is sent

    def _draft(
        self, repository: Repository, action: Mapping[str, Any], ring: KeyRing, free: Mapping[str, int]
    ) -> tuple[Draft, Done]:
        if action["do"] == "promote" and not can_sign("staging", repository.state.role("targets"), ring):
            action = {**action, "keep_staged": True}
        now = utc_now()
        decision = decide(action, repository, now)
        before = {path: repository.target(path) for path in decision.edit.targets}
        draft = repository.draft(decision.edit, ring, now, numbers=free)
        return draft, decision.done(before, {})

    def _refreshed(self, repository: Repository, ring: KeyRing) -> tuple[Draft, Done]:
        return draft_refresh(repository.state, self._with(ring)), Done((), {}, {})

    def _rotate(self, action: Mapping[str, Any]) -> Done:
        role = check_role(action["role"])
        if action.get("lost"):
            raise Refused("a role whose old keys are lost is given new ones on the node that signs")
        ring = self._ring(_folders(action))
        repository = self.repository()
        old = keyids(repository.state, role)
        made = [ring.create_key(role) for _ in range(action.get("keys") or len(old))]

        def draft(repository: Repository, _: Mapping[str, int]) -> tuple[Draft, Done]:
            if set(keyids(repository.state, role)) == {key.keyid for key in made}:
                return Draft(), Done((), {}, repository.versions)  # it came to that, and to more since
            signing = self._with(ring)
            return draft_rotation(repository.state, role, made, signing, action.get("threshold")), Done((), {}, {})

        try:
            done = self._send(draft)
        except Temporary:
            names = ", ".join(key.uri for key in made)
            self._tell(f"it isn't known whether {role} has its new keys by now: they are kept ({names})")
            raise
        except NodeError:
            ring.remove(role, [key.keyid for key in made])
            raise
        ring.remove(role, set(old) - {key.keyid for key in made})
        return done

    # -- sending

    def _send(
        self, make: Callable[[Repository, Mapping[str, int]], tuple[Draft, Done]], *, patient: bool = False
    ) -> Done:
        """Make a draft of what is signed now and send it in, until it is visible.

        Args:
            make: makes it, of the catalog and of the numbers that are free.
            patient: go on where the node can't be reached at the beginning.
        """
        sent: list[tuple[Draft, Done]] = []  # of which no answer came
        free: Mapping[str, int] = {}
        failure: NodeError = Temporary("nothing was tried")
        for number in range(TRIES):
            if number:
                time.sleep(self._rng.uniform(0, min(_SLOWEST, 0.1 * 2**number)))
            try:
                repository = self.repository()
            except Temporary as error:
                if not (patient or sent):
                    raise
                failure = error
                continue
            for draft, done in sent:
                if is_visible(repository.state, draft):
                    return _with_versions(done, repository.versions, draft)
            draft, done = make(repository, free)
            if not draft.roles:
                return done
            answered = self._post(draft)
            if isinstance(answered, dict):
                return _with_versions(done, answered, draft)
            failure, free = answered
            if isinstance(failure, Temporary):
                sent.append((draft, done))
        raise Temporary(f"given up after {TRIES} tries: {failure}") from failure

    def _post(self, draft: Draft) -> dict[str, int] | tuple[NodeError, dict[str, int]]:
        """Send a draft in.

        Returns:
            The new versions; or why to try again, and which numbers are free.

        Raises:
            NodeError: it is refused, and will be the next time.
        """
        body = {
            "roles": {role: data.decode() for role, data in draft.roles.items()},
            "base": draft.base,
            "documents": {path: data.decode() for path, data in draft.documents.items()},
        }
        try:
            answered = self._node.exchange(
                "POST", "/catalog", json.dumps(body).encode(), {"Content-Type": "application/json"}, timeout=_TIMEOUT
            )
        except Temporary as error:
            return error, {}
        if answered.status == 409:
            document = answered.document
            free = document.get("free") if isinstance(document, dict) else None
            return answered.error("POST /catalog"), {
                role: number
                for role, number in (free if isinstance(free, dict) else {}).items()
                if type(number) is int and number <= draft.base.get(role, 0) + _MOST_AHEAD
            }
        if answered.status >= 300:
            refusal = answered.error("POST /catalog")
            if isinstance(refusal, Temporary):
                return refusal, {}
            raise refusal
        document = answered.document
        versions = document.get("versions") if isinstance(document, dict) else None
        if not isinstance(versions, dict):
            raise InvalidInput("the node doesn't say what became of it: is this its control plane?")
        return versions

    def _ring(self, beside: Sequence[Path] = ()) -> KeyRing:
        try:
            signing = self._signing
            return KeyRing.load(signing.keys, Disk(), passphrase=signing.passphrase, beside=beside, by_name=True)
        except NotFound as error:
            raise Refused(f"{error}: name the folder with --keys-dir") from error

    def _with(self, ring: KeyRing) -> SigningWith:
        return SigningWith(ring, utc_now(), {**EXPIRIES, **self._signing.expiries})


def _folders(action: Mapping[str, Any]) -> list[Path]:
    return [Path(folder) for folder in action.get("beside", ())]


def _with_versions(done: Done, versions: Mapping[str, int], draft: Draft) -> Done:
    shown = {role: number for role, number in versions.items() if role in {*draft.roles, "snapshot", "timestamp"}}
    return Done(done.entries, done.targets, shown, done.fleet)
