/* The one parser of tar archives: fed piece by piece, bounded, and strict where readers disagree.
 *
 * Understood: POSIX ustar (pax(1)), GNU's base-256 numbers, long names and sparse members in their four forms, star's
 * and pax's extended headers with paths, sizes, ids, times and SCHILY.xattr.
 *
 *     [pax x | GNU L, K]*  header  [sparse map]  data, padded   ...   zero block  zero block  zeros */
#include "tar.h"

#include <stdlib.h>
#include <string.h>

/* Life */

struct tar *tar_new(int64_t total, int64_t entries, int unclosed)
{
    struct tar *t = calloc(1, sizeof *t);

    if (t != NULL) {
        t->total = total;
        t->entries = entries;
        t->unclosed = unclosed;
        t->in = t->end = "";
    }
    return t;
}

void tar_free(struct tar *t)
{
    if (t == NULL)
        return;
    free(t->payload);
    free(t->records);
    free(t->map);
    free(t);
}

void tar_feed(struct tar *t, const char *data, size_t size)
{
    t->in = data;
    t->end = data + size;
    t->ended = size == 0;
}

const struct untar_member *tar_member(const struct tar *t)
{
    return &t->member;
}

int64_t tar_left(const struct tar *t)
{
    return t->left;
}

const char *tar_xattr(const struct tar *t, size_t i, size_t *name_size, const char **value, size_t *value_size)
{
    *name_size = t->records[i].name.size;
    *value = t->records[i].value.data;
    *value_size = t->records[i].value.size;
    return t->records[i].name.data;
}

static int fail(struct untar_fault_info *f, int code, const char *subject, size_t size)
{
    return untar_fault(f, code, 0, subject, size);
}

/* That the archive is at fault as a whole; the subject is the member before. */
static int fail_here(struct tar *t, struct untar_fault_info *f, int code)
{
    return fail(f, code, t->last, t->last_size);
}

static int need(struct tar *t, struct untar_fault_info *f)
{
    return t->ended ? fail_here(t, f, FAULT_CUT) : UNTAR_MORE;
}

int tar_cut(struct tar *t, struct untar_fault_info *f)
{
    return need(t, f);
}

static size_t available(const struct tar *t)
{
    return (size_t)(t->end - t->in);
}

/* `want` bytes in one piece; NULL until they are there. */
static const unsigned char *gather(struct tar *t, size_t want)
{
    size_t n = want - t->have;

    if (t->have == 0 && available(t) >= want) {
        t->in += want;
        return (const unsigned char *)t->in - want;
    }
    if (n > available(t))
        n = available(t);
    if (n > 0)
        memcpy(t->block + t->have, t->in, n);
    t->in += n;
    t->have += n;
    if (t->have < want)
        return NULL;
    t->have = 0;
    return (const unsigned char *)t->block;
}

/* Fills `payload`; 0 until it is full. */
static int gather_payload(struct tar *t)
{
    size_t n = t->padded - t->have;

    if (n > available(t))
        n = available(t);
    if (n > 0)
        memcpy(t->payload + t->have, t->in, n);
    t->in += n;
    t->have += n;
    if (t->have < t->padded)
        return 0;
    t->have = 0;
    return 1;
}

size_t tar_data(struct tar *t, size_t most, const char **data, int64_t *offset)
{
    size_t n = available(t) < most ? available(t) : most;

    if ((int64_t)n > t->left)
        n = (size_t)t->left;
    if (t->member.sparse) {
        while (t->piece < t->pieces && t->map[t->piece].size == t->offset) {
            t->piece++; /* `offset` counts within the piece */
            t->offset = 0;
        }
        if (t->piece == t->pieces)
            return 0;
        if ((int64_t)n > t->map[t->piece].size - t->offset)
            n = (size_t)(t->map[t->piece].size - t->offset);
        *offset = t->map[t->piece].offset + t->offset;
    } else
        *offset = t->offset;
    *data = t->in;
    t->in += n;
    t->offset += (int64_t)n;
    t->left -= (int64_t)n;
    return n;
}

static int all_zero(const unsigned char *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* The states */

static int at_header(struct tar *t, struct untar_fault_info *f)
{
    const unsigned char *block;
    int next;

    if (t->unclosed && t->have == 0 && available(t) == 0 && t->ended) {
        t->state = TAR_CLOSED;
        return UNTAR_DONE;
    }
    block = gather(t, TAR_BLOCK);
    if (block == NULL)
        return need(t, f);
    if (all_zero(block, TAR_BLOCK)) {
        t->state = TAR_ZERO;
        return UNTAR_DONE;
    }
    if (check_header(t, block, f) < 0)
        return UNTAR_BAD;
    if (block[156] != 0 && strchr("xgLK", block[156]) != NULL) {
        t->state = TAR_EXTENDED;
        return begin_extended(t, block, f) < 0 ? UNTAR_BAD : UNTAR_DONE;
    }
    next = take_member(t, block, f);
    if (next < 0)
        return UNTAR_BAD;
    t->state = next;
    return UNTAR_DONE;
}

static int at_extended(struct tar *t, struct untar_fault_info *f)
{
    if (!gather_payload(t))
        return need(t, f);
    t->state = TAR_HEADER;
    return take_extended(t, f) < 0 ? UNTAR_BAD : UNTAR_DONE;
}

static int at_ready(struct tar *t)
{
    struct untar_member *m = &t->member;

    m->path = t->path;
    m->link = t->link;
    memcpy(t->last, t->path, m->path_size);
    t->last_size = m->path_size;
    memset(&t->x, 0, sizeof t->x); /* its attributes stay in `records` until the next extended header */
    t->state = TAR_DATA;
    return UNTAR_MEMBER;
}

static int at_data(struct tar *t, struct untar_fault_info *f)
{
    const char *data;
    int64_t offset;

    while (t->left > 0)
        if (tar_data(t, SIZE_MAX, &data, &offset) == 0)
            return need(t, f);
    if (t->padding > 0 && available(t) == 0) {
        if (t->unclosed && t->ended && t->whole_padding)
            t->padding = 0; /* umoci does not even fill the last block */
        else
            return need(t, f);
    }
    if (t->padding > 0) {
        size_t n = t->padding < available(t) ? t->padding : available(t);

        t->in += n;
        t->padding -= n;
        t->whole_padding = 0;
        return UNTAR_DONE;
    }
    t->state = TAR_HEADER;
    return UNTAR_DONE;
}

static int at_zero(struct tar *t, struct untar_fault_info *f)
{
    const unsigned char *block;

    if (!(t->unclosed && t->have == 0 && available(t) == 0 && t->ended)) {
        block = gather(t, TAR_BLOCK);
        if (block == NULL)
            return need(t, f);
        if (!all_zero(block, TAR_BLOCK))
            return fail_here(t, f, FAULT_LONE_ZERO);
    }
    t->state = TAR_CLOSED;
    return UNTAR_DONE;
}

/* On to the end of the stream, which must be zeros: the image ID covers them (ACI-12). */
static int at_closed(struct tar *t, struct untar_fault_info *f)
{
    if (t->x.seen)
        return fail_here(t, f, FAULT_DANGLING);
    if (!all_zero((const unsigned char *)t->in, available(t)))
        return fail_here(t, f, FAULT_AFTER_END);
    t->in = t->end;
    return t->ended ? UNTAR_END : UNTAR_MORE;
}

int tar_next(struct tar *t, struct untar_fault_info *f)
{
    int r = UNTAR_DONE;

    while (r == UNTAR_DONE)
        switch (t->state) {
        case TAR_HEADER: r = at_header(t, f); break;
        case TAR_EXTENDED: r = at_extended(t, f); break;
        case TAR_OLD_MAP: case TAR_NEW_MAP: r = sparse_more(t, gather(t, TAR_BLOCK), f); r = r == UNTAR_MORE ? need(t, f) : r; break;
        case TAR_READY: r = at_ready(t); break;
        case TAR_DATA: r = at_data(t, f); break;
        case TAR_ZERO: r = at_zero(t, f); break;
        default: r = at_closed(t, f); break;
        }
    return r;
}
