/* What the launcher says itself of a command that cannot be carried out, to the letter as pyrun.cli would; see refuse.c. */
#ifndef PYRUN_REFUSE_H
#define PYRUN_REFUSE_H

#include "sys.h"

/* Notes what is wrong: what was tried on what, why not, what to do about it, and which option asked for it ("": none).  The last one
 * counts. */
#define refuse(...) refuse_at(__FILE_NAME__, __LINE__, 125, __VA_ARGS__)
#define refuse_usage(...) refuse_at(__FILE_NAME__, __LINE__, 2, __VA_ARGS__)
void refuse_at(const char *file, int line, int code, const char *step, const char *subject, const char *why, const char *hint,
               const char *origin);
const char *errno_text(long error); /* strerror(3) in lower case, until it is called again */
int is_refused(void);
void forget_refusal(void);

/* How it is to be told: with where it was said, as lines of JSON. */
struct telling {
    int debug, lines;
};

/* Says what was noted, and ends this process with pyrun's exit code for it; comes back where nothing was. */
void say_refusal(const struct telling *how, char **envp);

/* Of a plug-in of CNI: what it said, and its exit status, LATE where there is none. */
#define LATE 1000
#define LONG 1001 /* and longer than is read */
struct said {
    const char *out, *err;
    size_t out_size, err_size;
    int code;
    int valid; /* what it said is JSON as the launcher reads it */
};
void refuse_plugin(const char *command, const char *network, const char *type, const struct said *said);

#endif
