"""A page of NiceGUI."""

from nicegui import ui

__all__ = ["ui"]


@ui.page("/page")
async def page():
    ui.label("tick")
