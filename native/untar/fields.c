/* Writes the fields of a listing: quoted, through a buffer, and not more than is allowed. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "listing.h"
#include "tar.h"

/* Ways to fail, all of them -1 */

int listing_broken(struct listing *l, int code)
{
    l->fault->error = errno;
    untar_fault(l->fault, code, l->most >> 20, l->path, l->size);
    return -1;
}

/* Writing */

int listing_flush(struct listing *l)
{
    size_t done = 0;

    while (done < l->used) {
        ssize_t n = write(l->out, l->buffer + done, l->used - done);

        if (n < 0)
            return listing_broken(l, FAULT_SYSTEM);
        done += (size_t)n;
    }
    l->used = 0;
    return 0;
}

int listing_put(struct listing *l, const char *data, size_t size)
{
    if ((int64_t)size > l->room)
        return listing_broken(l, FAULT_LISTING);
    l->room -= (int64_t)size;
    while (size > 0) {
        size_t n = sizeof l->buffer - l->used;

        if (n > size)
            n = size;
        memcpy(l->buffer + l->used, data, n);
        l->used += n;
        data += n;
        size -= n;
        if (l->used == sizeof l->buffer && listing_flush(l) < 0)
            return -1;
    }
    return 0;
}

static int is_plain(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '-' && c <= ':') || (c >= 'A' && c <= 'Z') || (c != 0 && strchr("_+@,=", c) != NULL);
}

/* Bytes outside of the plain set as %XX. */
int listing_quoted(struct listing *l, const char *data, size_t size)
{
    size_t from = 0;

    for (size_t i = 0; i < size; i++)
        if (!is_plain((unsigned char)data[i])) {
            char escape[4];

            snprintf(escape, sizeof escape, "%%%02X", (unsigned)(unsigned char)data[i]);
            if (listing_put(l, data + from, i - from) < 0 || listing_put(l, escape, 3) < 0)
                return -1;
            from = i + 1;
        }
    return listing_put(l, data + from, size - from);
}

/* A blank and a field that may be empty. */
int listing_field(struct listing *l, const char *data, size_t size)
{
    if (size == 0)
        return listing_put(l, " -", 2);
    if (size == 1 && *data == '-')
        return listing_put(l, " %2D", 4);
    return listing_put(l, " ", 1) < 0 ? -1 : listing_quoted(l, data, size);
}

int listing_hex(struct listing *l, const unsigned char *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        char pair[2] = {"0123456789abcdef"[data[i] >> 4], "0123456789abcdef"[data[i] & 15]};

        if (listing_put(l, pair, 2) < 0)
            return -1;
    }
    return 0;
}
