/* Files of a pod's directory: written whole, removed with all below; shared by the helper and the keeper. */
#ifndef PYRUN_FILES_H
#define PYRUN_FILES_H

#include "sys.h"

/* Creates or opens a file and writes all of text; minus an errno. */
long write_file(int dir, const char *path, int flags, unsigned mode, const char *text, size_t size);

/* The same beside the file and renamed: a reader sees all of it or nothing.  With `safe` it also survives a power cut. */
long replace_file(int dir, const char *name, const char *text, size_t size, int safe);

/* Empties a directory, to a depth of 64, never past a mount point; 0 when something is left. */
int remove_below(int dir);

#endif
