"""The three kinds of features that every score is given for: the encoder's and those of its baselines."""

#: What tables and legends call them, in the order of columns.
SERIES = {"encoder": "Pretrained", "random_init": "Random weights", "raw_pixel": "Raw pixels"}
#: What the names of their numbers begin with.
PREFIX = {"encoder": "", "random_init": "random_init_", "raw_pixel": "raw_pixel_"}
#: The classes of the style sheet that give them a colour and a mark.
MARKS = {"encoder": "encoder", "random_init": "random", "raw_pixel": "pixels"}
