"""NiceGUI: a page whose function works before it is sent."""

from __future__ import annotations

from fastapi import FastAPI
from nicegui import ui  # type: ignore[import-not-found]  # it is not installed here

from .work import Work, app, lasting, play

__all__ = ["app"]

api = FastAPI()


@ui.page("/before/{variant}/{run}", response_timeout=30)  # type: ignore[untyped-decorator]  # it is not installed here
@ui.page("/bug/{variant}/{run}", response_timeout=30)  # type: ignore[untyped-decorator]  # it is not installed here
async def page(variant: str, run: str) -> None:
    async with Work() as tick:
        while await tick():
            pass
    ui.label("done")


ui.run_with(api)
lasting("nicegui")  # the outbox of a page that may still connect
play(api, "before", "bug", lifespan=True)
