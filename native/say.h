/* What the launcher writes of words that somebody else wrote, as pyrun.cli.output does; see say.c. */
#ifndef PYRUN_SAY_H
#define PYRUN_SAY_H

#include "sys.h"

/* Text that grows up to `end`; what does not fit is cut off. */
struct say {
    char *at;
    const char *end;
};

void say_text(struct say *to, const char *text);
void say_number(struct say *to, uint64_t number);

/* On one line, with nothing in it that a terminal would obey. */
void say_escaped(struct say *to, const char *text);

/* What stands between quotes in JSON that is ASCII; with `json` the text is from such quotes itself, its escapes are kept. */
void say_quoted(struct say *to, const char *text, size_t size, int json);

/* strerror(3) in lower case. */
void say_errno(struct say *to, long error);

/* The letter at `at`, which has so many bytes; of one that is none UTF-8 the byte above 0xdc00. */
size_t letter(const char *at, uint32_t *code);

#endif
