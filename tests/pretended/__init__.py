"""A GPU that is not there, for the faults that only a GPU shows.

Within `with pretending() as gpu:` code runs on a device `cuda` whose tensors are CPU tensors inside, with real values.
Where tensors of two devices meet, or a CPU generator and a GPU's tensor, a `DeviceMismatch` is raised. `gpu.notes` has

  wait      where the host would wait for the device: copies without `non_blocking`, `.item()`, masks as indices, …
  pageable  copies from memory that is not pinned: the host takes part in them, though asked not to wait
  race      what a stream reads, writes or frees before another one that used it is known to be done

Streams and events are bookkeeping; nothing really runs at the same time.
"""

from pretended.device import pretending
from pretended.notes import Gpu, Memory, Note
from pretended.tensor import DeviceMismatch, Pretend

__all__ = ["DeviceMismatch", "Gpu", "Memory", "Note", "Pretend", "pretending"]
