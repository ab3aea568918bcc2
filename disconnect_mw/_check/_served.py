"""What the servers of the check import: `app`, the probe around the app that the environment names."""

from __future__ import annotations

import json
import os

from ._probe import VARIABLE, Probe

app = Probe(json.loads(os.environ[VARIABLE]))
