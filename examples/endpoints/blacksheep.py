"""An application of BlackSheep."""

import asyncio

from blacksheep import Application, Request, Response, StreamedContent

application = Application()


@application.router.post("/upload")
async def upload(request: Request) -> str:
    return f"{len(await request.read() or b'')} bytes\n"


async def ticks():
    try:
        while True:
            yield b"tick\n"
            await asyncio.sleep(0.1)
    finally:
        print("the stream has stopped", flush=True)


@application.router.get("/stream")
async def stream() -> Response:
    return Response(200, content=StreamedContent(b"text/plain", ticks))
