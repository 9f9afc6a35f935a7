/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cloud_hypervisor.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/parse.h"
#include "base/scm.h"
#include "vmm/http_answer.h"
#include "vmm/sock.h"
#include "vmm/start.h"

enum { ANSWER_MAX = 256 * 1024, REQUEST_MAX = 64 * 1024, CHUNK = 4096, REASON_MAX = 400 };

#define PREFIX "/api/v1/"

unsigned cloud_hypervisor_version(const struct vmm_host *host)
{
    char major[sizeof(host->cloud_hypervisor_version)];
    uint64_t n;

    (void)snprintf(major, sizeof(major), "%s", host->cloud_hypervisor_version);
    major[strcspn(major, ".-+")] = '\0';
    return parse_u64(major, 1, 9999, &n) ? (unsigned)n : 0;
}

enum vmm_status cloud_hypervisor_status(const char *json, size_t len)
{
    static const struct {
        const char *state;
        enum vmm_status status;
    } states[] = {
        {"Created", VMM_STATUS_CREATED},
        {"Running", VMM_STATUS_RUNNING},
        {"Paused", VMM_STATUS_PAUSED},
        {"BreakPoint", VMM_STATUS_PAUSED},
        {"Shutdown", VMM_STATUS_SHUTDOWN},
    };
    struct err ignored = {0};
    json_auto_t *info = parse_json(json, len, &ignored);
    const char *state = json_string_value(json_object_get(info, "state"));

    for (size_t i = 0; state && i < sizeof(states) / sizeof(states[0]); i++) {
        if (strcmp(states[i].state, state) == 0)
            return states[i].status;
    }
    return VMM_STATUS_UNKNOWN;
}

/* The chain of errors, outermost first, without the trace that follows in some. */
static void join_reasons(struct buf *out, const char *body, size_t len)
{
    struct err ignored = {0};
    json_auto_t *chain = parse_json(body, len, &ignored);
    const json_t *link;
    size_t i;

    json_array_foreach(chain, i, link)
    {
        const char *text = json_string_value(link);

        if (!text || (i == 0 && json_array_size(chain) > 1)) /* "Error from API" */
            continue;
        buf_printf(out, "%s%.*s", out->len ? ": " : "", (int)strcspn(text, "\n"), text);
    }
    if (out->len == 0)
        buf_printf(out, "%.*s", (int)strcspn(body, "\r\n"), body);
}

static int judge(const char *request, int status, const char *body, size_t len, struct err *e)
{
    auto_buf struct buf reasons = BUF(REQUEST_MAX);

    if (status == 200 || status == 204)
        return 0;
    join_reasons(&reasons, body, len);
    return err_set(e,
                   strstr(buf_str(&reasons), "No space left") ? ERR_NO_SPACE : ERR_INTERNAL,
                   "Cloud Hypervisor answered %s with %d: %.*s",
                   request,
                   status,
                   REASON_MAX,
                   reasons.len ? buf_str(&reasons) : "no reason given");
}

int cloud_hypervisor_call(const struct op *op, struct http_client *c, const char *request,
                          const char *body, struct buf *answer, struct err *e)
{
    auto_buf struct buf own = BUF(ANSWER_MAX);
    auto_buf struct buf line = BUF(128);
    struct buf *to = answer ? answer : &own;
    int status;

    buf_printf(&line, "%.3s " PREFIX "%s", request, request + 4);
    status = http_call(op, c, buf_str(&line), body, to, e);
    if (status < 0) {
        if (e->code == ERR_INTERNAL)
            e->code = ERR_NOT_FOUND;
        return -1;
    }
    return judge(request, status, buf_str(to), to->len, e);
}

int cloud_hypervisor_command(const struct op *op, const struct vmm_handle *vm, const char *request,
                             const char *body, struct buf *answer, struct err *e)
{
    struct http_client *c = vmm_api_client(vm->dir_fd);
    int rc = cloud_hypervisor_call(op, c, request, body, answer, e);

    http_client_free(c);
    return rc;
}

/* The fd goes with the first bytes; the request is far smaller than the socket's buffer. */
static int send_with(int sock, int fd, const struct buf *text, struct err *e)
{
    if (scm_send(sock, text->data, text->len, fd) != (ssize_t)text->len) {
        err_errno(e, "send a request with a file");
        e->code = ERR_NOT_FOUND;
        return -1;
    }
    return 0;
}

static int receive(const struct op *op, int sock, struct buf *in, struct http_answer *out,
                   struct err *e)
{
    for (;;) {
        char chunk[CHUNK];
        ssize_t n;
        int rc;

        if (op_wait(op, sock, POLLIN, e) < 0)
            return -1;
        n = recv(sock, chunk, sizeof(chunk), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            return err_set(e, ERR_NOT_FOUND, "the connection broke");
        buf_append(in, chunk, (size_t)n);
        rc = buf_ok(in) ? http_answer_parse(buf_str(in), in->len, out, e)
                        : err_set(e, ERR_TOO_LARGE, "the answer is too long");
        if (rc < 0)
            e->code = ERR_NOT_FOUND; /* of no more use than one that broke */
        if (rc != 0)
            return rc;
    }
}

int cloud_hypervisor_call_with(const struct op *op, int dir_fd, int fd, const char *request,
                               const char *body, struct err *e)
{
    auto_close int sock = sock_connect(dir_fd, VMM_API_SOCKET, e);
    auto_buf struct buf text = BUF(REQUEST_MAX);
    auto_buf struct buf in = BUF(ANSWER_MAX);
    struct http_answer a = {0};

    buf_printf(&text,
               "%.3s " PREFIX "%s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
               "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
               request,
               request + 4,
               strlen(body),
               body);
    if (sock < 0 || op_sleep(op, 0, e) < 0 || send_with(sock, fd, &text, e) < 0 ||
        receive(op, sock, &in, &a, e) < 0)
        return err_wrap(e, "%s", request);
    return judge(request, a.status, a.body, a.body_len, e);
}
