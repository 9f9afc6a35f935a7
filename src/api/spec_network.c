/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "api/api.h"
#include "api/member.h"
#include "base/parse.h"

/* What a client asks of an instance's network, when it is made and later. */

static int rate_member(const json_t *network, const char *key, const char *slug, uint64_t *out,
                       struct err *e)
{
    const char *text;

    if (json_text_member(network, key, &text, e) < 0)
        return -1;
    if (!text || !*text)
        return 0;
    if (!parse_bandwidth(text, out) || *out > INT64_MAX)
        return json_bad(e, slug, "is not a rate such as 10MB/s or 1Gbps", key);
    return 0;
}

/* What is absent stays as it is in s. */
static int decode_rates(const json_t *network, struct spec *s, struct err *e)
{
    if (rate_member(
            network, "bandwidth_download", "invalid_bandwidth_download", &s->download_rate, e) < 0)
        return -1;
    return rate_member(network, "bandwidth_upload", "invalid_bandwidth_upload", &s->upload_rate, e);
}

int spec_decode_network(const json_t *body, struct spec *s, struct err *e)
{
    const json_t *network;

    if (json_member(body, "network", JSON_OBJECT, &network, e) < 0)
        return -1;
    if (json_bool_member(network, "enabled", true, &s->network_enabled, e) < 0)
        return err_wrap(e, "network");
    return decode_rates(network, s, e);
}

/* The rest of a PATCH is not there yet; see spec_planned.c on why it is refused. */
static int refuse_others(const json_t *body, struct err *e)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)body, key, value)
    {
        if (strcmp(key, "network") != 0 && !json_is_null(value))
            return err_set(e, ERR_UNSUPPORTED, "%.60s: not available in this version", key);
    }
    return 0;
}

struct spec *spec_decode_update(const struct spec *spec, const json_t *body, struct err *e)
{
    const json_t *network = NULL;
    struct spec *s;

    if (!body) {
        json_bad(e, "Bad Request", "is required", "a JSON body");
        return NULL;
    }
    if (refuse_others(body, e) < 0 || json_member(body, "network", JSON_OBJECT, &network, e) < 0)
        return NULL;
    s = spec_copy(spec);
    if (decode_rates(network, s, e) == 0)
        return s;
    spec_unref(s);
    return NULL;
}
