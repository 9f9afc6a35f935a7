/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/member.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/parse.h"
#include "image/catalog.h"
#include "wire/config_disk.h"

/* Limits of the contract (2.1, 2.6), and the least that a guest can boot with. */
enum { MAX_TAGS = 50, MAX_TAG_KEY = 128, MAX_TAG_VALUE = 256, MAX_ARGS = 4096, MAX_ENV = 4096 };
#define MIN_MEMORY (64ULL << 20)
#define MIN_OVERLAY (16ULL << 20)

struct size_rule {
    const char *key;
    const char *slug;
    uint64_t otherwise;
    uint64_t min;
    uint64_t max;
};

static int size_member(const json_t *body, const struct size_rule *rule, uint64_t *out,
                       struct err *e)
{
    char low[SIZE_TEXT_SIZE];
    char high[SIZE_TEXT_SIZE];
    const char *text;
    uint64_t v = rule->otherwise;

    if (json_text_member(body, rule->key, &text, e) < 0)
        return -1;
    if (text && *text && !parse_size(text, &v)) {
        err_set(e,
                ERR_INVALID,
                "%s \"%.40s\" is not a size: digits and a unit, such as 512MB or 2GB",
                rule->key,
                text);
        return err_slug(e, rule->slug);
    }
    if (v < rule->min || v > rule->max) {
        err_set(e,
                ERR_INVALID,
                "%s must be between %s and %s",
                rule->key,
                size_text(rule->min, low),
                size_text(rule->max, high));
        return err_slug(e, rule->slug);
    }
    *out = v;
    return 0;
}

static int decode_sizes(const struct api *api, const json_t *body, struct spec *s, struct err *e)
{
    const struct api_limits *l = &api->limits;
    struct size_rule memory = {"size", "invalid_size", 1ULL << 30, MIN_MEMORY, l->max_memory_bytes};
    struct size_rule hotplug = {"hotplug_size", "invalid_hotplug_size", 0, 0, l->max_memory_bytes};
    struct size_rule overlay = {
        "overlay_size", "invalid_overlay_size", 10ULL << 30, MIN_OVERLAY, l->max_overlay_bytes};

    if (size_member(body, &memory, &s->memory_bytes, e) < 0 ||
        size_member(body, &hotplug, &s->hotplug_bytes, e) < 0 ||
        size_member(body, &overlay, &s->overlay_bytes, e) < 0)
        return -1;
    if (s->hotplug_bytes > l->max_memory_bytes - s->memory_bytes)
        return json_bad(e,
                        "invalid_hotplug_size",
                        "together with size passes the limit of one instance",
                        "hotplug_size");
    /* A raw disk is made of whole blocks. */
    s->overlay_bytes &= ~4095ULL;
    s->memory_bytes &= ~((2ULL << 20) - 1);
    return 0;
}

static int decode_vcpus(const struct api *api, const json_t *body, struct spec *s, struct err *e)
{
    const json_t *v;
    json_int_t n;

    if (json_member(body, "vcpus", JSON_INTEGER, &v, e) < 0)
        return -1;
    n = v ? json_integer_value(v) : 2;
    if (n < 1 || (uint64_t)n > api->limits.max_vcpus) {
        err_set(e, ERR_INVALID, "vcpus must be between 1 and %" PRIu64, api->limits.max_vcpus);
        return -1;
    }
    s->vcpus = (uint32_t)n;
    return 0;
}

/* An array of strings as JSON text; absent stays NULL. */
static int args_member(const json_t *body, const char *key, char **out, struct err *e)
{
    const json_t *v;
    json_t *item;
    size_t i;

    if (json_member(body, key, JSON_ARRAY, &v, e) < 0)
        return -1;
    if (!v)
        return 0;
    if (json_array_size(v) > MAX_ARGS)
        return json_bad(e, NULL, "has too many words", key);
    json_array_foreach(v, i, item)
    {
        if (!json_is_string(item) || strlen(json_string_value(item)) != json_string_length(item))
            return json_bad(e, "Bad Request", "must hold strings", key);
    }
    *out = json_dumps(v, JSON_COMPACT);
    return 0;
}

static int decode_env(const json_t *body, struct spec *s, struct err *e)
{
    const json_t *env;
    const char *key;
    json_t *value;

    if (json_member(body, "env", JSON_OBJECT, &env, e) < 0)
        return -1;
    if (!env || json_object_size(env) == 0)
        return 0;
    if (json_object_size(env) > MAX_ENV)
        return json_bad(e, NULL, "has too many members", "env");
    json_object_foreach((json_t *)(uintptr_t)env, key, value)
    {
        if (*key == '\0' || strchr(key, '='))
            return json_bad(e, NULL, "holds a name that is empty or has a '='", "env");
        if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
            return json_bad(e, "Bad Request", "must hold strings", "env");
    }
    s->env = json_dumps(env, JSON_COMPACT);
    return 0;
}

static bool tag_text_is_valid(const char *s, size_t min, size_t max)
{
    size_t n = strlen(s);

    return n >= min && n <= max &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _.:/=+@-") ==
               n;
}

static int by_key(const void *a, const void *b)
{
    const struct tag *x = a;
    const struct tag *y = b;

    return strcmp(x->key, y->key);
}

static int decode_tags(const json_t *body, struct spec *s, struct err *e)
{
    const json_t *tags;
    const char *key;
    json_t *value;

    if (json_member(body, "tags", JSON_OBJECT, &tags, e) < 0)
        return -1;
    if (!tags || json_object_size(tags) == 0)
        return 0;
    if (json_object_size(tags) > MAX_TAGS)
        return json_bad(e, NULL, "may hold at most 50", "tags");
    s->tags = mem_zalloc(json_object_size(tags), sizeof(*s->tags));
    json_object_foreach((json_t *)(uintptr_t)tags, key, value)
    {
        const char *text = json_string_value(value);

        if (!text)
            return json_bad(e, "Bad Request", "must hold strings", "tags");
        if (!tag_text_is_valid(key, 1, MAX_TAG_KEY) || !tag_text_is_valid(text, 0, MAX_TAG_VALUE))
            return json_bad(
                e,
                NULL,
                "may hold letters, digits, blanks and _ . : / = + @ -, keys of 1 to 128 and "
                "values of up to 256 characters",
                "tags");
        s->tags[s->n_tags++] = (struct tag){mem_strdup(key), mem_strdup(text)};
    }
    qsort(s->tags, s->n_tags, sizeof(*s->tags), by_key);
    return 0;
}

/* A word of the contract that this build has no driver for, or no word of it. */
static int refuse_hypervisor(const char *name, struct err *e)
{
    static const char *const known[] = {"cloud-hypervisor", "vz"};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(name, known[i]) == 0)
            return err_set(e,
                           ERR_UNSUPPORTED,
                           "hypervisor %s is not available in this version; see GET /capabilities",
                           name);
    }
    return json_bad(e, "Bad Request", "names no hypervisor", "hypervisor");
}

static int decode_hypervisor(const struct api *api, const json_t *body, struct spec *s,
                             struct err *e)
{
    const char *name;
    struct err why = {0};

    if (json_text_member(body, "hypervisor", &name, e) < 0)
        return -1;
    s->driver = name && *name ? vmm_find(name) : api->default_driver;
    if (!s->driver && name && *name)
        return refuse_hypervisor(name, e);
    if (!s->driver)
        return err_set(
            e, ERR_UNSUPPORTED, "this host can run no hypervisor; see GET /capabilities");
    if (s->driver->available(api->world->env.host, &why) < 0)
        return err_set(e, ERR_UNSUPPORTED, "%s cannot run here: %s", s->driver->name, why.msg);
    s->hypervisor = mem_strdup(s->driver->name);
    return 0;
}

/* The image's own words on what to run, kept with the instance: the image may go or change. */
static char *config_text(const struct image_config *config)
{
    const struct {
        const char *key;
        const struct argv *list;
    } lists[] = {{"entrypoint", &config->entrypoint}, {"cmd", &config->cmd}, {"env", &config->env}};
    struct buf text = BUF(CONFIG_MAX);
    struct jout j = JOUT(&text);

    jout_open(&j, NULL, '{');
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        jout_open(&j, lists[i].key, '[');
        for (size_t k = 0; k < lists[i].list->n; k++)
            jout_str(&j, NULL, lists[i].list->v[k]);
        jout_close(&j, ']');
    }
    jout_str(&j, "working_dir", config->working_dir);
    jout_str(&j, "user", config->user);
    jout_close(&j, '}');
    if (!buf_ok(&text)) {
        buf_free(&text);
        return NULL;
    }
    return text.data;
}

static int decode_image(const struct api *api, const json_t *body, struct spec *s, struct err *e)
{
    const struct image *image;
    const char *text;

    if (json_text_member(body, "image", &text, e) < 0)
        return -1;
    if (!text || !*text)
        return json_bad(e, "Bad Request", "is required", "image");
    image = catalog_resolve(api->world->images, text, e);
    if (!image && e->code == ERR_NOT_FOUND)
        return err_wrap(e, "image %.200s (import it with \"hypeman image import\")", text);
    if (!image)
        return -1;
    s->image = mem_strdup(image->name);
    s->image_digest = mem_strdup(image->digest);
    s->image_config = config_text(&image->config);
    return s->image_config
               ? 0
               : err_set(e, ERR_INVALID, "the configuration of image %s is too large", image->name);
}

static int decode_name(const json_t *body, struct spec *s, struct err *e)
{
    const char *name;

    if (json_text_member(body, "name", &name, e) < 0)
        return -1;
    if (!name)
        return json_bad(e, "Bad Request", "is required", "name");
    if (!name_is_valid(name))
        return json_bad(
            e,
            "Bad Request",
            "must be 1 to 63 lower-case letters, digits and dashes, and begin and end with "
            "a letter or digit",
            "name");
    memcpy(s->name, name, strlen(name) + 1);
    return 0;
}

static int decode_platform(const json_t *body, struct err *e)
{
    const char *platform;

    if (json_text_member(body, "platform", &platform, e) < 0)
        return -1;
    if (platform && *platform && strcmp(platform, "linux/amd64") != 0)
        return json_bad(e, "invalid_platform", "must be linux/amd64 on this host", "platform");
    return 0;
}

static int decode_disk_rate(const json_t *body, struct spec *s, struct err *e)
{
    const uint64_t most = UINT64_C(1000000000000000); /* QEMU's */
    const char *text;

    if (json_text_member(body, "disk_io_bps", &text, e) < 0)
        return -1;
    if (text && *text && (!parse_byte_rate(text, &s->disk_rate) || s->disk_rate > most))
        return json_bad(
            e, "invalid_disk_io_bps", "is not a size a second such as 100MB/s", "disk_io_bps");
    return 0;
}

static int decode_all(const struct api *api, const json_t *body, struct spec *s, struct err *e)
{
    if (decode_name(body, s, e) < 0 || decode_platform(body, e) < 0 ||
        decode_sizes(api, body, s, e) < 0 || decode_vcpus(api, body, s, e) < 0 ||
        decode_disk_rate(body, s, e) < 0 || decode_env(body, s, e) < 0 ||
        decode_tags(body, s, e) < 0 || args_member(body, "entrypoint", &s->entrypoint, e) < 0 ||
        args_member(body, "cmd", &s->cmd, e) < 0 ||
        json_bool_member(body, "skip_guest_agent", false, &s->skip_guest_agent, e) < 0 ||
        json_bool_member(body, "skip_kernel_headers", false, &s->skip_kernel_headers, e) < 0 ||
        spec_decode_network(body, s, e) < 0 || spec_refuse_planned(body, e) < 0)
        return -1;
    return decode_hypervisor(api, body, s, e) < 0 ? -1 : decode_image(api, body, s, e);
}

struct spec *spec_decode(const struct api *api, const json_t *body, struct err *e)
{
    struct spec *s;

    if (!body) {
        json_bad(e, "Bad Request", "is required", "a JSON body");
        return NULL;
    }
    s = spec_new();
    s->created_us = wall_us();
    if (decode_all(api, body, s, e) < 0) {
        spec_unref(s);
        return NULL;
    }
    return s;
}

struct spec *spec_decode_start(const struct spec *spec, const json_t *body, struct err *e)
{
    char *entrypoint = NULL;
    char *cmd = NULL;
    struct spec *s;

    if (args_member(body, "entrypoint", &entrypoint, e) < 0 ||
        args_member(body, "cmd", &cmd, e) < 0 || (!entrypoint && !cmd)) {
        free(entrypoint);
        free(cmd);
        return NULL;
    }
    s = spec_copy(spec);
    if (entrypoint) {
        free(s->entrypoint);
        s->entrypoint = entrypoint;
    }
    if (cmd) {
        free(s->cmd);
        s->cmd = cmd;
    }
    return s;
}
