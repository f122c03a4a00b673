"""The guest's console: kept whole, watched for kernel splats, decoded to source lines."""

from harness.console.console import Console, ExpectedSplatMissing, Mark
from harness.console.patterns import Splat

__all__ = ["Console", "ExpectedSplatMissing", "Mark", "Splat"]
