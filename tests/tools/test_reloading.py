"""A reload's parts: what may change, who has yet to say that it uses it, questions to the supervisor, the answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.config import NodeConfig
from aibrother_node.errors import ConfigurationError, Temporary
from aibrother_node.web.control.admin.lifecycle_routes import LifecycleRoutes, NotTakenOver
from aibrother_node.web.control.admin.operation import Call, Caller, Reply
from aibrother_node.web.control.admin.problems import Problem
from aibrother_tools.serve.channel import Channel, Questions
from aibrother_tools.serve.reloading import Handover, read_again

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def _config(**sections: Any) -> NodeConfig:
    return NodeConfig.model_validate(sections)


def test_what_needs_a_restart_stays_as_it_was() -> None:
    current = _config(limits={"max_ranges": 3}, public={"port": 1000})
    fresh = _config(limits={"max_ranges": 4}, public={"port": 2000, "cors_origins": ["https://a.example"]})
    done = read_again(current, lambda: fresh)
    assert (done.changed, done.needs_restart) == (["public.cors_origins", "limits.max_ranges"], ["public.port"])
    assert (done.config.limits.max_ranges, done.config.public.port) == (4, 1000)
    again = read_again(done.config, lambda: fresh)
    assert (again.changed, again.needs_restart) == ([], ["public.port"])


async def test_a_handover_ends_with_the_last_one() -> None:
    handover = Handover(["control", "worker-0", "worker-1"])
    waiting = asyncio.create_task(handover.wait(30))
    handover.heard("control", None)
    handover.heard("worker-0", "a certificate can't be read")
    handover.heard("elsewhere", None)
    await asyncio.sleep(0)
    assert not waiting.done()
    handover.ended("worker-1")  # its successor begins with the new one
    assert await waiting == {"worker-0": "a certificate can't be read"}
    assert await Handover([]).wait(30) == {}


async def test_who_says_nothing_is_named() -> None:
    handover = Handover(["control", "worker-0"])
    handover.heard("control", None)
    assert await handover.wait(0.01) == {"worker-0": "said nothing within 0.01 s"}


@contextlib.asynccontextmanager
async def line() -> AsyncIterator[tuple[Questions, Channel]]:
    """A child's questions, whose answers are heard, and the supervisor's end."""
    above, below = await asyncio.gather(*map(Channel.open, socket.socketpair()))
    questions = Questions(below)

    async def hear() -> None:
        async for message in below.messages():
            questions.answered(message)

    hearing = asyncio.create_task(hear())
    try:
        async with asyncio.timeout(30):
            yield questions, above
    finally:
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
        await above.close()
        await below.close()


async def test_questions_get_their_own_answers() -> None:
    async with line() as (questions, above):
        asked = [asyncio.create_task(questions.ask("reload", 20)) for _ in range(3)]
        numbers = []
        async for message in above.messages():
            assert message["event"] == "reload"
            numbers.append(message["question"])
            if len(numbers) == 3:
                break
        above.send(answer=99, changed=["nobody asked"])
        for number in reversed(numbers):
            above.send(answer=number, changed=[str(number)])
        answers = await asyncio.gather(*asked)
        assert [one["changed"] for one in answers] == [[str(number)] for number in numbers]


async def test_no_answer_is_temporary_and_a_late_one_harms_nobody() -> None:
    async with line() as (questions, above):
        with pytest.raises(Temporary, match=r"within 0\.01 s"):
            await questions.ask("reload", 0.01)
        above.send(answer=1, changed=[])
        asked = asyncio.create_task(questions.ask("reload", 20))
        await asyncio.sleep(0)
        above.send(answer=2, changed=["b"])
        assert (await asked)["changed"] == ["b"]


async def _reload(result: Exception | dict[str, list[str]]) -> Reply:
    async def reload() -> dict[str, list[str]]:
        if isinstance(result, Exception):
            raise result
        return result

    async def other(*_: str) -> None:
        raise AssertionError

    routes = LifecycleRoutes(drain=other, undrain=other, reload=reload)
    (operation,) = (one for one in routes.operations() if one.path == "/reload")
    reply = await operation.handler(Call(None, Caller("t", frozenset(), "::1")))  # type: ignore[arg-type]
    assert isinstance(reply, Reply)
    return reply


async def test_what_the_route_answers() -> None:
    done = {"changed": ["log.level"], "needs_restart": ["public.port"]}
    assert await _reload(done) == Reply(done)
    faults = ["node.toml: limits.max_ranges: must be a whole number, not 'x'", "node.toml: no_such: no such section"]
    with pytest.raises(Problem) as caught:
        await _reload(ConfigurationError(faults))
    assert (caught.value.status, caught.value.members) == (400, {"faults": faults})
    failed = {"worker-1": "said nothing within 30 s"}
    with pytest.raises(Problem) as caught:
        await _reload(NotTakenOver(failed, **done))
    assert (caught.value.status, str(caught.value)) == (503, "worker-1: said nothing within 30 s")
    assert caught.value.members == {"failed": failed, **done}
