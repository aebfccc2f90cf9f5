"""The command line: the only part of pyrun that prints, asks or exits."""
