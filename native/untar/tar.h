/* What tar.c, pax.c and sparse.c share; nobody else looks into the parser. */
#ifndef PYRUN_TAR_H
#define PYRUN_TAR_H

#include "untar.h"

#define TAR_BLOCK 512

enum tar_state { TAR_HEADER, TAR_EXTENDED, TAR_OLD_MAP, TAR_NEW_MAP, TAR_READY, TAR_DATA, TAR_ZERO, TAR_CLOSED };

/* Which number of a header is none. */
enum tar_field { TAR_CHECKSUM, TAR_SIZE, TAR_MODE, TAR_UID, TAR_GID, TAR_TIME, TAR_DEVICE };

enum tar_has { TAR_HAS_SIZE = 1, TAR_HAS_UID = 2, TAR_HAS_GID = 4, TAR_HAS_MTIME = 8 };

enum tar_sparse { SPARSE_PAX = 1, SPARSE_MAP = 2, SPARSE_IN_DATA = 4 };

struct tar_text {
    const char *data;
    size_t size;
};

struct tar_record {
    struct tar_text name, value;
};

/* What extended headers said about the next member; its names stand in `path` and `link` of the parser. */
struct tar_extended {
    int has, seen, pax, sparse;
    size_t path_size, link_size, xattrs;
    int64_t size, uid, gid, mtime, realsize;
};

struct tar_piece {
    int64_t offset, size;
};

struct tar {
    int state, ended, unclosed;
    int64_t total, entries, count, apparent; /* `apparent`: sizes of sparse members so far */
    const char *in, *end;
    size_t have; /* bytes gathered so far, in `block` or `payload` */
    char block[TAR_BLOCK];
    char *payload; /* of an extended header */
    size_t payload_size, padded, room;
    char extension;
    struct tar_extended x;
    struct tar_record *records; /* extended attributes, in `payload` */
    size_t records_room;
    struct untar_member member;
    int64_t left, offset; /* data bytes still in the stream; where the next one belongs */
    size_t padding;
    int whole_padding;
    struct tar_piece *map; /* of a sparse member */
    size_t pieces, map_room, piece, wanted; /* `wanted`: numbers of a map in the data, with their count */
    int64_t number;                         /* the one that is being read */
    int digits;
    char path[UNTAR_MAX_NAME + 1], link[UNTAR_MAX_NAME + 1], last[UNTAR_MAX_NAME + 1];
    size_t last_size;
};

/* Fills in the fault; UNTAR_BAD. */
int untar_fault(struct untar_fault_info *f, int code, int64_t a, const char *subject, size_t size);
void untar_detail(struct untar_fault_info *f, const char *detail, size_t size);

int tar_number(const unsigned char *p, size_t n, int64_t *out);
int64_t tar_nanoseconds(int64_t seconds, int64_t fraction);

/* header.c: whether a block is a header; what comes before the next member; that member, and the state that follows, or -1. */
int check_header(struct tar *t, const unsigned char *block, struct untar_fault_info *f);
int begin_extended(struct tar *t, const unsigned char *block, struct untar_fault_info *f);
int take_member(struct tar *t, const unsigned char *block, struct untar_fault_info *f);

/* pax.c: makes room for an extended header; reads the one in `payload`.  -1: see `fault`, but for no memory. */
int tar_reserve(struct tar *t, size_t size);
int take_extended(struct tar *t, struct untar_fault_info *f);

/* sparse.c: the state that follows, or -1. */
int sparse_begin(struct tar *t, const unsigned char *block, char flag, struct untar_fault_info *f);
/* One more block of a map, NULL if it is not there yet: DONE, MORE, BAD. */
int sparse_more(struct tar *t, const unsigned char *block, struct untar_fault_info *f);
int sparse_add(struct tar *t, int64_t offset, int64_t size);
int sparse_list(struct tar *t, struct tar_text list);

#endif
