/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/spec.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "net/publish.h"
#include "vmm/vmm.h"

struct spec *spec_new(void)
{
    struct spec *s = mem_new(struct spec);

    atomic_init(&s->refs, 1);
    return s;
}

struct spec *spec_ref(struct spec *s)
{
    atomic_fetch_add(&s->refs, 1);
    return s;
}

void spec_unref(struct spec *s)
{
    if (!s || atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    for (size_t i = 0; i < s->n_tags; i++) {
        free(s->tags[i].key);
        free(s->tags[i].value);
    }
    free(s->tags);
    free(s->ports);
    free(s->image);
    free(s->image_digest);
    free(s->hypervisor);
    free(s->env);
    free(s->entrypoint);
    free(s->cmd);
    free(s->image_config);
    free(s);
}

bool spec_has_tag(const struct spec *s, const char *key, const char *value)
{
    for (size_t i = 0; i < s->n_tags; i++) {
        if (strcmp(s->tags[i].key, key) == 0)
            return strcmp(s->tags[i].value, value) == 0;
    }
    return false;
}

static void write_ports(struct jout *j, const struct spec *s)
{
    jout_open(j, "ports", '[');
    for (size_t i = 0; i < s->n_ports; i++) {
        const struct port_map *p = &s->ports[i];

        jout_open(j, NULL, '{');
        jout_int(j, "host_ip", p->host_ip);
        jout_int(j, "host_port", p->host_port);
        jout_int(j, "guest_port", p->guest_port);
        jout_bool(j, "udp", p->is_udp);
        jout_close(j, '}');
    }
    jout_close(j, ']');
}

void spec_write(struct buf *out, const struct spec *s)
{
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    jout_str(&j, "name", s->name);
    jout_str(&j, "image", s->image);
    jout_str(&j, "image_digest", s->image_digest);
    jout_str(&j, "hypervisor", s->hypervisor);
    jout_int(&j, "vcpus", s->vcpus);
    jout_int(&j, "memory_bytes", (int64_t)s->memory_bytes);
    jout_int(&j, "hotplug_bytes", (int64_t)s->hotplug_bytes);
    jout_int(&j, "overlay_bytes", (int64_t)s->overlay_bytes);
    jout_int(&j, "disk_rate", (int64_t)s->disk_rate);
    jout_bool(&j, "network", s->network_enabled);
    jout_int(&j, "download_rate", (int64_t)s->download_rate);
    jout_int(&j, "upload_rate", (int64_t)s->upload_rate);
    write_ports(&j, s);
    jout_bool(&j, "skip_guest_agent", s->skip_guest_agent);
    jout_bool(&j, "skip_kernel_headers", s->skip_kernel_headers);
    jout_int(&j, "created_us", s->created_us);
    jout_open(&j, "tags", '{');
    for (size_t i = 0; i < s->n_tags; i++)
        jout_str(&j, s->tags[i].key, s->tags[i].value);
    jout_close(&j, '}');
    jout_raw(&j, "env", s->env ? s->env : "null");
    jout_raw(&j, "entrypoint", s->entrypoint ? s->entrypoint : "null");
    jout_raw(&j, "cmd", s->cmd ? s->cmd : "null");
    jout_raw(&j, "image_config", s->image_config ? s->image_config : "null");
    jout_close(&j, '}');
}

static char *text_of(const json_t *doc, const char *key)
{
    const char *s = json_string_value(json_object_get(doc, key));

    return mem_strdup(s ? s : "");
}

/* The member as compact JSON text; NULL when it is absent or null. */
static char *raw_of(const json_t *doc, const char *key)
{
    const json_t *v = json_object_get(doc, key);

    return v && !json_is_null(v) ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
}

static uint64_t number_of(const json_t *doc, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(doc, key));
}

static void read_tags(struct spec *s, json_t *tags)
{
    const char *key;
    json_t *value;

    s->tags = mem_zalloc(json_object_size(tags), sizeof(*s->tags));
    json_object_foreach(tags, key, value)
    {
        const char *text = json_string_value(value);

        s->tags[s->n_tags++] = (struct tag){mem_strdup(key), mem_strdup(text ? text : "")};
    }
}

static void read_ports(struct spec *s, const json_t *list)
{
    s->n_ports = json_array_size(list);
    s->ports = mem_zalloc(s->n_ports + 1, sizeof(*s->ports));
    for (size_t i = 0; i < s->n_ports; i++) {
        const json_t *doc = json_array_get(list, i);

        s->ports[i] = (struct port_map){
            .host_ip = (uint32_t)number_of(doc, "host_ip"),
            .host_port = (uint16_t)number_of(doc, "host_port"),
            .guest_port = (uint16_t)number_of(doc, "guest_port"),
            .is_udp = json_is_true(json_object_get(doc, "udp")),
        };
    }
}

struct spec *spec_read(const char *json, struct err *e)
{
    json_t *doc = parse_json(json, strlen(json), e);
    struct spec *s;
    char *name;

    if (!doc)
        return NULL;
    name = text_of(doc, "name");
    if (!name_is_valid(name)) {
        err_set(e, ERR_INTERNAL, "the record holds no valid name");
        free(name);
        json_decref(doc);
        return NULL;
    }
    s = spec_new();
    memcpy(s->name, name, strlen(name) + 1);
    free(name);
    s->image = text_of(doc, "image");
    s->image_digest = text_of(doc, "image_digest");
    s->hypervisor = text_of(doc, "hypervisor");
    s->driver = vmm_find(s->hypervisor);
    s->vcpus = (uint32_t)number_of(doc, "vcpus");
    s->memory_bytes = number_of(doc, "memory_bytes");
    s->hotplug_bytes = number_of(doc, "hotplug_bytes");
    s->overlay_bytes = number_of(doc, "overlay_bytes");
    s->disk_rate = number_of(doc, "disk_rate");
    s->network_enabled = json_is_true(json_object_get(doc, "network"));
    s->download_rate = number_of(doc, "download_rate");
    s->upload_rate = number_of(doc, "upload_rate");
    s->skip_guest_agent = json_is_true(json_object_get(doc, "skip_guest_agent"));
    s->skip_kernel_headers = json_is_true(json_object_get(doc, "skip_kernel_headers"));
    s->created_us = (int64_t)number_of(doc, "created_us");
    read_ports(s, json_object_get(doc, "ports"));
    read_tags(s, json_object_get(doc, "tags"));
    s->env = raw_of(doc, "env");
    s->entrypoint = raw_of(doc, "entrypoint");
    s->cmd = raw_of(doc, "cmd");
    s->image_config = raw_of(doc, "image_config");
    json_decref(doc);
    return s;
}

struct spec *spec_copy(const struct spec *s)
{
    struct buf text = BUF(16 << 20);
    struct err e = {0};
    struct spec *copy;

    spec_write(&text, s);
    copy = spec_read(buf_str(&text), &e);
    buf_free(&text);
    if (!copy)
        abort(); /* what we wrote ourselves does not read: no state to go on from */
    copy->driver = s->driver;
    return copy;
}

/* image env ["K=V", ...] first, then what is ours, then the client's object over both. */
static void write_env(struct jout *j, const json_t *image_env, const char *client_env,
                      const struct spec_network *network)
{
    json_t *merged = json_object();
    json_t *client = client_env ? json_loads(client_env, 0, NULL) : NULL;
    char text[ADDRESS_TEXT_SIZE];
    const char *key;
    json_t *value;
    size_t i;

    json_array_foreach(image_env, i, value)
    {
        const char *pair = json_string_value(value);
        const char *equals = pair ? strchr(pair, '=') : NULL;

        if (equals && equals != pair) {
            struct buf name = BUF(4096);

            buf_append(&name, pair, (size_t)(equals - pair));
            json_object_set_new(merged, buf_str(&name), json_string(equals + 1));
            buf_free(&name);
        }
    }
    if (network->address)
        json_object_set_new(
            merged, "HYPEMAN_IP", json_string(address_text(network->address, text)));
    if (client)
        json_object_update(merged, client);
    jout_open(j, "env", '{');
    json_object_foreach(merged, key, value) jout_str(j, key, json_string_value(value));
    jout_close(j, '}');
    json_decref(merged);
    json_decref(client);
}

static void write_array(struct jout *j, const char *key, const char *override, const json_t *image)
{
    char *text;

    if (override || !json_is_array(image)) {
        jout_raw(j, key, override ? override : "[]");
        return;
    }
    text = json_dumps(image, JSON_COMPACT);
    jout_raw(j, key, text);
    free(text);
}

static void write_network(struct jout *j, const struct spec_network *network)
{
    const struct net_plan *plan = network->plan;
    char text[ADDRESS_TEXT_SIZE];

    jout_open(j, "network", '{');
    jout_bool(j, "enabled", plan != NULL);
    if (plan) {
        jout_str(j, "address", address_text(plan->inner, text));
        jout_int(j, "prefix", plan->inner_net.prefix);
        jout_str(j, "gateway", address_text(plan->gateway, text));
        if (network->address) {
            jout_str(j, "gateway_mac", NET_GATEWAY_MAC);
            jout_str(j, "outer_address", address_text(network->address, text));
        }
        jout_open(j, "dns", '[');
        if (network->gateway_knows_names)
            jout_str(j, NULL, address_text(plan->gateway, text));
        for (unsigned i = 0; !network->gateway_knows_names && i < plan->n_dns; i++)
            jout_str(j, NULL, address_text(plan->dns[i], text));
        jout_close(j, ']');
    }
    jout_close(j, '}');
}

int spec_guest_config(struct buf *out, const struct spec *s, const char *id, uint64_t incarnation,
                      const struct spec_network *network, struct err *e)
{
    json_t *image = s->image_config ? json_loads(s->image_config, 0, NULL) : json_object();
    const char *workdir = json_string_value(json_object_get(image, "working_dir"));
    const char *user = json_string_value(json_object_get(image, "user"));
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    jout_int(&j, "incarnation", (int64_t)incarnation);
    jout_str(&j, "instance_id", id);
    jout_str(&j, "hostname", s->name);
    jout_str(&j, "workdir", workdir ? workdir : "");
    jout_str(&j, "user", user ? user : "");
    write_array(&j, "entrypoint", s->entrypoint, json_object_get(image, "entrypoint"));
    /* As in Docker: another entrypoint drops the image's cmd. */
    write_array(&j, "cmd", s->cmd, s->entrypoint ? NULL : json_object_get(image, "cmd"));
    write_env(&j, json_object_get(image, "env"), s->env, network);
    jout_bool(&j, "skip_agent", s->skip_guest_agent);
    write_network(&j, network);
    jout_close(&j, '}');
    json_decref(image);
    return buf_ok(out) ? 0
                       : err_set(e,
                                 ERR_INVALID,
                                 "the instance's configuration is too large for its config disk");
}
