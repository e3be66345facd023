"""The official views of papers, as YAML beside this file; how they are read, and a contact sheet of them."""
