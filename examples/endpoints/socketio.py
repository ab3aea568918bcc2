"""A server of python-socketio."""

import asyncio

import socketio

server = socketio.AsyncServer(async_mode="asgi")


@server.event
async def work(sid):
    await server.emit("tick", to=sid)


@server.event
async def disconnect(sid, reason):
    await asyncio.sleep(0.1)
    print("the stream has stopped", flush=True)
