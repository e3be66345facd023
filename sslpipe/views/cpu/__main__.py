"""`python -m sslpipe.views.cpu` compiles the loops, or finds them compiled."""

from sslpipe.views.cpu import warm_up

warm_up()
