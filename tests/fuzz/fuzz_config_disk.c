/* SPDX-License-Identifier: Apache-2.0 */
/* What is found lies in the input; a record that is accepted survives being written again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "wire/config_disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_sector(const uint8_t *data, size_t size)
{
    unsigned char sector[EXIT_SECTOR] = {0};
    struct exit_record first = {0};
    struct exit_record again = {0};
    struct err e = {0};

    memcpy(sector, data, size < EXIT_SECTOR ? size : EXIT_SECTOR);
    if (exit_sector_read(sector, &first, &e) != 1)
        return;
    if (first.code < 0 || first.code > 255 || first.signal < 0 || first.signal > 64 ||
        memchr(first.message, '\0', sizeof(first.message)) == NULL)
        abort();
    exit_sector_make(sector, &first);
    if (exit_sector_read(sector, &again, &e) != 1 || again.incarnation != first.incarnation ||
        again.code != first.code || again.signal != first.signal || again.oom != first.oom ||
        again.at_us != first.at_us)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct exit_record record;
    struct err e = {0};
    const char *json;
    size_t len;

    if (config_disk_find(data, size, &json, &len, &e) == 0 &&
        ((const uint8_t *)json < data || len > size || (const uint8_t *)json + len > data + size))
        abort();
    err_clear(&e);
    (void)exit_record_parse((const char *)data, size, &record, &e);
    try_sector(data, size);
    return 0;
}
