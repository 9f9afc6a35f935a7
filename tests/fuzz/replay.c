/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gives a fuzz target what stands in its corpus, and what is near it: every beginning of each
 * file, and copies with some bytes changed, the same ones each time. Without libFuzzer, so that
 * every build with every compiler and sanitizer does it as a test.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 1 << 20, PREFIXES_MAX = 2048, CHANGES = 500 };

static uint8_t input[INPUT_MAX];

static uint32_t next_random(void)
{
    static uint32_t x = 2463534242;

    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return x;
}

/* In memory of its own, so that a sanitizer sees the first byte that is read too far. */
static void give(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);

    if (!copy)
        abort();
    memcpy(copy, data, size);
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static void give_all(size_t size)
{
    give(input, size);
    for (size_t n = 0; n < size && n < PREFIXES_MAX; n++)
        give(input, n);
    for (int i = 0; i < CHANGES && size > 0; i++) {
        size_t at = next_random() % size;
        uint8_t was = input[at];
        uint32_t r = next_random();

        input[at] = (uint8_t)(i % 2 ? r : was ^ (1U << r % 8));
        give(input, size);
        if (i % 8 == 0) /* else changes pile up */
            input[at] = was;
    }
}

int main(int argc, char **argv)
{
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    const struct dirent *entry;
    int files = 0;

    if (!dir) {
        (void)fprintf(stderr, "usage: %s CORPUS\n", argv[0]);
        return 2;
    }
    while ((entry = readdir(dir)) != NULL) {
        int fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, input, sizeof(input));

        if (fd >= 0)
            close(fd);
        if (n < 0)
            continue; /* "." and ".." */
        printf("%s\n", entry->d_name);
        (void)fflush(stdout);
        give_all((size_t)n);
        files++;
    }
    closedir(dir);
    return files > 0 ? 0 : 1;
}
