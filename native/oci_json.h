/* A reader of plain JSON (RFC 8259).  It says no to whatever it would have to think about: that is Python's to read. */
#ifndef PYRUN_OCI_JSON_H
#define PYRUN_OCI_JSON_H

#include "sys.h"

/* Values are taken in their order, by what they have to be; after anything else `bad` is set and nothing follows.
 * Strings are decoded in place, one behind the other: `out` never overtakes `at`. */
struct json {
    char *at; /* ends in a NUL */
    char *out;
    const char *end; /* where the NUL is, for json_ended */
    int known; /* Python has read all of it already */
    int bad;
};

void json_open(struct json *json, char open);
int json_more(struct json *json, char close, unsigned *count); /* whether there is another item; count is 0 at the start */
const char *json_name(struct json *json, size_t *size);        /* of a member; good until its value is taken */
char *json_string(struct json *json);                          /* 0 for anything else */
uint64_t json_number(struct json *json, uint64_t most);
int json_true(struct json *json);
int json_null(struct json *json); /* whether null stood there */
void json_skip(struct json *json);
const char *json_text(struct json *json, size_t *size); /* a value as it stands there, whatever it is */
int json_ended(struct json *json);

#endif
