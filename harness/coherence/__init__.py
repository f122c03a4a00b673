"""Cache-line transfers and instructions of a guest's kernel, counted by a QEMU plugin.

The guest runs on emulated CPUs (TCG). A plugin (plugin.c) follows the memory accesses of
its kernel through a coherence directory (directory.h) and says which of them would have
needed another CPU's cache. :class:`Recorder` builds it and makes the guest's options,
:class:`Counter` marks sections in the running guest, and :class:`Counts` is what one of
them counted. docs/coherence.md says what is simulated and what is not.
"""

from harness.coherence.counts import Counts, Move, Tally
from harness.coherence.errors import CoherenceError
from harness.coherence.recorder import Counter, Recorder, Section
from harness.coherence.structures import Namer

__all__ = ["CoherenceError", "Counter", "Counts", "Move", "Namer", "Recorder", "Section", "Tally"]
