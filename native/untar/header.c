/* Header blocks of tar archives: numbers, names, kinds, and what two readers might see differently. */
#include <string.h>

#include "tar.h"

void untar_detail(struct untar_fault_info *f, const char *detail, size_t size)
{
    f->detail_size = size < UNTAR_MAX_NAME ? size : UNTAR_MAX_NAME;
    memcpy(f->detail, detail, f->detail_size);
}

int untar_fault(struct untar_fault_info *f, int code, int64_t a, const char *subject, size_t size)
{
    f->code = code;
    f->a = a;
    f->subject_size = size < UNTAR_MAX_NAME ? size : UNTAR_MAX_NAME;
    if (f->subject_size > 0)
        memcpy(f->subject, subject, f->subject_size);
    return UNTAR_BAD;
}

static int fail(struct untar_fault_info *f, int code, const char *subject, size_t size)
{
    return untar_fault(f, code, 0, subject, size);
}

/* Numbers */

static int octal(const unsigned char *p, size_t n, int64_t *out)
{
    size_t end = 0, i = 0;

    while (end < n && p[end] != 0)
        end++;
    while (i < end && p[i] == ' ')
        i++;
    while (end > i && p[end - 1] == ' ')
        end--;
    *out = 0;
    for (; i < end; i++) {
        if (p[i] < '0' || p[i] > '7')
            return -1;
        *out = *out * 8 + (p[i] - '0');
    }
    return 0;
}

/* Octal, or GNU's base 256: sign and size in the first byte; what does not fit becomes the largest or least number. */
int tar_number(const unsigned char *p, size_t n, int64_t *out)
{
    size_t high = n - 8, i;
    int negative = p[0] == 0xff;
    uint64_t value = 0;

    if (p[0] != 0x80 && !negative)
        return octal(p, n, out);
    for (i = 1; i < high; i++)
        if (p[i] != (negative ? 0xff : 0)) {
            *out = negative ? INT64_MIN : INT64_MAX;
            return 0;
        }
    for (i = high > 0 ? high : 1; i < n; i++)
        value = value << 8 | p[i];
    if (high == 0 && negative)
        value |= (uint64_t)0xff << 56;
    if ((value >> 63 != 0) != negative)
        *out = negative ? INT64_MIN : INT64_MAX;
    else
        *out = (int64_t)value;
    return 0;
}

int64_t tar_nanoseconds(int64_t seconds, int64_t fraction)
{
    int64_t result;

    if (__builtin_mul_overflow(seconds, 1000000000, &result) || __builtin_add_overflow(result, fraction, &result))
        return seconds < 0 ? -INT64_MAX : INT64_MAX;
    return result;
}

static int number_of(const unsigned char *block, size_t at, size_t n, int what, struct tar *t, struct untar_fault_info *f, int64_t *out)
{
    if (tar_number(block + at, n, out) == 0)
        return 0;
    f->a = what;
    return untar_fault(f, FAULT_NUMBER, what, t->path, t->member.path_size), -1;
}

/* Headers */

static size_t length(const unsigned char *p, size_t most)
{
    return strnlen((const char *)p, most);
}

int check_header(struct tar *t, const unsigned char *block, struct untar_fault_info *f)
{
    int64_t stored, plain = 0, above = 0;

    if (memcmp(block + 257, "ustar", 5) != 0)
        return fail(f, FAULT_GARBAGE, t->last, t->last_size), -1;
    if (octal(block + 148, 8, &stored) < 0)
        return untar_fault(f, FAULT_NUMBER, TAR_CHECKSUM, (const char *)block, length(block, 100)), -1;
    for (size_t i = 0; i < TAR_BLOCK; i++) {
        int c = i >= 148 && i < 156 ? ' ' : block[i];

        plain += c;
        above += c > 127;
    }
    /* Some old writers summed signed characters, and every reader accepts it. */
    if (stored != plain && stored != plain - 256 * above)
        return fail(f, FAULT_CHECKSUM, (const char *)block, length(block, 100)), -1;
    return 0;
}

static int count(struct tar *t, const char *path, size_t size, struct untar_fault_info *f)
{
    if (++t->count > t->entries)
        return untar_fault(f, FAULT_MEMBERS, t->entries, path, size), -1;
    return 0;
}

int begin_extended(struct tar *t, const unsigned char *block, struct untar_fault_info *f)
{
    int64_t size, limit;

    t->extension = (char)block[156];
    limit = t->extension == 'L' || t->extension == 'K' ? UNTAR_MAX_NAME + 1 : UNTAR_MAX_PAX;
    if (t->extension == 'g' && count(t, t->last, t->last_size, f) < 0)
        return -1;
    if (tar_number(block + 124, 12, &size) < 0)
        return untar_fault(f, FAULT_NUMBER, TAR_SIZE, (const char *)block, length(block, 100)), -1;
    if (size <= 0 || size > limit) {
        f->b = limit;
        return untar_fault(f, FAULT_EXTENDED_SIZE, size, (const char *)block, length(block, 100)), -1;
    }
    t->payload_size = (size_t)size;
    t->padded = (t->payload_size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
    if (tar_reserve(t, t->padded) < 0)
        return fail(f, FAULT_MEMORY, NULL, 0), -1;
    return 0;
}

static void take_path(struct tar *t, const unsigned char *block)
{
    size_t end = memcmp(block + 508, "tar\0", 4) == 0 ? 476 : 500; /* star's prefix is shorter */
    size_t prefix = 0, name = length(block, 100);

    if (memcmp(block + 257, "ustar\0", 6) == 0) /* GNU keeps times where POSIX has the prefix */
        prefix = length(block + 345, end - 345);
    memcpy(t->path, block + 345, prefix);
    if (prefix > 0)
        t->path[prefix++] = '/';
    memcpy(t->path + prefix, block, name);
    t->member.path_size = prefix + name;
}

static int take_numbers(struct tar *t, const unsigned char *block, struct untar_fault_info *f)
{
    struct untar_member *m = &t->member;
    const struct tar_extended *x = &t->x;
    int64_t mode;

    if (number_of(block, 100, 8, TAR_MODE, t, f, &mode) < 0)
        return -1;
    m->mode = (uint32_t)mode & 07777;
    m->uid = x->uid;
    m->gid = x->gid;
    m->mtime = x->mtime;
    if (!(x->has & TAR_HAS_UID) && number_of(block, 108, 8, TAR_UID, t, f, &m->uid) < 0)
        return -1;
    if (!(x->has & TAR_HAS_GID) && number_of(block, 116, 8, TAR_GID, t, f, &m->gid) < 0)
        return -1;
    t->left = x->size;
    if (!(x->has & TAR_HAS_SIZE) && number_of(block, 124, 12, TAR_SIZE, t, f, &t->left) < 0)
        return -1;
    if (!(x->has & TAR_HAS_MTIME)) {
        if (number_of(block, 136, 12, TAR_TIME, t, f, &m->mtime) < 0)
            return -1;
        m->mtime = tar_nanoseconds(m->mtime, 0);
    }
    m->devmajor = m->devminor = 0;
    if (m->kind == '3' || m->kind == '4')
        if (number_of(block, 329, 8, TAR_DEVICE, t, f, &m->devmajor) < 0 || number_of(block, 337, 8, TAR_DEVICE, t, f, &m->devminor) < 0)
            return -1;
    m->size = t->left;
    if (m->size < 0 || m->size > t->total) {
        f->b = t->total;
        return untar_fault(f, FAULT_SIZE, m->size, t->path, m->path_size), -1;
    }
    return 0;
}

static int take_link(struct tar *t, const unsigned char *block, struct untar_fault_info *f)
{
    struct untar_member *m = &t->member;

    m->link_size = 0;
    if (m->kind != '1' && m->kind != '2')
        return 0;
    m->link_size = t->x.link_size;
    if (m->link_size == 0) {
        m->link_size = length(block + 157, 100);
        memcpy(t->link, block + 157, m->link_size);
    }
    if (m->link_size == 0 || m->link_size > UNTAR_MAX_NAME || memchr(t->link, 0, m->link_size) != NULL)
        return fail(f, FAULT_LINK, t->path, m->path_size), -1;
    t->link[m->link_size] = 0;
    return 0;
}

static int take_kind(struct tar *t, char flag, struct untar_fault_info *f)
{
    struct untar_member *m = &t->member;
    size_t shown = m->path_size < UNTAR_MAX_NAME ? m->path_size : UNTAR_MAX_NAME;

    m->kind = flag == 0 || flag == '7' || flag == 'S' ? '0' : flag;
    if (m->kind < '0' || m->kind > '6')
        return untar_fault(f, FAULT_TYPE, (unsigned char)flag, t->path, shown), -1;
    if (m->kind == '0' && shown > 0 && t->path[shown - 1] == '/') {
        if (flag != 0)
            return fail(f, FAULT_SLASH, t->path, shown), -1;
        m->kind = '5';
    }
    if (m->path_size > UNTAR_MAX_NAME)
        return untar_fault(f, FAULT_LONG_NAME, (int64_t)m->path_size, t->path, shown), -1;
    if (m->path_size == 0 || memchr(t->path, 0, m->path_size) != NULL)
        return fail(f, FAULT_NAME, t->path, m->path_size), -1;
    t->path[m->path_size] = 0;
    return 0;
}

int take_member(struct tar *t, const unsigned char *block, struct untar_fault_info *f)
{
    struct untar_member *m = &t->member;
    char flag = (char)block[156];

    if (t->x.path_size > 0)
        m->path_size = t->x.path_size;
    else
        take_path(t, block);
    if (take_kind(t, flag, f) < 0 || take_numbers(t, block, f) < 0 || take_link(t, block, f) < 0)
        return -1;
    if (m->kind != '0' && m->size > 0) {
        f->b = m->kind;
        return untar_fault(f, FAULT_DATA, m->size, t->path, m->path_size), -1;
    }
    t->padding = (size_t)((TAR_BLOCK - t->left % TAR_BLOCK) % TAR_BLOCK);
    t->whole_padding = 1;
    t->offset = 0;
    m->xattrs = t->x.xattrs;
    m->sparse = flag == 'S' || t->x.sparse != 0;
    if (count(t, t->path, m->path_size, f) < 0)
        return -1;
    if (m->sparse)
        return sparse_begin(t, block, flag, f);
    return TAR_READY;
}
