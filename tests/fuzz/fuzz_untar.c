/* Fuzz target of the archive reader: whatever the bytes, parser and writer return, leave no descriptor and no memory
 * behind, and nothing appears outside the directory that they were given.  The first byte chooses how the archive is
 * cut into pieces and what may be created. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "untar.h"

#define MOST 4096 /* bytes of a file: what a header promises is not what the fuzzer can hold */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most) __attribute__((weak));
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

static char home[] = "/tmp/pyrun-fuzz-XXXXXX";
static int outer = -1, nowhere = -1;

static int discard(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info, (void)kind, (void)walk;
    return remove(path);
}

static void leave(void)
{
    nftw(home, discard, 16, FTW_DEPTH | FTW_PHYS);
}

/* How many entries there are besides the two dots. */
static int entries(int dir)
{
    DIR *list = fdopendir(dup(dir));
    int count = -2;

    if (list == NULL)
        abort();
    rewinddir(list);
    while (readdir(list) != NULL)
        count++;
    closedir(list);
    return count;
}

/* Removes what was unpacked: files of every mode, by root or their owner. */
static void clear(void)
{
    char path[sizeof home + 8];

    snprintf(path, sizeof path, "%s/root", home);
    if (nftw(path, discard, 16, FTW_DEPTH | FTW_PHYS) != 0)
        abort();
}

static void enter(void)
{
    if (outer >= 0)
        return;
    if (mkdtemp(home) == NULL)
        abort();
    atexit(leave);
    outer = open(home, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
}

/* Runs the archive through the writer; `step` bytes at a time. */
static void pump(struct tree *tree, struct tar *t, int listed, const uint8_t *data, size_t size, size_t step)
{
    struct untar_fault_info fault = {0};
    char *piece = NULL;
    size_t at = 0;
    int r;

    while ((r = tree_pump(tree, t, &fault)) == UNTAR_MORE || r == UNTAR_MEMBER) {
        size_t n = size - at < step ? size - at : step;

        if (r == UNTAR_MEMBER)
            continue;
        free(piece); /* a block of exactly this size: one byte too far is seen, and so is an old one */
        piece = malloc(n + (n == 0));
        if (piece == NULL)
            abort();
        memcpy(piece, data + at, n);
        tar_feed(t, piece, n);
        at += n;
    }
    if (r == UNTAR_END && (tree_finish(tree, &fault) < 0 || (listed && tree_list(tree, nowhere, MOST, &fault) < 0)))
        r = UNTAR_BAD;
    if (r == UNTAR_BAD && fault.code == FAULT_NONE)
        abort();
    free(piece);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t steps[] = {1 << 20, 512, 100, 1000};
    struct tree *tree;
    struct tar *t;
    size_t implied;
    int root;

    if (size == 0)
        return 0;
    enter();
    if (mkdirat(outer, "root", 0700) < 0)
        abort();
    root = openat(outer, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    t = tar_new(MOST, 500, data[0] & 1);
    tree = tree_new(root, (data[0] >> 1 & 15) | (data[0] & 128 ? TREE_DIGESTS : 0), 1000, 12, 0, data[0] & 64 ? "rootfs" : "");
    if (root < 0 || t == NULL || tree == NULL)
        abort();
    pump(tree, t, data[0] & 128, data + 1, size - 1, steps[data[0] >> 5 & 3]);
    free(tree_implied(tree, &implied));
    tree_free(tree);
    tar_free(t);
    close(root);
    if (entries(outer) != 1)
        abort();
    clear();
    return 0;
}

/* Makes the checksums of headers right again, so that changes reach what lies behind them; now and then it does not. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, most);
    if (seed % 8 == 0)
        return size;
    for (size_t at = 1; at + 512 <= size; at += 512) {
        unsigned sum = 8 * ' ';
        char text[8];

        for (int i = 0; i < 512; i++)
            sum += i < 148 || i >= 156 ? data[at + (size_t)i] : 0;
        snprintf(text, sizeof text, "%06o", sum & 0777777);
        if (memcmp(data + at + 257, "ustar", 5) == 0)
            memcpy(data + at + 148, text, 7);
    }
    return size;
}
