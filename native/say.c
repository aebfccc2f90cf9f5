/* See say.h.  Which letters are shown as they are: those of which it is certain that Python, too, holds them for printable. */
#include "say.h"

#define NO_LETTER 0xdc00U

void say_text(struct say *to, const char *text)
{
    while (*text != '\0' && to->at + 1 < to->end)
        *to->at++ = *text++;
    *to->at = '\0';
}

void say_number(struct say *to, uint64_t number)
{
    char digits[24];

    (void)str_add_number(digits, digits + sizeof digits, number);
    say_text(to, digits);
}

size_t letter(const char *text, uint32_t *code)
{
    const unsigned char *at = (const unsigned char *)text;
    const size_t more = at[0] < 0x80 ? 0 : at[0] >= 0xc2 && at[0] < 0xe0 ? 1 : (at[0] & 0xf0) == 0xe0 ? 2 : at[0] >= 0xf0 && at[0] < 0xf5 ? 3 : 4;
    uint32_t found = more == 0 ? at[0] : at[0] & (0x3fU >> more);
    size_t i;

    for (i = 1; i <= more && more < 4 && (at[i] & 0xc0) == 0x80; i++)
        found = found << 6 | (at[i] & 0x3fU);
    if (more == 4 || i <= more || (more == 2 && found < 0x800) || (more == 3 && found < 0x10000) || (found >= 0xd800 && found < 0xe000) ||
        found > 0x10ffff) {
        *code = NO_LETTER + at[0];
        return 1;
    }
    *code = found;
    return more + 1;
}

static int is_shown(uint32_t code)
{
    static const struct {
        uint16_t first, last;
    } shown[] = {{' ', '~'},        {0xa1, 0xac},     {0xae, 0x2ff},    {0x391, 0x3a1},   {0x3a3, 0x481},  {0x48a, 0x52f},
                 {0x1e00, 0x1eff},  {0x2010, 0x2027}, {0x20a0, 0x20bf}, {0x3041, 0x3096}, {0x30a1, 0x30ff}, {0x4e00, 0x9fef},
                 {0xac00, 0xd7a3}};

    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        if (code >= shown[i].first && code <= shown[i].last)
            return 1;
    return 0;
}

static void say_hex(struct say *to, const char *head, uint32_t code, int size)
{
    static const char digits[] = "0123456789abcdef";
    char text[16] = "";

    if (to->end - to->at <= (long)str_len(head) + size) /* not half of it */
        return;
    for (int i = 0; i < size; i++)
        text[i] = digits[code >> (4 * (size - 1 - i)) & 15];
    say_text(to, head);
    say_text(to, text);
}

static void say_bytes(struct say *to, const char *at, size_t size)
{
    for (size_t i = 0; i < size && (size_t)(to->end - to->at) > size; i++)
        *to->at++ = at[i];
    *to->at = '\0';
}

void say_escaped(struct say *to, const char *text)
{
    while (*text != '\0') {
        uint32_t code;
        const size_t size = letter(text, &code);

        if (is_shown(code))
            say_bytes(to, text, size);
        else if (code == '\t' || code == '\n' || code == '\r')
            say_text(to, code == '\t' ? "\\t" : code == '\n' ? "\\n" : "\\r");
        else if (code < 0x100 || (code >= NO_LETTER && code < NO_LETTER + 0x100))
            say_hex(to, "\\x", code & 0xff, 2);
        else
            say_hex(to, code < 0x10000 ? "\\u" : "\\U", code, code < 0x10000 ? 4 : 8);
        text += size;
    }
}

void say_quoted(struct say *to, const char *text, size_t length, int json)
{
    static const char plain[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";

    for (const char *at = text; at < text + length;) {
        char pair[] = "\\?";
        uint32_t code;
        const size_t size = letter(at, &code);

        for (size_t i = 0; i < sizeof plain - 1; i++)
            if (code == (unsigned char)plain[i])
                pair[1] = names[i];
        if ((pair[1] == '?' && code >= ' ' && code <= '~') || (json && code == '\\'))
            say_bytes(to, at, 1);
        else if (pair[1] != '?')
            say_text(to, pair);
        else if (code < 0x10000)
            say_hex(to, "\\u", code, 4);
        else {
            say_hex(to, "\\u", 0xd800 + ((code - 0x10000) >> 10), 4);
            say_hex(to, "\\u", 0xdc00 + (code & 0x3ff), 4);
        }
        at += size;
        if (json && code == '\\' && at < text + length)
            say_bytes(to, at++, 1);
    }
}

void say_errno(struct say *to, long error)
{
    static const struct {
        short number;
        char text[44];
    } known[] = {
        {EPERM, "operation not permitted"},
        {ENOENT, "no such file or directory"},
        {EIO, "input/output error"},
        {ENXIO, "no such device or address"},
        {E2BIG, "argument list too long"},
        {ENOEXEC, "exec format error"},
        {EBADF, "bad file descriptor"},
        {EAGAIN, "resource temporarily unavailable"},
        {ENOMEM, "cannot allocate memory"},
        {EACCES, "permission denied"},
        {EBUSY, "device or resource busy"},
        {EEXIST, "file exists"},
        {ENODEV, "no such device"},
        {ENOTDIR, "not a directory"},
        {EISDIR, "is a directory"},
        {EINVAL, "invalid argument"},
        {ENFILE, "too many open files in system"},
        {EMFILE, "too many open files"},
        {EFBIG, "file too large"},
        {ENOSPC, "no space left on device"},
        {EROFS, "read-only file system"},
        {EMLINK, "too many links"},
        {ERANGE, "numerical result out of range"},
        {ENAMETOOLONG, "file name too long"},
        {ENOSYS, "function not implemented"},
        {ELOOP, "too many levels of symbolic links"},
        {EOVERFLOW, "value too large for defined data type"},
        {EMSGSIZE, "message too long"},
        {EOPNOTSUPP, "operation not supported"},
        {EAFNOSUPPORT, "address family not supported by protocol"},
        {EADDRINUSE, "address already in use"},
        {EADDRNOTAVAIL, "cannot assign requested address"},
        {ENETDOWN, "network is down"},
        {ENOBUFS, "no buffer space available"},
        {ETIMEDOUT, "connection timed out"},
        {ECONNREFUSED, "connection refused"},
        {ESTALE, "stale file handle"},
        {EDQUOT, "disk quota exceeded"},
    };

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].number == -error || known[i].number == error) {
            say_text(to, known[i].text);
            return;
        }
    say_text(to, "unknown error ");
    say_number(to, (uint64_t)(error < 0 ? -error : error));
}
