"""A limit on how many deployments do the same step at once; the others wait in line."""

import asyncio
from collections import Counter
from collections.abc import Hashable
from uuid import UUID


class Slots:
    """Slots of several kinds, the same number of each; first come, first served. For one event loop.

    Args:
        most: the number of slots of each kind.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[Hashable] = Counter()
        self._lines: dict[Hashable, dict[UUID, asyncio.Future[None]]] = {}

    def take(self, kind: Hashable) -> bool:
        """Take a slot if one is free."""
        if self._taken[kind] >= self._most or self._lines.get(kind):
            return False
        self._taken[kind] += 1
        return True

    def release(self, kind: Hashable) -> None:
        """Pass a slot on to the first in line, or free it."""
        line = self._lines.get(kind)
        while line:
            waiting = line.pop(next(iter(line)))
            if not waiting.done():
                waiting.set_result(None)
                break
        else:
            self._taken[kind] -= 1
        if not line:
            self._lines.pop(kind, None)
        self._taken += Counter()  # forgets the kinds that nobody has

    async def wait(self, kind: Hashable, deployment_id: UUID) -> None:
        """Return when a deployment has got a slot."""
        if self.take(kind):
            return
        turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(kind, {})[deployment_id] = turn
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(kind)
            else:
                self._leave(kind, deployment_id)
            raise

    def position(self, deployment_id: UUID) -> int | None:
        """Return where in line a deployment is, from 1 on; None if it does not wait. From any thread."""
        for line in list(self._lines.values()):
            for position, waiting in enumerate(list(line), 1):
                if waiting == deployment_id:
                    return position
        return None

    def _leave(self, kind: Hashable, deployment_id: UUID) -> None:
        line = self._lines.get(kind)
        if line is not None:
            line.pop(deployment_id, None)
            if not line:
                del self._lines[kind]
