/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "api/view.h"
#include "base/json.h"
#include "base/mem.h"

/* The next segment of a path: its start and length; false at the end. */
static bool segment(const char **path, const char **start, size_t *len)
{
    if (**path != '/')
        return false;
    *start = *path + 1;
    *len = strcspn(*start, "/");
    *path = *start + *len;
    return true;
}

static bool is_param(const char *s)
{
    return *s == '{';
}

/* Segments are compared as they were sent: an image's name holds %2F, which is no separator. */
static bool matches(const char *pattern, const char *path)
{
    const char *want;
    const char *have;
    size_t want_len;
    size_t have_len;

    while (segment(&pattern, &want, &want_len)) {
        if (!segment(&path, &have, &have_len) || have_len == 0)
            return false;
        if (!is_param(want) && (want_len != have_len || memcmp(want, have, want_len) != 0))
            return false;
    }
    return *path == '\0';
}

static const struct route *find_route(const char *method, const char *path, bool *path_exists)
{
    if (strcmp(method, "HEAD") == 0)
        method = "GET";
    for (size_t i = 0; i < n_api_routes; i++) {
        if (!matches(api_routes[i].path, path))
            continue;
        *path_exists = true;
        if (strcmp(api_routes[i].method, method) == 0)
            return &api_routes[i];
    }
    return NULL;
}

size_t api_body_limit(void *ctx, const char *method, const char *path)
{
    bool path_exists = false;
    const struct route *route = find_route(method, path, &path_exists);

    (void)ctx;
    return route ? route->max_body : 0;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* NULL when the escapes are not right, or hide a NUL. */
static char *decode(const char *s, size_t len)
{
    char *out = mem_zalloc(len + 1, 1);
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        int c = (unsigned char)s[i];

        if (c == '%') {
            int high = i + 2 < len ? hex(s[i + 1]) : -1;
            int low = i + 2 < len ? hex(s[i + 2]) : -1;

            c = high * 16 + low;
            if (high < 0 || low < 0 || c == 0) {
                free(out);
                return NULL;
            }
            i += 2;
        }
        out[n++] = (char)c;
    }
    return out;
}

static int take_params(struct call *c, const char *pattern, const char *path, struct err *e)
{
    const char *want;
    const char *have;
    size_t want_len;
    size_t have_len;
    int n = 0;

    while (segment(&pattern, &want, &want_len) && segment(&path, &have, &have_len)) {
        if (!is_param(want))
            continue;
        c->params[n] = decode(have, have_len);
        if (!c->params[n++])
            return err_set(e, ERR_INVALID, "the path holds an escape that is not one");
    }
    return 0;
}

static int take_body(struct call *c, struct err *e)
{
    const struct buf *body = http_body(c->http);

    if (body->len == 0)
        return 0;
    c->body = parse_json(body->data, body->len, e);
    if (c->body && !json_is_object(c->body))
        err_set(e, ERR_INVALID, "the body must be a JSON object");
    if (e->code != ERR_NONE) {
        err_slug(e, "Bad Request");
        return -1;
    }
    return 0;
}

static int prepare(struct call *c, const struct route *route, struct err *e)
{
    if (api_authorize(c, route->scopes, e) < 0 ||
        take_params(c, route->path, http_path(c->http), e) < 0)
        return -1;
    /* A planned operation may take another form of body; it does not matter which. */
    if (route->handle != api_planned && take_body(c, e) < 0)
        return -1;
    if (strncmp(route->path, "/instances/{id}", 15) == 0) {
        c->row = table_resolve(&c->api->world->table, c->params[0], e);
        return c->row ? 0 : -1;
    }
    return 0;
}

void api_init(struct api *api)
{
    api->world->table.show = instance_show;
}

void api_fini(struct api *api)
{
    lists_free(&api->lists);
}

void api_handle(void *ctx, struct http_request *req)
{
    struct call *c = mem_new(struct call);
    bool path_exists = false;
    const struct route *route = find_route(http_method(req), http_path(req), &path_exists);
    struct err e = {0};

    c->api = ctx;
    c->http = req;
    if (!route) {
        err_set(&e,
                ERR_NOT_FOUND,
                "%s %s: %s",
                http_method(req),
                http_path(req),
                path_exists ? "this path does not take the method" : "there is no such path");
        err_slug(&e, "Not Found");
        call_fail(c, &e);
        return;
    }
    if (prepare(c, route, &e) < 0)
        call_fail(c, &e);
    else
        route->handle(c);
}
