"""A node from Python, through PyPI `websockets`: /raw byte for byte, and the JSON protocol.

    python -m venv VENV && VENV/bin/pip install -r requirements.txt && VENV/bin/python test_websockets.py
"""

import asyncio
import contextlib
import json
import os
import sys
import traceback
import urllib.parse
import uuid

from websockets.asyncio.client import connect

NODE = os.environ.get("SKYWAVE_PUBLIC", "http://127.0.0.1:8000").replace("http", "ws", 1)
DEADLINE = 5


async def raw_text() -> None:
    """Text comes back to its sender as it was."""
    async with connect(f"{NODE}/raw/{channel()}") as raw:
        for text in ("hello", "Grüße, 世界, 👩‍🚀", "x" * 60_000):
            await raw.send(text)
            assert await soon(raw.recv()) == text


async def raw_binary() -> None:
    """Bytes stay bytes, all 256 of them, also in fragments."""
    async with connect(f"{NODE}/raw/{channel()}") as raw:
        for data in (bytes(range(256)), bytes(range(256)) * 240):
            await raw.send(data)
            assert await soon(raw.recv()) == data
        await raw.send([b"in", b"three", b"parts"])
        assert await soon(raw.recv()) == b"inthreeparts"


async def raw_without_compression() -> None:
    """Whether a client compresses changes nothing for the others."""
    name = channel()
    async with connect(f"{NODE}/raw/{name}", compression=None) as plain, connect(f"{NODE}/raw/{name}") as usual:
        await plain.send("a" * 5_000)
        assert await soon(usual.recv()) == "a" * 5_000
        assert await soon(plain.recv()) == "a" * 5_000


async def compressed() -> None:
    """Publications are smaller on the wire, and only for who offers permessage-deflate."""
    name, sizes = channel(), {}
    text = "".join(f"row {row} of a table, {row * 7919 % 1000}; " for row in range(100))
    for compression in ("deflate", None):
        async with counting_proxy() as (url, counted), connect(f"{url}/raw/{name}", compression=compression) as raw:
            assert [extension.name for extension in raw.protocol.extensions] == (["permessage-deflate"] if compression else [])
            before = counted["down"]
            for n in range(10):
                await raw.send(f"{n} {text}")
                assert await soon(raw.recv()) == f"{n} {text}"
            sizes[compression] = counted["down"] - before
    assert sizes[None] > 10 * len(text) > 3 * sizes["deflate"], sizes


async def json_publish_subscribe() -> None:
    """A publication reaches the other client and its publisher, in order."""
    name = channel()
    async with json_client() as ada, json_client() as bob:
        for client in (ada, bob):
            await say(client, {"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": name}})
            await reply(client, 2, "subscribed")
        for n in range(10):
            await say(ada, {"publish": {"channel": name, "data": {"n": n, "text": "Grüße 👋"}}})
        for client in (ada, bob):
            got = [await publication(client) for _ in range(10)]
            assert [p["data"]["n"] for p in got] == list(range(10))
            assert got[0]["data"]["text"] == "Grüße 👋"
            assert len({p["epoch"] for p in got}) == 1


async def json_error() -> None:
    """A refused command is an error with its id, and the connection goes on."""
    async with json_client() as client:
        await say(client, {"id": 1, "connect": {}}, {"id": 2, "publish": {"channel": channel(), "data": 1}}, {"id": 3, "ping": {}})
        assert (await reply(client, 2, "error"))["code"] == "permission_denied"
        await reply(client, 3, "pong")


async def websocket_ping() -> None:
    """The node answers a ping of the WebSocket itself."""
    async with json_client() as client:
        await soon(await client.ping())


@contextlib.asynccontextmanager
async def counting_proxy():
    """Between a client and the node: counts what the node sends."""
    counted = {"down": 0}
    node = urllib.parse.urlsplit(NODE)

    async def pump(reader, writer, direction):
        while data := await reader.read(65536):
            counted[direction] = counted.get(direction, 0) + len(data)
            writer.write(data)
        writer.close()

    async def serve(reader, writer):
        node_reader, node_writer = await asyncio.open_connection(node.hostname, node.port)
        await asyncio.gather(pump(reader, node_writer, "up"), pump(node_reader, writer, "down"))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", counted
    finally:
        server.close()


def channel() -> str:
    """A channel of this run alone."""
    return f"py-{uuid.uuid4().hex}"


def json_client():
    return connect(f"{NODE}/ws", subprotocols=["skywave.v1.json"])


async def soon(awaitable):
    return await asyncio.wait_for(awaitable, DEADLINE)


async def say(client, *commands) -> None:
    await client.send("\n".join(json.dumps(command) for command in commands))


async def said(client, wanted):
    """The next object for which `wanted` holds; a frame may carry several, so the rest of it waits on the client."""
    waiting = client.__dict__.setdefault("waiting", [])
    while True:
        for at, one in enumerate(waiting):
            if wanted(one):
                return waiting.pop(at)
        waiting.extend(json.loads(line) for line in (await soon(client.recv())).split("\n"))


async def reply(client, number, kind):
    answer = await said(client, lambda one: one.get("id") == number)
    assert kind in answer, answer
    return answer[kind]


async def publication(client):
    return (await said(client, lambda one: "publication" in one))["publication"]


def main() -> int:
    tests = [raw_text, raw_binary, raw_without_compression, compressed, json_publish_subscribe, json_error, websocket_ping]
    failed = 0
    for test in tests:
        try:
            asyncio.run(test())
            print(f"ok     {test.__name__}")
        except Exception:  # noqa: BLE001  whatever it was, the other tests still run
            failed += 1
            print(f"FAILED {test.__name__}")
            traceback.print_exc()
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
