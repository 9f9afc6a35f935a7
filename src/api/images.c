/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "base/jout.h"
#include "base/json.h"
#include "base/mem.h"
#include "image/catalog.h"
#include "image/import.h"

enum { IMAGE_LIST_MAX = 64 << 20, IMAGE_VIEW_MAX = 4 << 20 };

static void put_image(void *arg, const struct image *image)
{
    image_write(arg, NULL, image);
}

static void note_tag_filter(void *arg, const char *key, const char *value)
{
    bool *by_tag = arg;

    (void)value;
    *by_tag = *by_tag || strncmp(key, "tags[", 5) == 0;
}

void api_images_list(struct call *c)
{
    struct buf json = BUF(IMAGE_LIST_MAX);
    struct jout j = JOUT(&json);
    bool by_tag = false;

    http_each_query(c->http, note_tag_filter, &by_tag);
    jout_open(&j, NULL, '[');
    if (!by_tag) /* no image carries a tag yet, so none passes a filter by one */
        catalog_each(c->api->world->images, put_image, &j);
    jout_close(&j, ']');
    call_reply(c, 200, &json);
}

static void reply_image(struct call *c, int status, const struct image *image)
{
    struct buf json = BUF(IMAGE_VIEW_MAX);
    struct jout j = JOUT(&json);

    image_write(&j, NULL, image);
    call_reply(c, status, &json);
}

static const struct image *resolve(struct call *c)
{
    struct err e = {0};
    const struct image *image = catalog_resolve(c->api->world->images, c->params[0], &e);

    if (!image)
        call_fail(c, &e);
    return image;
}

void api_images_get(struct call *c)
{
    const struct image *image = resolve(c);

    if (image)
        reply_image(c, 200, image);
}

/* --- changes: committed by the store, then shown, then answered --- */

struct image_change {
    struct store_done done;
    struct call *call;
    struct image image; /* of an import; of a delete only the name */
    bool is_delete;
};

static void committed(struct store_done *done, const struct err *result)
{
    struct image_change *change = container_of(done, struct image_change, done);
    struct catalog *images = change->call->api->world->images;

    if (result->code != ERR_NONE) {
        call_fail(change->call, result);
    } else if (change->is_delete) {
        catalog_remove(images, change->image.name);
        call_reply_empty(change->call, 204);
    } else {
        reply_image(change->call, 201, catalog_put(images, &change->image));
    }
    if (!change->is_delete)
        catalog_unpin(images);
    image_fini(&change->image);
    free(change);
}

static void commit(struct call *c, struct image_change *change, struct store_change *writes)
{
    change->call = c;
    change->done.fn = committed;
    store_post(c->api->world->env.store, c->api->world->loop, writes, &change->done);
}

void api_images_delete(struct call *c)
{
    const struct image *image = resolve(c);
    struct image_change *change;
    struct store_change *writes;

    if (!image)
        return;
    change = mem_new(struct image_change);
    writes = store_change_new();
    change->is_delete = true;
    change->image.name = mem_strdup(image->name);
    images_delete(writes, image->name);
    commit(c, change, writes);
}

struct import {
    struct job job;
    struct call *call;
    int images_fd;
    struct image_source source;
    struct image image;
};

static void import_run(struct job *job)
{
    struct import *i = container_of(job, struct import, job);

    (void)image_import(&job->op, &i->source, i->images_fd, &i->image, &job->err);
}

static void import_free(struct import *i)
{
    image_source_fini(&i->source);
    image_fini(&i->image);
    free(i);
}

static void import_done(struct job *job)
{
    struct import *i = container_of(job, struct import, job);
    struct call *c = i->call;
    struct image_change *change;
    struct store_change *writes;

    if (job->err.code != ERR_NONE) {
        catalog_unpin(c->api->world->images);
        call_fail(c, &job->err);
        import_free(i);
        return;
    }
    change = mem_new(struct image_change);
    change->image = image_take(&i->image);
    import_free(i);
    writes = store_change_new();
    image_put(writes, &change->image);
    commit(c, change, writes);
}

static int decode_words(const json_t *body, const char *key, struct argv *out, struct err *e)
{
    const json_t *words = json_object_get(body, key);
    const json_t *word;
    size_t n;

    if (!words || json_is_null(words))
        return 0;
    if (!json_is_array(words))
        return err_set(e, ERR_INVALID, "%s must be an array", key);
    json_array_foreach(words, n, word)
    {
        if (!json_is_string(word))
            return err_set(e, ERR_INVALID, "%s must hold strings", key);
        argv_push(out, json_string_value(word));
    }
    return 0;
}

static int decode_env(json_t *body, struct image_config *out, struct err *e)
{
    json_t *env = json_object_get(body, "env");
    const char *key;
    json_t *value;

    if (env && !json_is_null(env) && !json_is_object(env))
        return err_set(e, ERR_INVALID, "env must be an object");
    json_object_foreach(env, key, value)
    {
        char *assignment;

        if (!json_is_string(value) || !*key || strchr(key, '='))
            return err_set(e, ERR_INVALID, "env must hold names and strings");
        assignment = mem_printf("%s=%s", key, json_string_value(value));
        image_config_set_env(out, assignment);
        free(assignment);
    }
    return 0;
}

static int decode_text(const json_t *body, const char *key, char **out, struct err *e)
{
    const json_t *text = json_object_get(body, key);

    if (!text || json_is_null(text))
        return 0;
    if (!json_is_string(text))
        return err_set(e, ERR_INVALID, "%s must be a string", key);
    *out = mem_strdup(json_string_value(text));
    return 0;
}

static int decode_import(json_t *body, struct image_source *out, struct err *e)
{
    struct image_config *config = &out->overrides;
    const char *source = json_string_value(json_object_get(body, "source"));

    if (decode_text(body, "name", &out->name, e) < 0 ||
        decode_text(body, "working_dir", &config->working_dir, e) < 0 ||
        decode_text(body, "user", &config->user, e) < 0 ||
        decode_words(body, "entrypoint", &config->entrypoint, e) < 0 ||
        decode_words(body, "cmd", &config->cmd, e) < 0 || decode_env(body, config, e) < 0)
        return err_slug(e, "Bad Request");
    if (!out->name || !source) {
        err_set(e, ERR_INVALID, "name and source are required");
        return err_slug(e, "Bad Request");
    }
    return image_source_parse(source, out, e);
}

void api_images_import(struct call *c)
{
    struct import *i = mem_new(struct import);
    struct err e = {0};

    i->call = c;
    i->images_fd = c->api->world->env.images_fd;
    i->job.run = import_run;
    i->job.done = import_done;
    i->job.kind = VM_JOB_IMAGE;
    i->job.timeout_ms = 3600 * 1000;
    catalog_pin(c->api->world->images);
    if (decode_import(c->body, &i->source, &e) == 0 &&
        jobs_submit(c->api->world->jobs, &i->job, &e) == 0)
        return;
    catalog_unpin(c->api->world->images);
    call_fail(c, &e);
    import_free(i);
}
