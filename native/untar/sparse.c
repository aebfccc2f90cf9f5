/* Sparse members in GNU's forms (tar(5), "GNU tar archives"; the tar manual, "Storing Sparse Files"): old GNU headers,
 * and pax 0.0, 0.1 and 1.0.  A map is refused unless its pieces go up, stay within the file, and add up to the data. */
#include <stdlib.h>
#include <string.h>

#include "tar.h"

static int fail(struct tar *t, struct untar_fault_info *f)
{
    return untar_fault(f, FAULT_SPARSE, 0, t->path, t->member.path_size), -1;
}

int sparse_add(struct tar *t, int64_t offset, int64_t size)
{
    struct tar_piece *more;

    if (t->pieces >= UNTAR_MAX_MAP)
        return -1;
    if (t->pieces == t->map_room) {
        more = realloc(t->map, (t->map_room * 2 + 64) * sizeof *more);
        if (more == NULL)
            return -1;
        t->map = more;
        t->map_room = t->map_room * 2 + 64;
    }
    t->map[t->pieces++] = (struct tar_piece){offset, size};
    return 0;
}

/* Reads decimal numbers that end in `stop`, the last one perhaps in nothing; calls back after every pair. */
static int one_digit(struct tar *t, char c)
{
    if (c < '0' || c > '9' || ++t->digits > 19)
        return -1;
    return __builtin_mul_overflow(t->number, 10, &t->number) || __builtin_add_overflow(t->number, c - '0', &t->number) ? -1 : 0;
}

int sparse_list(struct tar *t, struct tar_text list)
{
    int64_t offset = -1;

    t->digits = 0;
    t->number = 0;
    for (size_t i = 0; i <= list.size; i++) {
        if (i < list.size && list.data[i] != ',') {
            if (one_digit(t, list.data[i]) < 0)
                return -1;
            continue;
        }
        if (t->digits == 0)
            return -1;
        if (offset < 0)
            offset = t->number;
        else if (sparse_add(t, offset, t->number) < 0)
            return -1;
        else
            offset = -1;
        t->number = 0;
        t->digits = 0;
    }
    return offset < 0 ? 0 : -1;
}

/* The map is complete. */
static int ready(struct tar *t, struct untar_fault_info *f)
{
    int64_t at = 0, stored = 0;

    for (size_t i = 0; i < t->pieces; i++) {
        if (t->map[i].offset < at || t->map[i].size < 0 || t->map[i].size > t->member.size - t->map[i].offset)
            return fail(t, f);
        at = t->map[i].offset + t->map[i].size;
        stored += t->map[i].size;
    }
    if (t->pieces == 0 || stored != t->left)
        return fail(t, f);
    t->piece = 0;
    t->offset = 0;
    return TAR_READY;
}

/* Entries of an old map: `n` of them at `p`; an empty one ends it. */
static int old_entries(struct tar *t, const unsigned char *p, int n)
{
    int64_t offset, size;

    for (; n > 0 && p[12] != 0; n--, p += 24)
        if (tar_number(p, 12, &offset) < 0 || tar_number(p + 12, 12, &size) < 0 || offset < 0 || sparse_add(t, offset, size) < 0)
            return -1;
    return 0;
}

int sparse_begin(struct tar *t, const unsigned char *block, char flag, struct untar_fault_info *f)
{
    struct untar_member *m = &t->member;
    int old = flag == 'S', in_data = t->x.sparse & SPARSE_IN_DATA;

    if (m->kind != '0' || (old && t->x.sparse))
        return fail(t, f);
    if (old) {
        t->pieces = 0;
        if (tar_number(block + 483, 12, &m->size) < 0 || old_entries(t, block + 386, 4) < 0)
            return fail(t, f);
    } else
        m->size = t->x.realsize;
    if (m->size < 0)
        return fail(t, f);
    if (m->size > t->total - t->apparent) {
        f->b = t->total;
        return untar_fault(f, FAULT_SIZE, m->size, t->path, m->path_size), -1;
    }
    t->apparent += m->size; /* holes take no room, but whoever reads the files reads them too */
    if (old && block[482] != 0)
        return TAR_OLD_MAP;
    if (!in_data)
        return ready(t, f);
    t->pieces = 0;
    t->wanted = 0;
    t->number = 0;
    t->digits = 0;
    t->offset = -1;
    return TAR_NEW_MAP;
}

/* One number of a map in the data: first how many pieces, then their offsets and sizes.  1 after the last. */
static int take_number(struct tar *t)
{
    int64_t number = t->number;

    t->number = 0;
    t->digits = 0;
    if (t->wanted == 0) {
        if (number == 0 || number > UNTAR_MAX_MAP)
            return -1;
        t->wanted = (size_t)number;
        return 0;
    }
    if (t->offset < 0) {
        t->offset = number;
        return 0;
    }
    if (sparse_add(t, t->offset, number) < 0)
        return -1;
    t->offset = -1;
    return t->pieces == t->wanted;
}

static int new_block(struct tar *t, const unsigned char *block, struct untar_fault_info *f)
{
    int done = 0;

    t->left -= TAR_BLOCK;
    for (int i = 0; i < TAR_BLOCK && done == 0; i++) {
        if (block[i] != '\n')
            done = one_digit(t, (char)block[i]);
        else
            done = t->digits == 0 ? -1 : take_number(t);
    }
    if (done < 0)
        return fail(t, f);
    return done ? ready(t, f) : TAR_NEW_MAP;
}

int sparse_more(struct tar *t, const unsigned char *block, struct untar_fault_info *f)
{
    int next;

    if (t->state == TAR_NEW_MAP && t->left < TAR_BLOCK)
        return fail(t, f), UNTAR_BAD;
    if (block == NULL)
        return UNTAR_MORE;
    if (t->state == TAR_NEW_MAP)
        next = new_block(t, block, f);
    else if (old_entries(t, block, 21) < 0)
        next = fail(t, f);
    else
        next = block[504] != 0 ? TAR_OLD_MAP : ready(t, f);
    if (next < 0)
        return UNTAR_BAD;
    t->state = next;
    return UNTAR_DONE;
}
