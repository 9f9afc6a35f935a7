/* SPDX-License-Identifier: Apache-2.0 */
#include "http/client.h"

#include <curl/curl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"

struct http_client {
    /* Only it can wait for the cancel fd as well. Its own pair of sockets is not CLOEXEC, which
     * proc_spawn() makes good. */
    CURLM *multi;
    CURL *easy;
    struct curl_slist *headers;
    char *peer;
    bool has_head; /* the answer's, all of it */
    char why[CURL_ERROR_SIZE];
};

static void init_library(void)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        abort();
}

static size_t on_answer(char *data, size_t size, size_t n, void *arg)
{
    struct buf *answer = arg;

    buf_append(answer, data, size * n);
    return buf_ok(answer) ? size * n : 0; /* less than there was ends the transfer */
}

/* An answer that ends within its head is good enough for curl. */
static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
    struct http_client *c = arg;

    c->has_head = size * n == 2 && memcmp(line, "\r\n", 2) == 0;
    return size * n;
}

static curl_socket_t on_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *name)
{
    (void)arg, (void)purpose;
    return socket(name->family, name->socktype | SOCK_CLOEXEC, name->protocol);
}

struct http_client *http_client_new(const char *unix_path)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct http_client *c = mem_new(struct http_client);

    (void)pthread_once(&once, init_library);
    c->peer = mem_strdup(unix_path);
    c->multi = curl_multi_init();
    c->easy = curl_easy_init();
    c->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (!c->multi || !c->easy || !c->headers || !curl_slist_append(c->headers, "Expect:"))
        abort(); /* out of memory */
    return c;
}

void http_client_free(struct http_client *c)
{
    if (!c)
        return;
    curl_easy_cleanup(c->easy);
    curl_multi_cleanup(c->multi);
    curl_slist_free_all(c->headers);
    free(c->peer);
    free(c);
}

static void prepare(struct http_client *c, const char *method, const char *url,
                    const char *json_body, struct buf *answer)
{
    curl_easy_reset(c->easy); /* keeps the connection */
    curl_easy_setopt(c->easy, CURLOPT_UNIX_SOCKET_PATH, c->peer);
    curl_easy_setopt(c->easy, CURLOPT_OPENSOCKETFUNCTION, on_socket);
    curl_easy_setopt(c->easy, CURLOPT_URL, url);
    curl_easy_setopt(c->easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c->easy, CURLOPT_PROXY, ""); /* not the environment's */
    curl_easy_setopt(c->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->easy, CURLOPT_ERRORBUFFER, c->why);
    curl_easy_setopt(c->easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c->easy, CURLOPT_HEADERDATA, c);
    curl_easy_setopt(c->easy, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(c->easy, CURLOPT_WRITEDATA, answer);
    if (json_body) {
        curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, c->headers);
        curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, json_body);
    }
    curl_easy_setopt(c->easy, CURLOPT_CUSTOMREQUEST, method);
}

/* Drives the transfer until it has ended, for better or worse, or the op has. */
static int transfer(const struct op *op, struct http_client *c, struct err *e)
{
    struct curl_waitfd cancel = {.fd = op->cancel_fd, .events = CURL_WAIT_POLLIN};
    int running;

    for (;;) {
        CURLMcode rc = curl_multi_perform(c->multi, &running);
        int64_t left = op->deadline_ms - clock_ms();

        if (rc != CURLM_OK)
            return err_set(e, ERR_INTERNAL, "%s", curl_multi_strerror(rc));
        if (running == 0)
            return 0;
        if (left <= 0)
            return err_set(e, ERR_TIMEOUT, "deadline passed");
        rc = curl_multi_poll(
            c->multi, &cancel, op->cancel_fd >= 0, left > INT_MAX ? INT_MAX : (int)left, NULL);
        if (rc != CURLM_OK)
            return err_set(e, ERR_INTERNAL, "%s", curl_multi_strerror(rc));
        if (cancel.revents)
            return err_set(e, ERR_CANCELLED, "cancelled");
    }
}

static int judge(struct http_client *c, const struct buf *answer, struct err *e)
{
    int left;
    const CURLMsg *msg = curl_multi_info_read(c->multi, &left);
    CURLcode rc = msg ? msg->data.result : CURLE_FAILED_INIT;
    long status = 0;
    long sys = 0;

    if (!buf_ok(answer))
        return err_set(e, ERR_TOO_LARGE, "the answer is longer than %zu bytes", answer->max);
    if (rc == CURLE_COULDNT_CONNECT) { /* whose text speaks of port 80 */
        curl_easy_getinfo(c->easy, CURLINFO_OS_ERRNO, &sys);
        return err_set(e, ERR_INTERNAL, "connect to %s: %s", c->peer, strerrordesc_np((int)sys));
    }
    if (rc != CURLE_OK)
        return err_set(e, ERR_INTERNAL, "%s", c->why[0] ? c->why : curl_easy_strerror(rc));
    if (!c->has_head)
        return err_set(e, ERR_INTERNAL, "the answer was cut short");
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    return (int)status;
}

int http_call(const struct op *op, struct http_client *c, const char *request,
              const char *json_body, struct buf *answer, struct err *e)
{
    const char *path = strchrnul(request, ' ');
    auto_free char *method = mem_printf("%.*s", (int)(path - request), request);
    auto_free char *url = mem_printf("http://localhost%s", path + (*path == ' '));
    int rc;

    c->why[0] = '\0';
    c->has_head = false;
    prepare(c, method, url, json_body, answer);
    rc = op_sleep(op, 0, e); /* nothing is sent for an operation that has ended */
    if (rc == 0) {
        curl_multi_add_handle(c->multi, c->easy);
        rc = transfer(op, c, e);
        if (rc == 0)
            rc = judge(c, answer, e);
        curl_multi_remove_handle(c->multi, c->easy); /* ends what is still under way */
    }
    return rc < 0 ? err_wrap(e, "%s", request) : rc;
}
