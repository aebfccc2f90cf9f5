/* Runs files through the fuzz target without a fuzzer, for another compiler's sanitizers.
 *
 *   replay FILE...            each as it is
 *   replay --seeds FILE...    each must be accepted; then every truncation and every changed byte of it, too
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "re");
    uint8_t *data = malloc(PLAN_MAX_SIZE);

    if (file == NULL || data == NULL) {
        perror(path);
        exit(1);
    }
    *size = fread(data, 1, PLAN_MAX_SIZE, file);
    fclose(file);
    return data;
}

/* Every byte takes three wrong values, and the file ends at every place. */
static void mutate(uint8_t *data, size_t size)
{
    static const uint8_t masks[] = {0x01, 0x80, 0xff};

    for (size_t i = 0; i < size; i++) {
        for (size_t m = 0; m < sizeof masks; m++) {
            data[i] ^= masks[m];
            LLVMFuzzerTestOneInput(data, size);
            data[i] ^= masks[m];
        }
        LLVMFuzzerTestOneInput(data, i);
    }
}

int main(int argc, char **argv)
{
    int seeds = argc > 1 && strcmp(argv[1], "--seeds") == 0;

    for (int i = 1 + seeds; i < argc; i++) {
        size_t size;
        uint8_t *data = read_file(argv[i], &size);
        int verdict = seeds ? plan_check(data, size) : 0;

        if (verdict != 0) {
            fprintf(stderr, "%s: a plan of the encoder's was refused: %d\n", argv[i], verdict);
            return 1;
        }
        LLVMFuzzerTestOneInput(data, size);
        if (seeds)
            mutate(data, size);
        free(data);
    }
    printf("%d files replayed\n", argc - 1 - seeds);
    return 0;
}
