"""pytest with the plugin of `disconnect_mw.testing`, and with no other."""

from __future__ import annotations

import pytest


def start(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """Run what is in pytester's directory; as with the entry point, whether or not the package is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        return pytester.runpytest_inprocess("-p", "_disconnect_mw_pytest", "-p", "no:cacheprovider", *options)
