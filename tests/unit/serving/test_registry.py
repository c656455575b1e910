"""Which models are in memory, and when they go."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ullava.errors import UserError
from ullava.serving.refusals import RefusedError
from ullava.serving.registry import ModelRegistry


class Loaded:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        log.append(f"+{name}")

    def close(self) -> None:
        self.log.append(f"-{self.name}")


def registry(max_loaded: int, log: list[str], names: str = "abc") -> ModelRegistry[Loaded]:
    def load(name: str, where: str) -> Loaded:
        assert where == f"at {name}"
        time.sleep(0.01)
        return Loaded(name, log)

    return ModelRegistry({name: f"at {name}" for name in names}, load, max_loaded)


async def use(models: ModelRegistry[Loaded], name: str | None, seconds: float = 0.0) -> str:
    async with models.lease(name) as engine:
        await asyncio.sleep(seconds)
        return engine.name


def run(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(make(), 10))


def test_a_model_is_loaded_once_and_the_first_is_the_default() -> None:
    log: list[str] = []

    async def go() -> list[str]:
        models = registry(1, log)
        return await asyncio.gather(*(use(models, name, 0.01) for name in (None, "a", "a", None)))

    assert run(go) == ["a"] * 4
    assert log == ["+a"]


def test_the_least_recently_used_makes_room() -> None:
    log: list[str] = []

    async def go() -> None:
        models = registry(2, log)
        for name in "abac":
            await use(models, name)
        assert sorted(models.engines()) == ["a", "c"]

    run(go)
    assert log == ["+a", "+b", "-b", "+c"]


def test_a_model_in_use_is_not_taken_away_and_nobody_starves() -> None:
    log: list[str] = []

    async def go() -> list[str]:
        models = registry(1, log, "ab")
        long = asyncio.create_task(use(models, "a", 0.2))
        await asyncio.sleep(0.05)
        other = asyncio.create_task(use(models, "b"))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(use(models, "a"))  # comes while b waits for a to go, so it waits its turn
        return list(await asyncio.gather(long, other, late))

    assert run(go) == ["a", "b", "a"]
    assert log == ["+a", "-a", "+b", "-b", "+a"]


def test_unloading_waits_for_those_who_use_it_and_the_next_request_loads_it_again() -> None:
    log: list[str] = []

    async def go() -> None:
        models = registry(1, log)
        assert await models.unload("b") is False
        busy = asyncio.create_task(use(models, "a", 0.1))
        await asyncio.sleep(0.05)
        assert await models.unload("a") is True
        assert busy.done() and models.engines() == {}
        assert await use(models, "a") == "a"
        await models.close()

    run(go)
    assert log == ["+a", "-a", "+a", "-a"]


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    models = registry(1, [], ["small", "large"])  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="did you mean 'small'") as caught:
        models.check("smal")
    assert (caught.value.status, caught.value.param) == (404, "model")
    with pytest.raises(UserError, match="no model to serve"):
        ModelRegistry({}, lambda name, where: Loaded(name, []))


def test_a_model_that_cannot_be_loaded_is_refused_without_its_reason_and_tried_again() -> None:
    tries = []

    def load(name: str, where: str) -> Loaded:
        tries.append(name)
        if len(tries) == 1:
            raise UserError("/secret/place: no weights")
        return Loaded(name, [])

    async def go() -> None:
        models = ModelRegistry({"a": "a"}, load)
        both = await asyncio.gather(use(models, "a"), use(models, "a"), return_exceptions=True)
        for error in both:
            assert isinstance(error, RefusedError) and error.status == 503 and "secret" not in error.message
        assert await use(models, "a") == "a"

    run(go)
    assert len(tries) == 2


def test_a_caller_who_goes_while_a_model_is_loaded_does_not_stop_the_loading() -> None:
    gate = threading.Event()

    def load(name: str, where: str) -> Loaded:
        assert gate.wait(5)
        return Loaded(name, [])

    async def go() -> None:
        models = ModelRegistry({"a": "a"}, load)
        gone = asyncio.create_task(use(models, "a"))
        stays = asyncio.create_task(use(models, "a"))
        await asyncio.sleep(0.02)
        gone.cancel()
        await asyncio.sleep(0.02)
        gate.set()
        assert await stays == "a" and gone.cancelled()

    run(go)
