"""One thin module a stage: read settings, call sslpipe, write outputs, record. Run by `python -m stages.NAME`."""

from sslpipe.core.threads import yield_cores

yield_cores()
