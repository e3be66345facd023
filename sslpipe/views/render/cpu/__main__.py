"""`python -m sslpipe.views.render.cpu` compiles the loops, or finds them compiled."""

from sslpipe.views.render.cpu import warm_up

warm_up()
