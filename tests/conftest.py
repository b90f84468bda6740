"""Settings that all tests share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow at times: what is found counts, not when.
settings.register_profile("fresh", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("fresh"), derandomize=True)


def pytest_configure(config: pytest.Config) -> None:
    """Draw the same examples for every commit, and fresh ones where the promises are tested."""
    promised = config.getoption("markexpr") == "promises"
    settings.load_profile("fresh" if promised else "repeatable")
