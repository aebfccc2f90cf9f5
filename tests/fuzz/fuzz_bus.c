/* Fuzz target of what the launcher reads of a bus (native/scope.c): whatever comes, it reads no byte that is not there, and ends. */
#include "../../native/scope.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int find_cgroup(char path[PATH_SIZE])
{
    path[0] = '\0';
    return 0;
}

void refuse_at(const char *file, int line, int code, const char *step, const char *subject, const char *why, const char *hint,
               const char *origin)
{
    (void)file, (void)line, (void)code, (void)step, (void)subject, (void)why, (void)hint, (void)origin;
}

int is_refused(void)
{
    return 1;
}

int ends_with(const char *text, const char *end)
{
    return text == end;
}

/* The fields alone, in memory of their very size. */
static void read_fields(const uint8_t *data, size_t size)
{
    unsigned char *fields = __builtin_malloc(size == 0 ? 1 : size);

    memcpy(fields, data, size);
    (void)answered(fields, size);
    __builtin_free(fields);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct talk talk;
    char why[64];
    struct say said = {why, why + sizeof why};
    int ends[2], found = 0;
    size_t before = 0;

    read_fields(data, size);
    if (sys_call4(__NR_socketpair, 1, 1, 0, ends) < 0)
        __builtin_trap();
    (void)sys_write(ends[1], data, size);
    sys_close(ends[1]);
    memset(&talk, 0, sizeof talk);
    talk.fd = ends[0];
    talk.end = UINT64_MAX / 2;
    if (is_let_in(&talk))
        while (found == 0) {
            found = next(&talk, &said);
            if (talk.at > talk.size || (found >= 0 && talk.at <= before))
                __builtin_trap(); /* it went too far, or did not go on */
            before = talk.at;
        }
    sys_close(ends[0]);
    return 0;
}
