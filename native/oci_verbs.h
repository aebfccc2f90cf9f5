/* The short ways of `pyrun-oci`; see oci_verbs.c. */
#ifndef PYRUN_OCI_VERBS_H
#define PYRUN_OCI_VERBS_H

/* Carries out a verb; 0 when that is Python's to do. */
int oci_verb(int argc, char **argv);

#endif
