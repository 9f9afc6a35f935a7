/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/session.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/progress.h"
#include "cli/text.h"

static const char default_socket[] = "/run/hypeman/hypeman.sock";
enum { DOCUMENT_MAX = 256 << 20, ERROR_MAX = 64 << 10 };

struct session_target session_target;

static struct {
    struct client client;
    int interrupt_fd;
    bool catches_all;
    char code[64]; /* of the last error that the daemon sent; err.slug points here */
} session = {.interrupt_fd = -1};

/* An empty variable is as good as none. */
static const char *from_environment(const char *name)
{
    const char *value = getenv(name);

    return value && *value ? value : NULL;
}

void session_catch_all(void)
{
    session.catches_all = true;
}

struct op session_op(int64_t timeout_ms)
{
    int64_t now = clock_ms();

    if (session.interrupt_fd < 0) {
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        if (session.catches_all) {
            sigaddset(&set, SIGTERM);
            sigaddset(&set, SIGHUP);
        }
        sigprocmask(SIG_BLOCK, &set, NULL);
        session.interrupt_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    }
    return (struct op){timeout_ms > INT64_MAX - now ? INT64_MAX : now + timeout_ms,
                       session.interrupt_fd};
}

static int connect_to(struct err *e)
{
    const char *url = session_target.base_url;
    const char *path = session_target.socket_path;

    if (session.client.where)
        return 0;
    if (url && path)
        return err_set(e, ERR_INVALID, "--base-url and --socket exclude each other");
    if (!url && !path)
        url = from_environment("HYPEMAN_BASE_URL");
    if (!path)
        path = from_environment("HYPEMAN_SOCKET");
    return client_init(
        &session.client, url, path ? path : default_socket, from_environment("HYPEMAN_API_KEY"), e);
}

void session_forget(void)
{
    client_fini(&session.client);
}

const char *session_where(void)
{
    return session.client.where ? session.client.where : "";
}

int session_send(const struct op *op, struct exchange *x, const struct client_request *request,
                 struct err *e)
{
    return connect_to(e) < 0 ? -1 : client_send(op, &session.client, x, request, e);
}

static int late(struct err *e)
{
    if (e->code != ERR_TIMEOUT)
        return -1;
    err_clear(e);
    return err_set(e, ERR_TIMEOUT, "the daemon at %s did not answer in time", session_where());
}

/* --- answers --- */

static int collect(void *ctx, const char *data, size_t len, struct err *e)
{
    struct buf *b = ctx;

    buf_append(b, data, len);
    return buf_ok(b) ? 0 : err_set(e, ERR_TOO_LARGE, "the answer passes %zu bytes", b->max);
}

static enum err_code code_of_status(int status)
{
    switch (status) {
    case 400:
        return ERR_INVALID;
    case 401:
        return ERR_UNAUTHORIZED;
    case 403:
        return ERR_DENIED;
    case 404:
        return ERR_NOT_FOUND;
    case 409:
        return ERR_BAD_STATE;
    case 413:
        return ERR_TOO_LARGE;
    case 429:
        return ERR_LIMIT;
    case 501:
        return ERR_UNSUPPORTED;
    default:
        return ERR_INTERNAL;
    }
}

/* The contract's {code, message}; whatever stands in between may answer something else. */
static int read_error(const struct op *op, struct exchange *x, struct err *e)
{
    const int status = x->response.status;
    auto_buf struct buf body = BUF(ERROR_MAX);
    const struct response_sink sink = {collect, &body};
    struct err ignored = {0};
    json_auto_t *doc = NULL;
    const char *message;

    if (client_body(op, x, &sink, e) < 0) {
        if (e->code == ERR_CANCELLED)
            return -1;
        err_clear(e); /* the status says more than why the rest is missing */
    }
    doc = parse_json(buf_str(&body), body.len, &ignored);
    message = json_string_value(json_object_get(doc, "message"));
    (void)snprintf(session.code, sizeof(session.code), "%s", text_of(doc, "code"));
    if (message)
        err_set(e, code_of_status(status), "%s", message);
    else
        err_set(e, code_of_status(status), "the daemon answered with status %d", status);
    return err_slug(e, session.code);
}

int session_head(const struct op *op, struct exchange *x, struct err *e)
{
    if (client_head(op, x, e) < 0)
        return late(e);
    return x->response.status / 100 == 2 || x->response.status == 101 ? 0 : read_error(op, x, e);
}

json_t *session_document(const struct op *op, struct exchange *x, struct err *e)
{
    auto_buf struct buf body = BUF(DOCUMENT_MAX);
    const struct response_sink sink = {collect, &body};
    json_t *doc;

    if (client_body(op, x, &sink, e) < 0) {
        late(e);
        return NULL;
    }
    if (body.len == 0)
        return json_null();
    doc = parse_json(body.data, body.len, e);
    if (!doc)
        err_wrap(e, "the daemon's answer");
    return doc;
}

json_t *session_call(const char *method, const char *path, const json_t *body, int64_t timeout_ms,
                     struct err *e)
{
    const struct op op = session_op(timeout_ms);
    auto_exchange struct exchange x = EXCHANGE;
    auto_free char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    const struct client_request request = {method, path, text};

    if (session_send(&op, &x, &request, e) < 0 || session_head(&op, &x, e) < 0)
        return NULL;
    return session_document(&op, &x, e);
}

json_t *session_get(const char *path, struct err *e)
{
    return session_call("GET", path, NULL, SESSION_CALL_MS, e);
}

/* --- errors --- */

static int complain(const struct err *e, const char *subject, const char *next)
{
    progress_end();
    if (e->code == ERR_CANCELLED) {
        if (isatty(STDERR_FILENO))
            fputc('\n', stderr); /* behind the ^C */
        return CLI_INTERRUPTED;
    }
    fputs("hypeman: ", stderr);
    if (subject) {
        text_print(stderr, subject);
        fputs(": ", stderr);
    }
    text_print(stderr, e->msg);
    if (next)
        fprintf(stderr, "; %s", next);
    fputc('\n', stderr);
    return CLI_FAILURE;
}

static const char *next_step(const struct err *e)
{
    if (e->code == ERR_UNAUTHORIZED)
        return "set HYPEMAN_API_KEY to a token; 'hypeman token' makes one on the daemon's host";
    if (e->code == ERR_DENIED)
        return "'hypeman token --permission ...' makes a token that may";
    return NULL;
}

int report(const struct err *e)
{
    return complain(e, NULL, next_step(e));
}

/* The resolver's 404 says only "resource not found", and not of what. */
static bool is_unresolved(const struct err *e)
{
    return e->code == ERR_NOT_FOUND && strcmp(e->msg, "resource not found") == 0;
}

static int report_thing(const char *kind, const char *name, const char *list, const struct err *e)
{
    struct err better = {0};

    if (!is_unresolved(e) && strcmp(err_name(e), "ambiguous") != 0)
        return complain(e, e->slug ? name : NULL, next_step(e));
    if (is_unresolved(e))
        err_set(&better, ERR_NOT_FOUND, "no such %s: %s", kind, name);
    else
        err_set(&better, ERR_BAD_STATE, "more than one %s begins with %s", kind, name);
    return complain(&better, NULL, list);
}

int report_instance(const char *name, const struct err *e)
{
    return report_thing("instance", name, "see 'hypeman ps -a'", e);
}

int report_image(const char *name, const struct err *e)
{
    return report_thing("image", name, "see 'hypeman image list'", e);
}

int for_each_name(int n, char **names, int (*one)(void *ctx, const char *name), void *ctx)
{
    int all = CLI_OK;

    for (int i = 0; i < n && all != CLI_INTERRUPTED; i++) {
        int code = one(ctx, names[i]);

        if (code != CLI_OK)
            all = code;
    }
    return all;
}
