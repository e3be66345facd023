"""`python -m sslpipe` is the `sslpipe` command."""

import sys

from sslpipe.cli import main

sys.exit(main())
