"""What can go wrong with counting."""

from __future__ import annotations

from harness.errors import HarnessError


class CoherenceError(HarnessError):
    """The plugin did not do what it was asked for, or what it wrote makes no sense."""
