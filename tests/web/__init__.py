"""The web planes: what is answered, and how it is sent."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# The first text drawn on a machine builds a table of Unicode, which is slow once and says nothing of the code; a shared
# machine makes deadlines a matter of luck.
law = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
