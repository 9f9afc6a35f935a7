/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/api.h"
#include "base/json.h"

static void client_gone(void *arg)
{
    struct call *c = arg;

    atomic_store(&c->is_abandoned, true);
}

void call_watch(struct call *c)
{
    http_on_gone(c->http, client_gone, c);
}

void call_done(struct call *c)
{
    for (int i = 0; i < MAX_PATH_PARAMS; i++)
        free(c->params[i]);
    json_decref(c->body);
    free(c);
}

void call_reply(struct call *c, int status, struct buf *json)
{
    http_on_gone(c->http, NULL, NULL);
    http_reply(c->http, status, "application/json", json);
    call_done(c);
}

void call_reply_empty(struct call *c, int status)
{
    struct buf none = BUF(0);

    http_on_gone(c->http, NULL, NULL);
    http_reply(c->http, status, NULL, &none);
    call_done(c);
}

void call_fail(struct call *c, const struct err *e)
{
    int status = err_http_status(e->code);
    struct buf json = BUF(8192);
    struct jout j = JOUT(&json);

    jout_open(&j, NULL, '{');
    jout_str(&j, "code", err_name(e));
    jout_str(&j, "message", e->msg);
    jout_close(&j, '}');
    if (status == 409 || status >= 500)
        http_add_header(c->http, "x-should-retry", err_is_transient(e->code) ? "true" : "false");
    if (status == 401)
        http_add_header(c->http, "WWW-Authenticate", "Bearer");
    call_reply(c, status, &json);
}

void call_fail_with(struct call *c, enum err_code code, const char *slug, const char *fmt, ...)
{
    char text[400];
    struct err e = {0};
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    err_set(&e, code, "%s", text);
    if (slug)
        err_slug(&e, slug);
    call_fail(c, &e);
}
