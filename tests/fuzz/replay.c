/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target over every file of a directory, as an ordinary test. */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    struct dirent *d;
    int n = 0;

    if (!dir) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 1;
    }
    while ((d = readdir(dir))) {
        auto_buf struct buf text = BUF(16 << 20);
        struct err e = {0};

        if (d->d_name[0] == '.')
            continue;
        if (file_read(dirfd(dir), d->d_name, &text, &e) < 0) {
            fprintf(stderr, "%s\n", e.msg);
            return 1;
        }
        LLVMFuzzerTestOneInput((const uint8_t *)buf_str(&text), text.len);
        n++;
    }
    closedir(dir);
    printf("%d inputs\n", n);
    return n == 0;
}
