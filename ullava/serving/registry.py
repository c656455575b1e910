"""The models of a server: loaded when first asked for, unloaded when others need the room and nobody uses them.

All of it runs in the server's event loop, so between two awaits nothing else changes it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Generic, Protocol, TypeVar

from ullava.errors import UserError, did_you_mean
from ullava.serving.refusals import RefusedError

_log = logging.getLogger(__name__)


class Closeable(Protocol):
    """A loaded model."""

    def close(self) -> None:
        """Finish what was accepted."""
        ...


E = TypeVar("E", bound=Closeable)


@dataclass(eq=False, slots=True)
class _Entry(Generic[E]):
    engine: E
    used: int
    leases: int = 0
    leaving: bool = False


class ModelRegistry(Generic[E]):
    """At most ``max_loaded`` engines by name.

    ``names``: public name -> what ``loader`` is given with it (a name, a folder, a Hub id), in a thread of its own.
    The first name is the default.
    """

    def __init__(self, names: Mapping[str, str], loader: Callable[[str, str], E], max_loaded: int = 1) -> None:
        if not names:
            raise UserError("no model to serve")
        self.names = dict(names)
        self.default = next(iter(names))
        self.max_loaded = max_loaded
        self._loader = loader
        self._entries: dict[str, _Entry[E]] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._expected: Counter[str] = Counter()
        self._unloading: set[asyncio.Task[None]] = set()
        self._change = asyncio.Event()
        self._uses = count()

    def put(self, name: str, engine: E) -> None:
        """Take a model that was loaded beforehand, before anything is asked."""
        self._entries[name] = _Entry(engine, next(self._uses))

    def engines(self) -> dict[str, E]:
        """Return the engines that are loaded now."""
        return {name: entry.engine for name, entry in self._entries.items()}

    def check(self, name: str | None) -> str:
        """Return ``name``, or the default for None. Raises RefusedError (404) for a model that is not served."""
        if name is None:
            return self.default
        if name not in self.names:
            hint = did_you_mean(name, self.names)
            raise RefusedError(404, "model_not_found", f"no model '{name}' is served here{hint}", "model")
        return name

    @asynccontextmanager
    async def lease(self, name: str | None) -> AsyncIterator[E]:
        """Hold a model, loaded if need be; it is not unloaded before it is let go.

        Raises RefusedError: no such model (404), or it cannot be loaded (503).
        """
        entry = await self._acquire(self.check(name))
        try:
            yield entry.engine
        finally:
            entry.leases -= 1
            if entry.leaving and not entry.leases:
                self._drop(entry)

    async def unload(self, name: str) -> bool:
        """Unload a model when its requests are answered; return whether it was loaded. Raises RefusedError (404)."""
        self.check(name)
        if (task := self._loading.get(name)) is not None:
            await asyncio.wait([task])
        entry = self._entries.get(name)
        if entry is None:
            return False
        self._leave(entry)
        while self._entries.get(name) is entry:
            await self._change.wait()
        return True

    async def close(self) -> None:
        """Unload everything."""
        for task in list(self._loading.values()):
            await asyncio.wait([task])
        for name in list(self._entries):
            await self.unload(name)

    # ------------------------------------------------------------
    async def _acquire(self, name: str) -> _Entry[E]:
        while True:
            entry = self._entries.get(name)
            if entry is not None and not entry.leaving:
                entry.leases += 1
                entry.used = next(self._uses)
                return entry
            if entry is None and name not in self._loading:
                if len(self._entries) + len(self._loading) < self.max_loaded:
                    self._loading[name] = asyncio.create_task(self._load(name))
                else:
                    self._make_room()
            if (task := self._loading.get(name)) is None:
                await self._change.wait()
                continue
            self._expected[name] += 1
            try:
                await asyncio.shield(task)
            finally:
                self._expected[name] -= 1
                self._signal()

    async def _load(self, name: str) -> None:
        try:
            engine = await asyncio.to_thread(self._loader, name, self.names[name])
            self._entries[name] = _Entry(engine, next(self._uses))
        except Exception as error:  # a missing weight, memory that is full: there is no list of it
            _log.error("model %s cannot be loaded: %s", name, error, exc_info=not isinstance(error, UserError))
            raise RefusedError(503, "model_unavailable", f"model '{name}' cannot be loaded now", "model") from error
        finally:
            del self._loading[name]
            self._signal()

    def _make_room(self) -> None:
        """Let the least recently used model go, unless one is going already; one just loaded is used first."""
        idle = [entry for name, entry in self._entries.items() if not self._expected[name]]
        if idle and not any(entry.leaving for entry in self._entries.values()):
            self._leave(min(idle, key=lambda entry: entry.used))

    def _leave(self, entry: _Entry[E]) -> None:
        if not entry.leaving:
            entry.leaving = True
            if not entry.leases:
                self._drop(entry)

    def _drop(self, entry: _Entry[E]) -> None:
        task = asyncio.create_task(self._unload(entry))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _unload(self, entry: _Entry[E]) -> None:
        try:
            await asyncio.to_thread(entry.engine.close)
        finally:
            self._entries = {name: other for name, other in self._entries.items() if other is not entry}
            del entry
            gc.collect()
            self._signal()

    def _signal(self) -> None:
        self._change.set()
        self._change = asyncio.Event()
