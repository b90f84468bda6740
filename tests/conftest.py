"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine is slow at times: what is found counts, not when.
settings.register_profile("musicgen", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("musicgen")
