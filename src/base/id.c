/* SPDX-License-Identifier: Apache-2.0 */
#include "base/id.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";

void id_new(char out[ID_SIZE])
{
    uint8_t pool[64];
    size_t used = sizeof(pool);

    for (int i = 0; i < ID_LEN;) {
        unsigned choices = i == 0 ? 26 : 36;

        if (used == sizeof(pool)) {
            if (getrandom(pool, sizeof(pool), 0) != (ssize_t)sizeof(pool))
                abort();
            used = 0;
        }
        if (pool[used] < 256 / choices * choices) /* else the draw would not be even */
            out[i++] = alphabet[pool[used] % choices];
        used++;
    }
    out[ID_LEN] = '\0';
}

bool id_is_valid(const char *s)
{
    return strlen(s) == ID_LEN && strspn(s, alphabet) == ID_LEN && s[0] >= 'a';
}

bool name_is_valid(const char *s)
{
    size_t n = strlen(s);

    return n >= 1 && n <= NAME_MAX_LEN && s[0] != '-' && s[n - 1] != '-' &&
           strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}
