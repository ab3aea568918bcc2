"""An upload to disk that leaves no half a file when its client leaves.

    DISCONNECT_MW_LOG=info uvicorn upload_to_disk:app

A client leaves in the middle of ten megabytes:

    head -c 10M /dev/zero | curl --max-time 1 --limit-rate 1M --upload-file - http://127.0.0.1:8000/files/zeros

        receiving zeros
        removed the part of zeros
        INFO:     client disconnected: PUT /files/zeros from ..., during the upload: ... and raised ClientDisconnect...

One that stays has its file kept:

    echo hello | curl --upload-file - http://127.0.0.1:8000/files/hello

        {"bytes":6}

    curl http://127.0.0.1:8000/files

        ["hello"]
"""

from __future__ import annotations

from pathlib import Path as Folder
from tempfile import mkstemp
from typing import Annotated

try:
    import anyio
    from fastapi import FastAPI, Path, Request
except ImportError:
    raise SystemExit("This example needs FastAPI: pip install fastapi uvicorn") from None

from disconnect_mw import DisconnectMiddleware

app = FastAPI()
app.add_middleware(DisconnectMiddleware)

FILES = Folder("files")
FILES.mkdir(exist_ok=True)


@app.put("/files/{name}")
async def upload(name: Annotated[str, Path(pattern=r"^\w[\w.-]*$")], request: Request) -> dict[str, int]:
    descriptor, part = mkstemp(prefix=".part-", dir=FILES)
    size = 0
    try:
        async with await anyio.open_file(descriptor, "wb") as file:
            async for chunk in request.stream():  # raises ClientDisconnect when the client leaves
                if size == 0:
                    print(f"receiving {name}", flush=True)
                size += await file.write(chunk)
        Folder(part).rename(FILES / name)
    except BaseException:
        Folder(part).unlink()
        print(f"removed the part of {name}", flush=True)
        raise
    return {"bytes": size}


@app.get("/files")
async def files() -> list[str]:
    return sorted(path.name for path in FILES.iterdir())
