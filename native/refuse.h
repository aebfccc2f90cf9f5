/* What the launcher says itself of a command that cannot be carried out, to the letter as pyrun.cli would; see refuse.c. */
#ifndef PYRUN_REFUSE_H
#define PYRUN_REFUSE_H

#include "sys.h"

/* Notes what is wrong: what was tried on what, why not, what to do about it, and which option asked for it ("": none).  Anything in it that
 * is not to be printed as it is leaves the command to Python. */
void refuse(const char *step, const char *subject, const char *why, const char *hint, const char *origin);

/* Says what was noted, and ends this process with pyrun's exit code for it; comes back where nothing was. */
void say_refusal(char **envp);

/* Of a plug-in of CNI: what it said, and its exit status, LATE where there is none. */
#define LATE 1000
struct said {
    const char *out, *err;
    size_t out_size, err_size;
    int code;
    int valid; /* what it said is JSON as the launcher reads it */
};
void refuse_plugin(const char *network, const char *type, const struct said *said);

#endif
