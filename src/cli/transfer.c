/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/transfer.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/parse.h"
#include "cli/expand.h"
#include "cli/pack.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/text.h"
#include "cli/wsock.h"

enum { WAITING_MAX = 1 << 20 };

struct transfer {
    struct wsock socket;
    struct op op;
    struct unpack *unpack; /* out of the guest; NULL: to standard output */
    uint64_t bytes;
    int64_t began_ms;
    bool is_done; /* the daemon has said so */
    struct err err;
};

/* --- progress --- */

static void note(struct transfer *t)
{
    char so_far[SIZE_TEXT_SIZE];
    char rate[SIZE_TEXT_SIZE];
    int64_t ms = clock_ms() - t->began_ms;

    if (progress_next_ms() > clock_ms())
        return;
    size_text(t->bytes, so_far);
    size_text(ms > 0 ? t->bytes * 1000 / (uint64_t)ms : 0, rate);
    progress_note("copied %s, %s/s,", so_far, rate);
    progress_tick();
}

static void say_end(const struct transfer *t)
{
    char size[SIZE_TEXT_SIZE];

    if (isatty(STDERR_FILENO))
        fprintf(stderr, "copied %s\n", size_text(t->bytes, size));
}

/* --- what the daemon sends --- */

static void on_binary(void *arg, const void *data, size_t len, bool is_first)
{
    struct transfer *t = arg;

    (void)is_first;
    if (t->err.code != ERR_NONE)
        return;
    t->bytes += len;
    if (t->unpack)
        (void)unpack_feed(t->unpack, data, len, &t->err);
    else
        (void)output_put(&t->op, STDOUT_FILENO, data, len, &t->err);
    note(t);
}

static void on_text(void *arg, const char *text, size_t len)
{
    struct transfer *t = arg;
    struct err ignored = {0};
    json_auto_t *doc = parse_json(text, len, &ignored);
    const char *type = text_of(doc, "type");
    const char *why = strcmp(type, "error") == 0 ? text_of(doc, "message") : text_of(doc, "error");
    bool is_good = strcmp(type, "end") == 0 || json_is_true(json_object_get(doc, "success"));

    t->is_done = true;
    if (!is_good && t->err.code == ERR_NONE)
        err_set(&t->err, ERR_INTERNAL, "%s", *why ? why : "the daemon's answer makes no sense");
}

static void on_closed(void *arg, unsigned code)
{
    (void)arg, (void)code;
}

static const struct ws_events events = {on_binary, on_text, on_closed};

/* --- both directions --- */

static int begin(struct transfer *t, const char *instance, json_t *request,
                 const struct transfer_options *options, struct err *e)
{
    auto_free char *path = instance_path(instance, "/cp");
    auto_free char *first = json_dumps(request, JSON_COMPACT);
    const struct op opening = session_op(SESSION_CALL_MS);

    json_decref(request);
    if (!first)
        return err_set(e, ERR_INVALID, "the path inside the instance is not UTF-8");
    if (options->shows_progress)
        progress_begin("copying");
    t->began_ms = clock_ms();
    if (wsock_open(&opening, &t->socket, path, &events, t, e) < 0)
        return -1;
    t->op = session_op(INT64_MAX);
    ws_put(t->socket.ws, WS_TEXT, first, strlen(first));
    return wsock_drain(&t->op, &t->socket, 0, e);
}

/* Until the daemon has said how it ended. */
static int finish(struct transfer *t, struct err *e)
{
    while (!t->is_done && !t->socket.is_over && t->err.code == ERR_NONE) {
        if (wsock_step(&t->op, &t->socket, e) < 0)
            return -1;
    }
    if (t->err.code == ERR_NONE && !t->is_done)
        err_set(&t->err, ERR_INTERNAL, "the connection ended before the copy was complete");
    if (t->err.code == ERR_NONE)
        return 0;
    *e = t->err;
    return -1;
}

static int end(struct transfer *t, const struct transfer_options *options, int rc)
{
    wsock_fini(&t->socket);
    unpack_free(t->unpack);
    progress_end();
    if (rc == 0 && options->shows_progress)
        say_end(t);
    return rc;
}

/* --- into the guest --- */

static int put(void *arg, const void *data, size_t len, struct err *e)
{
    struct transfer *t = arg;

    ws_put(t->socket.ws, WS_BINARY, data, len);
    if (wsock_drain(&t->op, &t->socket, WAITING_MAX, e) < 0)
        return -1;
    t->bytes += len;
    note(t);
    if (t->is_done || t->socket.is_over)
        return finish(t, e) < 0 ? -1 : err_set(e, ERR_INTERNAL, "the daemon ended the copy early");
    return 0;
}

static int end_input(struct transfer *t, struct err *e)
{
    static const char text[] = "{\"type\":\"end\"}";

    ws_put(t->socket.ws, WS_TEXT, text, sizeof(text) - 1);
    return wsock_drain(&t->op, &t->socket, 0, e) < 0 ? -1 : finish(t, e);
}

static json_t *request_in(const char *root, const struct transfer_options *options)
{
    return json_pack("{s:s, s:s, s:s, s:b}",
                     "direction",
                     "to",
                     "guest_path",
                     root,
                     "format",
                     "tar",
                     "keep_owner",
                     options->keep_owner);
}

int transfer_in(const char *instance, const char *root, const struct transfer_source *source,
                const struct transfer_options *options, struct err *e)
{
    struct transfer t = {.socket = WSOCK};
    const struct pack pack = {source->path, source->as, source->follow, put, &t};
    int rc = begin(&t, instance, request_in(root, options), options, e);

    if (rc == 0)
        rc = pack_tree(&pack, e);
    if (rc == 0)
        rc = end_input(&t, e);
    return end(&t, options, rc);
}

int transfer_stream_in(const char *instance, const char *root,
                       const struct transfer_options *options, struct err *e)
{
    struct transfer t = {.socket = WSOCK};
    int rc = begin(&t, instance, request_in(root, options), options, e);

    if (rc == 0)
        rc = expand(&t.op, STDIN_FILENO, put, &t, e);
    if (rc == 0)
        rc = end_input(&t, e);
    return end(&t, options, rc);
}

/* --- out of the guest --- */

static json_t *request_out(const struct transfer_wanted *wanted)
{
    return json_pack("{s:s, s:s, s:s, s:b}",
                     "direction",
                     "from",
                     "guest_path",
                     wanted->path,
                     "format",
                     "tar",
                     "follow_links",
                     wanted->follow);
}

/* Its last name is none that its archive could begin with: "/", "..", with or without a "." behind.
 */
static bool is_nameless(const char *path)
{
    size_t n = strlen(path);
    size_t start;

    while (n > 0 && (path[n - 1] == '/' || (path[n - 1] == '.' && n > 1 && path[n - 2] == '/')))
        n--;
    for (start = n; start > 0 && path[start - 1] != '/';)
        start--;
    return n == start || (n - start == 2 && memcmp(path + start, "..", 2) == 0);
}

int transfer_out(const char *instance, const struct transfer_wanted *wanted, const char *as,
                 const struct transfer_options *options, struct err *e)
{
    const struct unpack_as names = {as, is_nameless(wanted->path)};
    struct transfer t = {.socket = WSOCK, .unpack = unpack_new(&names, options->keep_owner)};
    int rc = begin(&t, instance, request_out(wanted), options, e);

    if (rc == 0)
        rc = finish(&t, e);
    if (rc == 0)
        rc = unpack_finish(t.unpack, e);
    return end(&t, options, rc);
}

int transfer_stream_out(const char *instance, const struct transfer_wanted *wanted,
                        const struct transfer_options *options, struct err *e)
{
    struct transfer t = {.socket = WSOCK};
    int rc = begin(&t, instance, request_out(wanted), options, e);

    if (rc == 0)
        rc = finish(&t, e);
    return end(&t, options, rc);
}
