/* What is known of the files in a tree by their inode: the digest of what was written to each, and, while it is listed,
 * the first path of each that has several. */
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "listing.h"

#define FIRST_ROOM 256

struct inodes {
    EVP_MD *kind;
    EVP_MD_CTX *context;
    struct inode *slots; /* by open addressing, `number` 0 where there is none */
    size_t room, count;
};

struct inodes *inodes_new(void)
{
    struct inodes *all = calloc(1, sizeof *all);

    if (all == NULL)
        return NULL;
    all->room = FIRST_ROOM;
    all->slots = calloc(all->room, sizeof *all->slots);
    all->kind = EVP_MD_fetch(NULL, "SHA256", NULL);
    all->context = EVP_MD_CTX_new();
    if (all->slots != NULL && all->kind != NULL && all->context != NULL)
        return all;
    inodes_free(all);
    return NULL;
}

void inodes_free(struct inodes *all)
{
    if (all == NULL)
        return;
    for (size_t i = 0; all->slots != NULL && i < all->room; i++)
        free(all->slots[i].first);
    free(all->slots);
    EVP_MD_free(all->kind);
    EVP_MD_CTX_free(all->context);
    free(all);
}

int inodes_begin(struct inodes *all)
{
    return EVP_DigestInit_ex(all->context, all->kind, NULL) == 1 ? 0 : -1;
}

int inodes_add(struct inodes *all, const char *data, size_t size)
{
    return EVP_DigestUpdate(all->context, data, size) == 1 ? 0 : -1;
}

int inodes_end(struct inodes *all, unsigned char digest[DIGEST_SIZE])
{
    unsigned size;

    return EVP_DigestFinal_ex(all->context, digest, &size) == 1 ? 0 : -1;
}

static size_t slot_of(const struct inode *slots, size_t room, uint64_t number)
{
    size_t at = (size_t)(number * 11400714819323198485ULL >> 32) & (room - 1);

    while (slots[at].number != 0 && slots[at].number != number)
        at = (at + 1) & (room - 1);
    return at;
}

static int grow(struct inodes *all)
{
    size_t room = all->room * 2;
    struct inode *slots = calloc(room, sizeof *slots);

    if (slots == NULL)
        return -1;
    for (size_t i = 0; i < all->room; i++)
        if (all->slots[i].number != 0)
            slots[slot_of(slots, room, all->slots[i].number)] = all->slots[i];
    free(all->slots);
    all->slots = slots;
    all->room = room;
    return 0;
}

struct inode *inodes_at(struct inodes *all, uint64_t number)
{
    size_t at;

    if (all->count * 2 >= all->room && grow(all) < 0)
        return NULL;
    at = slot_of(all->slots, all->room, number);
    if (all->slots[at].number == 0) {
        all->slots[at].number = number;
        all->count++;
    }
    return &all->slots[at];
}
