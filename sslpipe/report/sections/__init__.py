"""The sections of the page, found in this folder; each has a template of its own name."""
