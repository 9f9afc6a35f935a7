/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "api/api.h"
#include "api/member.h"
#include "base/mem.h"
#include "base/parse.h"
#include "net/publish.h"

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

static int port_member(const json_t *item, const char *key, uint16_t *out, struct err *e)
{
    const json_t *v;

    if (json_member(item, key, JSON_INTEGER, &v, e) < 0)
        return -1;
    if (!v || json_integer_value(v) < 1 || json_integer_value(v) > 65535)
        return json_bad(e, "invalid_ports", "must be a port, 1 to 65535", key);
    *out = (uint16_t)json_integer_value(v);
    return 0;
}

static int decode_port(const json_t *item, struct port_map *p, struct err *e)
{
    const char *protocol;
    const char *ip;

    if (!json_is_object(item))
        return json_bad(e, "invalid_ports", "must hold objects", "ports");
    if (json_text_member(item, "protocol", &protocol, e) < 0 ||
        json_text_member(item, "host_ip", &ip, e) < 0 ||
        port_member(item, "host_port", &p->host_port, e) < 0 ||
        port_member(item, "guest_port", &p->guest_port, e) < 0)
        return -1;
    p->is_udp = protocol && strcmp(protocol, "udp") == 0;
    if (protocol && !p->is_udp && strcmp(protocol, "tcp") != 0)
        return json_bad(e, "invalid_ports", "must be tcp or udp", "protocol");
    if (ip && *ip &&
        (!address_parse(ip, &p->host_ip) || (p->host_ip && !address_is_single(p->host_ip))))
        return json_bad(e, "invalid_ports", "must be an IPv4 address of the host", "host_ip");
    return 0;
}

static int decode_ports(const json_t *body, struct spec *s, struct err *e)
{
    const json_t *list;
    const json_t *item;
    size_t i;

    if (json_member(body, "ports", JSON_ARRAY, &list, e) < 0)
        return -1;
    if (json_array_size(list) > PORT_MAPS_MAX)
        return json_bad(e, "invalid_ports", "may hold at most 64", "ports");
    if (json_array_size(list) > 0 && !s->network_enabled)
        return json_bad(e, "invalid_ports", "need network.enabled", "ports");
    s->ports = mem_zalloc(json_array_size(list) + 1, sizeof(*s->ports));
    json_array_foreach(list, i, item)
    {
        if (decode_port(item, &s->ports[i], e) < 0)
            return err_wrap(e, "ports[%zu]", i);
        s->n_ports++;
    }
    return 0;
}

int spec_decode_network(const json_t *body, struct spec *s, struct err *e)
{
    const json_t *network;

    if (json_member(body, "network", JSON_OBJECT, &network, e) < 0)
        return -1;
    if (json_bool_member(network, "enabled", true, &s->network_enabled, e) < 0)
        return err_wrap(e, "network");
    return decode_rates(network, s, e) < 0 ? -1 : decode_ports(body, s, e);
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
