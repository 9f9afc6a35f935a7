/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/parse.h"
#include "http/guard.h"
#include "http/private.h"

/* As the contract's clients know them from Go. */
static const char *reason(int status)
{
    switch (status) {
    case 400:
        return "Bad Request";
    case 413:
        return "Request Entity Too Large";
    case 414:
        return "Request URI Too Long";
    case 431:
        return "Request Header Fields Too Large";
    default:
        return "Internal Server Error";
    }
}

static void error_body(struct buf *b, int status, const char *message)
{
    struct jout j = JOUT(b);

    jout_open(&j, NULL, '{');
    jout_str(&j, "code", reason(status));
    jout_str(&j, "message", message);
    jout_close(&j, '}');
}

/*
 * Answers a request that is not read to its end and closes. The library takes
 * an answer only before the body or after it, so this writes past it; nothing
 * of an earlier answer can be waiting, or this request would not be read yet.
 */
enum MHD_Result request_refuse(struct http_request *req, int status, const char *message)
{
    auto_buf struct buf body = BUF(512);
    auto_buf struct buf out = BUF(1024);

    error_body(&body, status, message);
    buf_printf(&out,
               "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
               "Connection: close\r\n\r\n%s",
               status,
               reason(status),
               body.len,
               req->method && strcmp(req->method, "HEAD") == 0 ? "" : buf_str(&body));
    (void)send(req->fd, buf_str(&out), out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    req->is_refused = true;
    return MHD_NO;
}

/* Called by the library with the target before it cuts and decodes it. */
void *request_line(void *cls, const char *target, struct MHD_Connection *mhd)
{
    struct http_request *req = conn_of(mhd);
    size_t path_len = target ? strcspn(target, "?") : 0;

    (void)cls;
    req->phase = PHASE_HEAD;
    req->is_bad_target = !target || !http_guard_target(target);
    req->path = mem_zalloc(path_len + 1, 1);
    if (target)
        memcpy(req->path, target, path_len);
    if (req->deadline.due_ms > clock_ms() + req->server->quick_ms)
        conn_deadline(req, req->server->quick_ms);
    return req;
}

static enum MHD_Result guard_field(void *cls, enum MHD_ValueKind kind, const char *name,
                                   size_t name_len, const char *value, size_t value_len)
{
    (void)kind;
    http_guard_field(cls, name, name_len, value, value ? value_len : 0);
    return MHD_YES;
}

/* A NUL in a decoded parameter would cut it short for whoever reads it as text. */
static enum MHD_Result guard_parameter(void *cls, enum MHD_ValueKind kind, const char *key,
                                       size_t key_len, const char *value, size_t value_len)
{
    bool *has_nul = cls;

    (void)kind;
    if (memchr(key, '\0', key_len) || (value && memchr(value, '\0', value_len)))
        *has_nul = true;
    return MHD_YES;
}

static enum MHD_Result begin(struct http_request *req, const char *method, const char *version)
{
    struct http_guard guard = {0};
    bool has_nul = false;
    const char *why;
    size_t limit;

    req->method = method;
    req->is_http11 = strcmp(version, "HTTP/1.1") == 0;
    if (strlen(req->path) > TARGET_MAX)
        return request_refuse(req, 414, "the path is too long");
    if (MHD_get_connection_info(req->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE)->header_size >
        HEAD_MAX)
        return request_refuse(req, 431, "the request's head is too long");
    if (!http_guard_method(method))
        return request_refuse(req, 400, "the method holds a byte that it may not");
    if (req->is_bad_target)
        return request_refuse(req, 400, "the target holds a byte that it may not");
    MHD_get_connection_values_n(req->mhd, MHD_HEADER_KIND, guard_field, &guard);
    why = http_guard_verdict(&guard, strcmp(version, "HTTP/1.0") != 0);
    if (why)
        return request_refuse(req, 400, why);
    MHD_get_connection_values_n(req->mhd, MHD_GET_ARGUMENT_KIND, guard_parameter, &has_nul);
    if (has_nul)
        return request_refuse(req, 400, "a query parameter holds a NUL");

    limit = req->server->handler.body_limit(req->server->handler.ctx, method, req->path);
    if (guard.content_length > limit)
        return request_refuse(req, 413, "the body is larger than this request may have");
    req->body = BUF(limit);
    req->body_since_ms = clock_ms();
    req->phase = PHASE_BODY;
    conn_deadline(req, req->server->quick_ms);
    return MHD_YES;
}

/* A body may take its time by its size, so one that comes drop by drop ends. */
static enum MHD_Result take_body(struct http_request *req, const char *data, size_t len)
{
    int64_t due_ms;

    buf_append(&req->body, data, len);
    if (!buf_ok(&req->body))
        return request_refuse(req, 413, "the body is larger than this request may have");
    due_ms = req->body_since_ms + req->server->quick_ms +
             (int64_t)(req->body.len / SLOWEST_BYTES_PER_MS);
    conn_deadline(req, due_ms - clock_ms());
    return MHD_YES;
}

static enum MHD_Result send_answer(struct http_request *req)
{
    struct MHD_Response *response = req->response;
    enum MHD_Result queued = MHD_queue_response(req->mhd, (unsigned)req->status, response);

    req->response = NULL;
    MHD_destroy_response(response); /* the library holds one of its own now */
    req->phase = PHASE_SENDING;
    if (!req->stream)
        conn_deadline(req,
                      req->server->idle_ms + (int64_t)(req->response_len / SLOWEST_BYTES_PER_MS));
    return queued;
}

/* Called with the head, with each part of the body, at its end, and after each resume. */
enum MHD_Result request_part(void *cls, struct MHD_Connection *mhd, const char *url,
                             const char *method, const char *version, const char *data, size_t *len,
                             void **context)
{
    struct http_request *req = *context;

    (void)cls, (void)mhd, (void)url;
    if (req->phase < PHASE_HANDLED && req->server->is_dying)
        return MHD_NO;
    if (req->phase == PHASE_HEAD)
        return begin(req, method, version);
    if (*len > 0) {
        size_t n = *len;

        *len = 0;
        return take_body(req, data, n);
    }
    if (req->phase == PHASE_BODY) {
        req->phase = PHASE_HANDLED;
        req->server->n_open++;
        conn_no_deadline(req);
        req->server->handler.handle(req->server->handler.ctx, req);
        if (!req->response) {
            conn_suspend(req);
            return MHD_YES;
        }
    }
    return req->response ? send_answer(req) : MHD_NO; /* MHD_NO: nobody is there to be answered */
}

void request_completed(void *cls, struct MHD_Connection *mhd, void **context,
                       enum MHD_RequestTerminationCode how)
{
    struct http_request *req = *context;

    (void)cls, (void)mhd;
    if (req->phase == PHASE_BODY && how == MHD_REQUEST_TERMINATED_CLIENT_ABORT)
        (void)request_refuse(req, 400, "the body is shorter than announced");
    if (req->stream)
        stream_detach(req);
    if (req->websocket)
        websocket_drop(req);
    if (req->response)
        MHD_destroy_response(req->response);
    if (req->phase >= PHASE_HANDLED)
        req->server->n_open--;
    buf_free(&req->body);
    buf_free(&req->headers);
    free(req->path);
    req->phase = PHASE_IDLE;
    req->method = NULL;
    req->path = NULL;
    req->response = NULL;
    req->gone = NULL;
    req->is_gone = false;
    conn_deadline(req, req->server->idle_ms);
    if (req->server->is_stopping)
        conn_cut(req);
}

const char *http_method(const struct http_request *req)
{
    return req->method;
}

const char *http_path(const struct http_request *req)
{
    return req->path;
}

const char *http_header(const struct http_request *req, const char *name)
{
    return MHD_lookup_connection_value(req->mhd, MHD_HEADER_KIND, name);
}

const struct buf *http_body(const struct http_request *req)
{
    return &req->body;
}

struct http_peer http_peer(const struct http_request *req)
{
    return req->peer;
}

struct lookup {
    const char *key;
    const char *value;
};

/* The library's own look-up takes "State" for "state". */
static enum MHD_Result find_parameter(void *cls, enum MHD_ValueKind kind, const char *key,
                                      const char *value)
{
    struct lookup *l = cls;

    (void)kind;
    if (strcmp(key, l->key) != 0)
        return MHD_YES;
    l->value = value ? value : "";
    return MHD_NO; /* the first one counts */
}

const char *http_query(const struct http_request *req, const char *key)
{
    struct lookup l = {.key = key};

    MHD_get_connection_values(req->mhd, MHD_GET_ARGUMENT_KIND, find_parameter, &l);
    return l.value;
}

struct each {
    void (*fn)(void *arg, const char *key, const char *value);
    void *arg;
};

static enum MHD_Result each_parameter(void *cls, enum MHD_ValueKind kind, const char *key,
                                      const char *value)
{
    const struct each *each = cls;

    (void)kind;
    each->fn(each->arg, key, value ? value : "");
    return MHD_YES;
}

void http_each_query(struct http_request *req,
                     void (*fn)(void *arg, const char *key, const char *value), void *arg)
{
    struct each each = {fn, arg};

    MHD_get_connection_values(req->mhd, MHD_GET_ARGUMENT_KIND, each_parameter, &each);
}

enum { ANSWER_HEADERS_MAX = 16 << 10 };

void http_add_header(struct http_request *req, const char *name, const char *value)
{
    req->headers.max = ANSWER_HEADERS_MAX;
    buf_append(&req->headers, name, strlen(name) + 1);
    buf_append(&req->headers, value, strlen(value) + 1);
}

/* Hands the answer over: now, if the handler is still running, else when the library asks again. */
void request_answer(struct http_request *req, int status, const char *content_type,
                    struct MHD_Response *response)
{
    const char *p = buf_str(&req->headers);
    const char *end = p + req->headers.len;

    assert(response);
    if (content_type)
        MHD_add_response_header(response, "Content-Type", content_type);
    while (p < end) {
        const char *value = p + strlen(p) + 1;

        MHD_add_response_header(response, p, value); /* refuses what would break the head */
        p = value + strlen(value) + 1;
    }
    if (req->server->is_stopping)
        MHD_add_response_header(response, "Connection", "close");
    req->status = status;
    if (req->is_gone)
        MHD_destroy_response(response);
    else
        req->response = response;
    conn_resume(req);
}

void http_reply(struct http_request *req, int status, const char *content_type, struct buf *body)
{
    struct buf own = body ? *body : BUF(0);

    if (body)
        *body = BUF(body->max);
    if (!buf_ok(&own)) {
        buf_free(&own);
        own.max = 512;
        status = 500;
        content_type = "application/json";
        error_body(&own, status, "the answer passed its limit");
    }
    http_reply_shared(
        req, status, content_type, &(struct http_shared){own.data, own.len, free, own.data});
}

void http_reply_shared(struct http_request *req, int status, const char *content_type,
                       const struct http_shared *body)
{
    void *data = (void *)(uintptr_t)body->data; /* which the library only reads */

    req->response_len = body->len;
    request_answer(req,
                   status,
                   content_type,
                   MHD_create_response_from_buffer_with_free_callback_cls(
                       body->len, data, body->release, body->arg));
}

void http_on_gone(struct http_request *req, void (*gone)(void *arg), void *arg)
{
    req->gone = gone;
    req->gone_arg = arg;
    if (req->hangup.fd < 0)
        listener_wake(req->listener); /* it has hung up already */
}

/* The client is not there any more, or, when the server is freed, does not count any more. */
void request_gone(struct http_request *req)
{
    void (*gone)(void *arg) = req->gone;

    if (req->stream) {
        stream_detach(req);
        conn_cut(req);
        conn_resume(req);
        return;
    }
    req->is_gone = !req->server->is_dying;
    req->gone = NULL;
    if (gone)
        gone(req->gone_arg);
}
