"""A process that runs one job, to be killed: `python -m replicator.jobs.victim INDEX REQUEST LOG ACTION`.

It prints a line with the job whenever that has changed. Actions: `run` to its end, `pause` when a fifth is done and
wait, `resume` and run to its end, `look` and end.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicator.jobs.works import HashTree, running

if TYPE_CHECKING:
    from aibrother_replicator.jobs.runner import JobRunner


async def main(index: Path, request: str, log: Path, action: str) -> None:
    async with running(index, {"hash": HashTree(log)}) as runner:
        known = await runner.view.page()
        if known:
            [job] = [one["id"] for one in known]
        else:
            job = await runner.submit("hash", json.loads(request))
        if action == "look":
            tell(await runner.view.get(job))
            return
        if action == "resume":
            await runner.resume(job)
        await watch(runner, job, action)


async def watch(runner: JobRunner, job: str, action: str) -> None:
    async for seen in runner.view.watch(job):
        tell(seen)
        objects = seen["objects"]
        if action == "pause" and seen["state"] == "running" and objects["done"] > (objects["total"] or 0) // 5:
            tell(await runner.pause(job))


def tell(job: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(job) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
