"""Scrub as a job: all blobs, or some, one after the other at a pace."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from aibrother_node.content.digest import Digest
from aibrother_node.errors import InvalidInput
from aibrother_node.store.scrubbing.pace import Bucket, pressure_now, share
from aibrother_node.store.scrubbing.small import Looked, small_ones
from aibrother_node.units import parse_rate
from aibrother_node.web.control.admin.inputs import Input

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aibrother_node.store.scrubbing.pace import Pressure
    from aibrother_node.store.scrubbing.scrubber import Planned, Scrubber
    from aibrother_replicator.jobs.work import Progress

EVERYTHING: Final[Mapping[str, Any]] = {"rate": None, "digests": None}
"""The request for all blobs at the configured rate: what `ScrubRequest` makes of nothing."""
_MAX_DIGESTS: Final = 500
_MAX_RATE: Final = 10**12
_STEP: Final = 0.5  # seconds between two looks whether to stop, while it waits
_LOOK: Final = 2.0  # seconds between two looks at how busy the machine is
_CHECKPOINT: Final = 2.0


class ScrubRequest(Input):
    """What is to be checked, and how fast; as the admin API takes it."""

    rate: (
        Annotated[int, Field(ge=1, le=_MAX_RATE)]
        | Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}( ?(B|kB|MB|GB|KiB|MiB|GiB)(/s)?)?$")]
        | None
    ) = Field(None, description='bytes a second, or such as "100 MB/s"; store.scrub_rate by default')
    digests: (
        Annotated[
            list[Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]], Field(min_length=1, max_length=_MAX_DIGESTS)
        ]
        | None
    ) = Field(None, description="check only these")


class ScrubWork:
    """The kind of job.

    Args:
        scrubber: checks and repairs.
        rate: bytes a second, unless a request says otherwise.
        pressure: how busy the machine is; it may block for a moment.
    """

    def __init__(
        self, scrubber: Scrubber, rate: Callable[[], float], pressure: Callable[[], Pressure] = pressure_now
    ) -> None:
        self._scrubber = scrubber
        self._rate = rate
        self._pressure = pressure

    async def run(self, request: Mapping[str, Any], progress: Progress) -> None:
        """Check what is asked for, from the cursor on.

        Args:
            request: `rate` (bytes a second as people write it; None for the configured one) and `digests` (None for
                all that is stored).
            progress: of the job.

        Raises:
            InvalidInput: the request isn't like that.
        """
        wanted = None if request.get("digests") is None else {Digest.parse(text) for text in request["digests"]}
        given = request.get("rate")
        pace = _Pace(self._rate() if given is None else rate_of(given), self._pressure, progress)
        plan = await self._scrubber.plan()
        missing: list[Digest] = []
        if wanted is not None:
            missing = sorted(wanted - {one.digest for one in plan})
            plan = [one for one in plan if one.digest in wanted]
        if progress.only is not None:
            missing = [digest for digest in missing if str(digest) in progress.only]
            plan = [one for one in plan if str(one.digest) in progress.only]
        cursor = _Cursor(**progress.cursor) if progress.cursor else _Cursor()
        left = [one for one in plan if one.order > tuple(cursor.after)]
        # what was passed, and not what is stored by now: blobs come and go while a job is interrupted
        progress.expect(
            objects=cursor.objects + len(left) + (len(missing) if progress.cursor is None else 0),
            size=cursor.size + sum(one.size for one in left),
        )
        if progress.cursor is None:
            cursor.objects += len(missing)
            for digest in missing:
                progress.failed(str(digest), "it is not here")
        await self._check_all(left, cursor, pace, progress)
        await self._scrubber.flush()
        if wanted is None and progress.only is None:
            await self._scrubber.completed([one.digest for one in plan])
        progress.result(cursor.found)

    async def _check_all(self, left: Sequence[Planned], cursor: _Cursor, pace: _Pace, progress: Progress) -> None:
        written = time.monotonic()
        begun = 0
        while begun < len(left):
            await progress.breathe()
            some = small_ones(left, begun)
            # a step for one alone saves nothing
            looked = await self._scrubber.check_small(some) if len(some) > 1 else Looked(1, 0, {})
            for one in left[begun : begun + looked.count]:
                await progress.breathe()
                bad = cursor.found["bad_chunks"]
                if one.digest in looked.sound:
                    progress.done(objects=1, size=one.size)
                else:
                    await self._check(one, pace, progress, cursor.found)
                    progress.result(cursor.found)
                cursor.passed(one)
                if time.monotonic() - written >= _CHECKPOINT or cursor.found["bad_chunks"] > bad:
                    await self._scrubber.flush()
                    await progress.checkpoint(asdict(cursor))
                    written = time.monotonic()
            begun += looked.count
            await pace.wait(looked.read)

    async def _check(self, one: Planned, pace: _Pace, progress: Progress, found: dict[str, int]) -> None:
        counted = 0

        def checked(size: int) -> None:
            nonlocal counted
            counted += size
            progress.done(size=size)

        async def breathe() -> None:
            progress.expect()  # it moves, though nothing more counts as done: a doubt is looked into, or a repair
            await progress.breathe()

        outcome = await self._scrubber.check(one.digest, pace=pace.wait, breathe=breathe, checked=checked)
        if counted < one.size:  # what is missing of it, or it is gone
            progress.done(size=one.size - counted)
        found["bad_chunks"] += outcome.bad
        if outcome.verdict == "damaged":
            found["damaged"] += 1
            progress.failed(str(one.digest), f"damaged, and not repaired yet: {outcome.reason}")
            return
        found["repaired"] += outcome.verdict == "repaired"
        progress.done(objects=1)


@dataclass
class _Cursor:
    """How far a job is: the last blob in the order of the plan, how many were passed and how large, what came of it."""

    after: list[Any] = field(default_factory=lambda: [-1, ""])
    objects: int = 0
    size: int = 0
    found: dict[str, int] = field(default_factory=lambda: {"bad_chunks": 0, "repaired": 0, "damaged": 0})

    def passed(self, one: Planned) -> None:
        """A blob was checked."""
        self.after = list(one.order)
        self.objects += 1
        self.size += one.size


class _Pace:
    """Waits so that no more than the rate is read, less while the machine is busy."""

    def __init__(self, rate: float, pressure: Callable[[], Pressure], progress: Progress) -> None:
        self._bucket = Bucket(rate, time.monotonic())
        self._pressure = pressure
        self._progress = progress
        self._share = 1.0
        self._look_at = 0.0

    async def wait(self, size: int) -> None:
        await self._progress.breathe()
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK
            self._share = share(await asyncio.to_thread(self._pressure))
        until = now + self._bucket.take(size, self._share, now)
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _STEP))
            await self._progress.breathe()


def rate_of(value: object) -> float:
    """Bytes a second, from a number or as people write it.

    Raises:
        InvalidInput: it is neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    try:
        return float(parse_rate(str(value)))
    except ValueError as error:
        raise InvalidInput(f"not a rate: {str(value)[:80]!r}") from error
