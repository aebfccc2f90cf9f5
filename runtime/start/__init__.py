"""Where an interpreter that the launcher starts looks for modules first: see `pyrun.start.encodings`."""
