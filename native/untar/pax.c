/* Extended headers: the pax records of POSIX.1-2001 (pax(1), "pax Extended Header") and GNU's long names. */
#include <stdlib.h>
#include <string.h>

#include "tar.h"

#define MAX_DIGITS 20

static const char XATTR[] = "SCHILY.xattr.";

/* Records of which the last counts, in the order of `names`. */
enum known { PATH, LINKPATH, SIZE, UID, GID, MTIME, MAJOR, MINOR, NAME, REALSIZE, SPARSE_SIZE, NUMBLOCKS, MAP, KNOWN };

static const char *const names[KNOWN] = {
    "path", "linkpath", "size", "uid", "gid", "mtime", "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name",
    "GNU.sparse.realsize", "GNU.sparse.size", "GNU.sparse.numblocks", "GNU.sparse.map",
};

static int fail(struct untar_fault_info *f, int code)
{
    return untar_fault(f, code, 0, NULL, 0), -1;
}

int tar_reserve(struct tar *t, size_t size)
{
    char *more;

    if (size <= t->room)
        return 0;
    more = realloc(t->payload, size);
    if (more == NULL)
        return -1;
    t->payload = more;
    t->room = size;
    return 0;
}

static int is(struct tar_text text, const char *word)
{
    return text.size == strlen(word) && memcmp(text.data, word, text.size) == 0;
}

static int starts(struct tar_text text, const char *word)
{
    return text.size >= strlen(word) && memcmp(text.data, word, strlen(word)) == 0;
}

/* A name for the next member; two of them are refused, because readers disagree on which counts. */
static int set_name(struct tar *t, int link, struct tar_text value, struct untar_fault_info *f)
{
    size_t *size = link ? &t->x.link_size : &t->x.path_size;
    size_t kept = value.size < UNTAR_MAX_NAME ? value.size : UNTAR_MAX_NAME;

    t->x.seen = 1;
    if (value.size == 0)
        return fail(f, FAULT_EMPTY_NAME);
    if (*size > 0)
        return fail(f, FAULT_NAMED_TWICE);
    memcpy(link ? t->link : t->path, value.data, kept);
    *size = value.size; /* one that is too long is refused by it */
    return 0;
}

/* The decimal number at the start of `text`, which is cut off; -1 where there is none.  The largest stands for all above. */
static int digits(struct tar_text *text, int64_t *out)
{
    size_t n = 0;

    *out = 0;
    for (; n < text->size && text->data[n] >= '0' && text->data[n] <= '9'; n++)
        if (__builtin_mul_overflow(*out, 10, out) || __builtin_add_overflow(*out, text->data[n] - '0', out))
            *out = INT64_MAX / 10 + 1; /* overflows again at the next digit */
    text->data += n;
    text->size -= n;
    return n == 0 || n > MAX_DIGITS ? -1 : 0;
}

static int integer(struct tar_text value, const char *key, struct untar_fault_info *f, int64_t *out)
{
    if (digits(&value, out) == 0 && value.size == 0)
        return 0;
    untar_detail(f, key, strlen(key));
    return fail(f, FAULT_PAX_NUMBER);
}

/* Seconds with any number of decimals and perhaps a sign; cut off below a nanosecond. */
static int nanoseconds(struct tar_text value, struct untar_fault_info *f, int64_t *out)
{
    int64_t whole, fraction = 0, unit = 100000000;
    int negative = value.size > 0 && value.data[0] == '-';

    value.data += negative;
    value.size -= (size_t)negative;
    untar_detail(f, "mtime", 5);
    if (digits(&value, &whole) < 0)
        return fail(f, FAULT_PAX_NUMBER);
    if (value.size > 0 && value.data[0] != '.')
        return fail(f, FAULT_PAX_NUMBER);
    for (size_t i = 1; i < value.size; i++, unit /= 10) {
        if (value.data[i] < '0' || value.data[i] > '9')
            return fail(f, FAULT_PAX_NUMBER);
        fraction += unit * (value.data[i] - '0');
    }
    *out = tar_nanoseconds(whole, fraction);
    if (negative)
        *out = -*out;
    return 0;
}

/* Cuts the record `LENGTH KEY=VALUE\n` off. */
static int record(struct tar_text *rest, struct tar_record *r, struct untar_fault_info *f)
{
    const char *space = memchr(rest->data, ' ', rest->size < 9 ? rest->size : 9), *end, *equals;
    struct tar_text number = {rest->data, space == NULL ? 0 : (size_t)(space - rest->data)};
    int64_t size;

    if (number.size == 0 || number.data[0] == '0' || digits(&number, &size) < 0 || number.size != 0)
        return fail(f, FAULT_NO_LENGTH);
    end = rest->data + size;
    if ((size_t)size > rest->size || end <= space + 1 || end[-1] != '\n')
        return fail(f, FAULT_LENGTH);
    equals = memchr(space + 1, '=', (size_t)(end - 1 - (space + 1)));
    if (equals == NULL || equals == space + 1)
        return fail(f, FAULT_LENGTH);
    r->name = (struct tar_text){space + 1, (size_t)(equals - space - 1)};
    r->value = (struct tar_text){equals + 1, (size_t)(end - 1 - (equals + 1))};
    rest->data = end;
    rest->size -= (size_t)size;
    return 0;
}

static int add_attribute(struct tar *t, const struct tar_record *r)
{
    struct tar_record *more;

    if (t->x.xattrs == t->records_room) {
        more = realloc(t->records, (t->records_room * 2 + 16) * sizeof *more);
        if (more == NULL)
            return -1;
        t->records = more;
        t->records_room = t->records_room * 2 + 16;
    }
    more = &t->records[t->x.xattrs++];
    more->name = (struct tar_text){r->name.data + strlen(XATTR), r->name.size - strlen(XATTR)};
    more->value = r->value;
    t->payload[more->name.data + more->name.size - t->payload] = 0; /* where the = was */
    return 0;
}

/* Offsets and sizes of a sparse member in its oldest form alternate. */
static int take_piece(struct tar *t, const struct tar_record *r, struct untar_fault_info *f)
{
    int64_t number;
    int is_size = is(r->name, "GNU.sparse.numbytes");

    if (integer(r->value, "GNU.sparse.offset", f, &number) < 0)
        return -1;
    if (is_size != (t->digits > 0))
        return fail(f, FAULT_SPARSE);
    t->digits = !is_size;
    if (!is_size)
        t->number = number;
    else if (sparse_add(t, t->number, number) < 0)
        return fail(f, FAULT_SPARSE);
    t->x.sparse |= SPARSE_PAX | SPARSE_MAP;
    return 0;
}

static int take_record(struct tar *t, const struct tar_record *r, struct tar_text *last, struct untar_fault_info *f)
{
    if (starts(r->name, XATTR))
        return add_attribute(t, r) < 0 ? fail(f, FAULT_MEMORY) : 0;
    if (is(r->name, "SCHILY.realsize"))
        return fail(f, FAULT_STAR_SPARSE);
    if (is(r->name, "GNU.sparse.offset") || is(r->name, "GNU.sparse.numbytes"))
        return take_piece(t, r, f);
    for (int i = 0; i < KNOWN; i++)
        if (is(r->name, names[i]))
            last[i] = r->value;
    return 0;
}

static int take_sparse(struct tar *t, const struct tar_text *last, struct untar_fault_info *f)
{
    struct tar_extended *x = &t->x;
    int64_t number = 0;

    if (last[MAJOR].size > 0 || last[MINOR].size > 0) {
        if (!is(last[MAJOR], "1") || !is(last[MINOR], "0") || last[MAP].size > 0 || (x->sparse & SPARSE_MAP))
            return fail(f, FAULT_SPARSE);
        x->sparse = SPARSE_PAX | SPARSE_IN_DATA;
    } else if (last[MAP].size > 0) {
        if ((x->sparse & SPARSE_MAP) || sparse_list(t, last[MAP]) < 0)
            return fail(f, FAULT_SPARSE);
        x->sparse = SPARSE_PAX | SPARSE_MAP;
    } else if (last[NAME].size > 0 || last[REALSIZE].size > 0 || last[SPARSE_SIZE].size > 0 || last[NUMBLOCKS].size > 0)
        x->sparse |= SPARSE_PAX;
    if (x->sparse == 0)
        return 0;
    x->realsize = -1;
    if (last[NUMBLOCKS].size > 0 && integer(last[NUMBLOCKS], names[NUMBLOCKS], f, &number) < 0)
        return -1;
    if (last[NUMBLOCKS].size > 0 && (size_t)number != t->pieces)
        return fail(f, FAULT_SPARSE);
    if (last[REALSIZE].size > 0 && integer(last[REALSIZE], names[REALSIZE], f, &x->realsize) < 0)
        return -1;
    if (last[SPARSE_SIZE].size > 0 && integer(last[SPARSE_SIZE], names[SPARSE_SIZE], f, &x->realsize) < 0)
        return -1;
    return 0;
}

/* What the last records of each name say. */
static int apply(struct tar *t, const struct tar_text *last, struct untar_fault_info *f)
{
    struct tar_extended *x = &t->x;
    int64_t *const numbers[] = {&x->size, &x->uid, &x->gid};
    static const int flags[] = {TAR_HAS_SIZE, TAR_HAS_UID, TAR_HAS_GID};
    int path = last[NAME].size > 0 ? NAME : PATH; /* of a sparse member `path` is a made-up name */

    if (last[path].size > 0 && set_name(t, 0, last[path], f) < 0)
        return -1;
    if (last[LINKPATH].size > 0 && set_name(t, 1, last[LINKPATH], f) < 0)
        return -1;
    for (int i = 0; i < 3; i++)
        if (last[SIZE + i].size > 0) {
            if (integer(last[SIZE + i], names[SIZE + i], f, numbers[i]) < 0)
                return -1;
            x->has |= flags[i];
        }
    if (last[MTIME].size > 0) {
        if (nanoseconds(last[MTIME], f, &x->mtime) < 0)
            return -1;
        x->has |= TAR_HAS_MTIME;
    }
    return take_sparse(t, last, f);
}

/* A global header may only comment. */
static int take_global(struct tar *t, struct untar_fault_info *f)
{
    struct tar_text rest = {t->payload, t->payload_size};
    struct tar_record r;

    while (rest.size > 0) {
        if (record(&rest, &r, f) < 0)
            return -1;
        if (!is(r.name, "comment")) {
            untar_detail(f, r.name.data, r.name.size);
            return fail(f, FAULT_GLOBAL);
        }
    }
    return 0;
}

int take_extended(struct tar *t, struct untar_fault_info *f)
{
    struct tar_text rest = {t->payload, t->payload_size}, last[KNOWN] = {{0}};
    struct tar_record r;

    if (t->extension == 'g')
        return take_global(t, f);
    if (t->extension != 'x') {
        rest.size = strnlen(rest.data, rest.size);
        return set_name(t, t->extension == 'K', rest, f);
    }
    if (t->x.pax)
        return fail(f, FAULT_SECOND);
    t->x.pax = t->x.seen = 1;
    t->pieces = 0;
    t->digits = 0;
    while (rest.size > 0)
        if (record(&rest, &r, f) < 0 || take_record(t, &r, last, f) < 0)
            return -1;
    if (t->digits > 0)
        return fail(f, FAULT_SPARSE);
    return apply(t, last, f);
}
