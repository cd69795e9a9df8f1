"""The gateway's control socket."""

import asyncio
import hmac
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from deployledger.gateway.gateway import Gateway
from deployledger.gateway.limits import Limits
from deployledger.gateway.messages import GatewayError, RevisionSpec
from deployledger.gateway.ports import LOOPBACK

_LONGEST_REQUEST = 1024 * 1024


class ControlServer:
    """Answers the orchestrator's commands; see `deployledger.gateway.messages`."""

    def __init__(self, gateway: Gateway, token: str) -> None:
        self._gateway = gateway
        self._token = token
        self._server: asyncio.Server | None = None

    async def open(self) -> int:
        """Listen on a free loopback port and return it."""
        self._server = await asyncio.start_server(self._answer, LOOPBACK, 0, limit=_LONGEST_REQUEST)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(line: dict[str, Any]) -> None:
            writer.write(json.dumps(line).encode() + b"\n")

        try:
            request = json.loads(await reader.readline())
            if hmac.compare_digest(str(request.pop("token", "")), self._token):
                try:
                    send({"result": await self._run(request, send)})
                except GatewayError as error:
                    send({"error": error.to_json()})
                await writer.drain()
        except (ValueError, AttributeError, ConnectionError):
            pass  # no JSON object, an endless line, or nobody there any more: nobody to tell
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _run(self, request: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        gateway = self._gateway
        match request:
            case {"command": "begin", "spec": dict(spec)}:
                # Orchestrators of earlier versions send no limits.
                limits = Limits.from_json(request.get("limits", {}))
                return gateway.begin(RevisionSpec.from_json(spec), limits)
            case {"command": "ready", "revision": int(number)}:
                return await gateway.ready(number, lambda ready: send({"progress": {"ready": ready}}))
            case {"command": "switch", "revision": int(number)}:
                return await gateway.switch(number)
            case {"command": "stop", "keep": int(number)}:
                return await gateway.stop(number)
            case {"command": "shut_down", "only_if_idle": bool(only_if_idle)}:
                return await gateway.shut_down(only_if_idle=only_if_idle)
            case {"command": "state"}:
                return gateway.describe()
        raise GatewayError("internal_error", f"Unknown gateway command {request.get('command')!r}.")
