/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/publish.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "base/parse.h"

bool port_add(json_t *list, const char *word)
{
    auto_free char *copy = mem_strdup(word);
    char *slash = strchr(copy, '/');
    char *colon;
    const char *host;
    json_t *port;
    uint64_t from;
    uint64_t to;

    if (slash)
        *slash++ = '\0';
    colon = strrchr(copy, ':');
    if (!colon || (slash && strcmp(slash, "tcp") != 0 && strcmp(slash, "udp") != 0) ||
        !parse_u64(colon + 1, 1, 65535, &to))
        return false;
    *colon = '\0';
    colon = strrchr(copy, ':');
    host = colon ? colon + 1 : copy;
    if (!parse_u64(host, 1, 65535, &from))
        return false;
    port = json_pack("{s:I, s:I, s:s}",
                     "host_port",
                     (json_int_t)from,
                     "guest_port",
                     (json_int_t)to,
                     "protocol",
                     slash ? slash : "tcp");
    if (colon) {
        *colon = '\0';
        if (json_object_set_new(port, "host_ip", json_string(copy)) < 0) {
            json_decref(port);
            return false;
        }
    }
    return json_array_append_new(list, port) == 0;
}
