"""Django cancels an async view or stream whose client has left. `policy="finish"` has it go on to its end."""

import asyncio

from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
async def upload(request):
    return HttpResponse(f"{len(request.body)} bytes\n")


async def ticks():
    try:
        while True:
            yield "tick\n"
            await asyncio.sleep(0.1)
    finally:
        print("the stream has stopped", flush=True)


async def stream(request):
    return StreamingHttpResponse(ticks())


urlpatterns = [path("upload", upload), path("stream", stream)]
