/* SPDX-License-Identifier: Apache-2.0 */
#include "image/image.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

/* What one list of an image's configuration may hold. A guest gets them as one config disk. */
enum { MAX_STRINGS = 4096, MAX_STRING_BYTES = 256 * 1024, MAX_DOC = 16 << 20 };

void image_config_fini(struct image_config *config)
{
    argv_free(&config->entrypoint);
    argv_free(&config->cmd);
    argv_free(&config->env);
    free(config->working_dir);
    free(config->user);
    *config = (struct image_config){0};
}

void image_fini(struct image *image)
{
    image_config_fini(&image->config);
    free(image->name);
    *image = (struct image){0};
}

struct image image_take(struct image *from)
{
    struct image moved = *from;

    *from = (struct image){0};
    return moved;
}

/* The last value of a name holds, as it does when a shell reads the list. */
void image_config_set_env(struct image_config *config, const char *assignment)
{
    size_t name = strcspn(assignment, "=") + 1;

    for (size_t i = 0; i < config->env.n; i++) {
        if (strncmp(config->env.v[i], assignment, name) == 0) {
            free(config->env.v[i]);
            config->env.v[i] = mem_strdup(assignment);
            return;
        }
    }
    argv_push(&config->env, assignment);
}

static int read_strings(const json_t *config, const char *key, struct argv *out, struct err *e)
{
    const json_t *list = json_object_get(config, key);
    size_t bytes = 0;

    if (!list || json_is_null(list))
        return 0;
    if (!json_is_array(list) || json_array_size(list) > MAX_STRINGS)
        return err_set(
            e, ERR_INVALID, "%s is not a list of at most %d strings", key, (int)MAX_STRINGS);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));

        if (!s)
            return err_set(e, ERR_INVALID, "%s holds something that is not a string", key);
        bytes += strlen(s) + 1;
        if (bytes > MAX_STRING_BYTES)
            return err_set(
                e, ERR_INVALID, "%s is longer than %d bytes", key, (int)MAX_STRING_BYTES);
        argv_push(out, s);
    }
    return 0;
}

static int read_string(const json_t *config, const char *key, char **out, struct err *e)
{
    const json_t *value = json_object_get(config, key);
    const char *s = json_string_value(value);

    if (!value || json_is_null(value) || (s && !*s))
        return 0;
    if (!s || strlen(s) > MAX_STRING_BYTES)
        return err_set(
            e, ERR_INVALID, "%s is not a string of at most %d bytes", key, (int)MAX_STRING_BYTES);
    *out = mem_strdup(s);
    return 0;
}

static int read_env(const json_t *config, struct image_config *out, struct err *e)
{
    auto_argv struct argv list = {0};

    if (read_strings(config, "Env", &list, e) < 0)
        return -1;
    for (size_t i = 0; i < list.n; i++) {
        /* A name alone says nothing that we could set. */
        if (strchr(list.v[i], '=') > list.v[i])
            image_config_set_env(out, list.v[i]);
    }
    return 0;
}

int image_config_read(const json_t *config, struct image_config *out, struct err *e)
{
    struct image_config c = {0};

    if (config && !json_is_null(config) && !json_is_object(config))
        return err_set(e, ERR_INVALID, "config is not an object");
    if (read_strings(config, "Entrypoint", &c.entrypoint, e) < 0 ||
        read_strings(config, "Cmd", &c.cmd, e) < 0 || read_env(config, &c, e) < 0 ||
        read_string(config, "WorkingDir", &c.working_dir, e) < 0 ||
        read_string(config, "User", &c.user, e) < 0) {
        image_config_fini(&c);
        return -1;
    }
    *out = c;
    return 0;
}

static void write_strings(struct jout *j, const char *key, const struct argv *list)
{
    if (list->n == 0) {
        jout_null(j, key);
        return;
    }
    jout_open(j, key, '[');
    for (size_t i = 0; i < list->n; i++)
        jout_str(j, NULL, list->v[i]);
    jout_close(j, ']');
}

static void write_env(struct jout *j, const struct argv *env)
{
    if (env->n == 0)
        return;
    jout_open(j, "env", '{');
    for (size_t i = 0; i < env->n; i++) {
        const char *eq = strchr(env->v[i], '=');
        char *name = mem_printf("%.*s", (int)(eq - env->v[i]), env->v[i]);

        jout_str(j, name, eq + 1);
        free(name);
    }
    jout_close(j, '}');
}

static void write_members(struct jout *j, const struct image *image)
{
    char created[TIME_TEXT_SIZE];

    jout_str(j, "name", image->name);
    jout_str(j, "digest", image->digest);
    jout_str(j, "platform", IMAGE_PLATFORM);
    jout_str(j, "status", "ready");
    jout_null(j, "queue_position");
    jout_null(j, "error");
    jout_int(j, "size_bytes", (int64_t)image->size_bytes);
    write_strings(j, "entrypoint", &image->config.entrypoint);
    write_strings(j, "cmd", &image->config.cmd);
    write_env(j, &image->config.env);
    jout_str(j, "working_dir", image->config.working_dir);
    jout_str(j, "created_at", time_text(image->created_us, created));
}

void image_write(struct jout *j, const char *key, const struct image *image)
{
    jout_open(j, key, '{');
    write_members(j, image);
    jout_close(j, '}');
}

/*
 * The record keeps the configuration in OCI's own form, so that there is one
 * reader: what was accepted once is accepted again.
 */
void image_put(struct store_change *c, const struct image *image)
{
    auto_buf struct buf doc = BUF(MAX_DOC);
    struct jout j = JOUT(&doc);

    jout_open(&j, NULL, '{');
    jout_int(&j, "size_bytes", (int64_t)image->size_bytes);
    jout_int(&j, "created_us", image->created_us);
    jout_open(&j, "config", '{');
    write_strings(&j, "Entrypoint", &image->config.entrypoint);
    write_strings(&j, "Cmd", &image->config.cmd);
    write_strings(&j, "Env", &image->config.env);
    jout_str(&j, "WorkingDir", image->config.working_dir);
    jout_str(&j, "User", image->config.user);
    jout_close(&j, '}');
    jout_close(&j, '}');
    assert(buf_ok(&doc)); /* the limits of the configuration keep it far below */
    images_put(
        c,
        &(struct image_record){.name = image->name, .digest = image->digest, .doc = buf_str(&doc)});
}

int image_read_record(const struct image_record *record, struct image *out, struct err *e)
{
    auto_image struct image image = {0};
    json_t *doc = parse_json(record->doc, strlen(record->doc), e);
    int rc = -1;

    if (!doc)
        return err_wrap(e, "the record of image %s", record->name);
    if (!digest_is_valid(record->digest))
        err_set(e, ERR_INTERNAL, "%s is not a digest", record->digest);
    else
        rc = image_config_read(json_object_get(doc, "config"), &image.config, e);
    image.size_bytes = (uint64_t)json_integer_value(json_object_get(doc, "size_bytes"));
    image.created_us = json_integer_value(json_object_get(doc, "created_us"));
    json_decref(doc);
    if (rc < 0)
        return err_wrap(e, "the record of image %s", record->name);
    image.name = mem_strdup(record->name);
    memcpy(image.digest, record->digest, sizeof(image.digest));
    *out = image_take(&image);
    return 0;
}
