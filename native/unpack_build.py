"""Builds `pyrun.native._unpack`: the tar parser and the writer of trees, for the confined process that reads images.

An extension of its own, since no start of a container needs it.
"""

from __future__ import annotations

import os
import re

from cffi import FFI

MODULE = "pyrun.native._unpack"
HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = ("tar", "header", "pax", "sparse", "tree", "names", "metadata", "parents", "inodes", "fields", "listing")


def declarations() -> str:
    """untar.h as cffi's cdef reads it: without the include guard and what it includes."""
    with open(os.path.join(HERE, "untar", "untar.h"), encoding="ascii") as file:
        text = file.read()
    return re.sub(r"^#(ifndef|endif|define PYRUN_UNTAR_H|include).*$", "", text, flags=re.MULTILINE)


ffibuilder = FFI()
ffibuilder.cdef(declarations() + "void free(void *pointer);")
ffibuilder.set_source(
    MODULE,
    '#include <stdlib.h>\n#include "untar.h"',
    include_dirs=["native/untar"],
    libraries=["crypto"],  # OpenSSL's, which hashlib loads anyway
    sources=[f"native/untar/{name}.c" for name in SOURCES],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
