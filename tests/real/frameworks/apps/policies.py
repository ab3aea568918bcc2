"""A handler and a stream of each framework that is installed, under each policy."""

from __future__ import annotations

import gc
import importlib.util

from . import of_starlette
from .work import app

if importlib.util.find_spec("django"):
    from . import of_django
if importlib.util.find_spec("quart"):
    from . import of_quart

gc.collect()
gc.freeze()  # the collection at each mark need not scan the frameworks

__all__ = ["app", "of_django", "of_quart", "of_starlette"]
