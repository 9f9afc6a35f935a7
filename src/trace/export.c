/* SPDX-License-Identifier: Apache-2.0 */
#include "trace/export.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/parse.h"
#include "loop/thread.h"

enum {
    QUEUE = 512,
    BATCH = 64,
    BODY_MAX = 4 << 20,
    STACK_BYTES = 512 * 1024,
    SHARE_SCALE = 1000000,
    SILENT_AFTER = 1, /* failures in a row that are told; the rest only count */
};

struct trace_exporter {
    char *url;
    char *service;
    struct curl_slist *headers;
    long timeout_ms;
    uint64_t read_share; /* of SHARE_SCALE */
    uint64_t read_sum;   /* loop: a read is sent each time this passes SHARE_SCALE */
    unsigned failures;   /* thread: in a row */

    atomic_uint_fast64_t sent;
    atomic_uint_fast64_t dropped;
    atomic_bool is_ending;

    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows; never held while anything waits */
    pthread_cond_t wake;
    struct trace *queue; /* a ring of QUEUE, made with the first trace */
    size_t first;
    size_t n;
};

/* --- the thread --- */

/* Waits for traces; 0 when there is to be an end. */
static size_t take_batch(struct trace_exporter *x, struct trace out[BATCH])
{
    size_t n = 0;

    pthread_mutex_lock(&x->lock);
    while (x->n == 0 && !atomic_load(&x->is_ending))
        pthread_cond_wait(&x->wake, &x->lock);
    while (!atomic_load(&x->is_ending) && x->n > 0 && n < BATCH) {
        out[n++] = x->queue[x->first];
        x->first = (x->first + 1) % QUEUE;
        x->n--;
    }
    pthread_mutex_unlock(&x->lock);
    return n;
}

static size_t ignore_answer(const char *data, size_t size, size_t n, void *arg)
{
    (void)data, (void)arg;
    return size * n;
}

static int end_early(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)a, (void)b, (void)c, (void)d;
    return atomic_load(&((struct trace_exporter *)arg)->is_ending);
}

static curl_socket_t on_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *name)
{
    (void)arg, (void)purpose;
    return socket(name->family, name->socktype | SOCK_CLOEXEC, name->protocol);
}

static void send_batch(struct trace_exporter *x, CURL *curl, const struct trace *batch, size_t n)
{
    auto_buf struct buf body = BUF(BODY_MAX);
    long status = 0;
    CURLcode rc;

    trace_export_write(&body, x->service, batch, n);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, buf_str(&body));
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)body.len);
    rc = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (rc == CURLE_OK && status / 100 == 2) {
        atomic_fetch_add(&x->sent, n);
        x->failures = 0;
        return;
    }
    atomic_fetch_add(&x->dropped, n);
    if (x->failures++ < SILENT_AFTER && !atomic_load(&x->is_ending))
        log_warn("the collector at %s does not take traces (%s, status %ld); they are dropped",
                 x->url,
                 curl_easy_strerror(rc),
                 status);
}

static void *sender(void *arg)
{
    struct trace_exporter *x = arg;
    struct trace *batch = mem_zalloc(BATCH, sizeof(*batch));
    CURL *curl = curl_easy_init();
    size_t n;

    if (!curl)
        abort(); /* out of memory */
    curl_easy_setopt(curl, CURLOPT_URL, x->url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, x->headers);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, x->timeout_ms);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, ignore_answer);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, end_early);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, x);
    curl_easy_setopt(curl, CURLOPT_OPENSOCKETFUNCTION, on_socket);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    while ((n = take_batch(x, batch)) > 0)
        send_batch(x, curl, batch, n);
    curl_easy_cleanup(curl);
    free(batch);
    return NULL;
}

/* --- the loop's side --- */

static bool is_sampled(struct trace_exporter *x)
{
    x->read_sum += x->read_share;
    if (x->read_sum < SHARE_SCALE)
        return false;
    x->read_sum -= SHARE_SCALE;
    return true;
}

void trace_export(struct trace_exporter *x, const struct trace *t, bool is_read)
{
    bool fits;

    if (!x || t->n == 0 || (is_read && !t->failed && !is_sampled(x)))
        return;
    pthread_mutex_lock(&x->lock);
    if (!x->queue)
        x->queue = mem_zalloc(QUEUE, sizeof(*x->queue));
    fits = x->n < QUEUE;
    if (fits)
        x->queue[(x->first + x->n++) % QUEUE] = *t;
    pthread_cond_signal(&x->wake);
    pthread_mutex_unlock(&x->lock);
    if (!fits)
        atomic_fetch_add(&x->dropped, 1);
}

struct trace_export_counts trace_export_counts(const struct trace_exporter *x)
{
    if (!x)
        return (struct trace_export_counts){0};
    return (struct trace_export_counts){atomic_load(&x->sent), atomic_load(&x->dropped)};
}

/* --- settings --- */

static const char *setting(const char *name, const char *otherwise)
{
    const char *value = getenv(name);

    return value && *value ? value : otherwise;
}

static char *find_url(void)
{
    const char *whole = setting("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", NULL);
    const char *base = setting("OTEL_EXPORTER_OTLP_ENDPOINT", NULL);

    if (strcmp(setting("OTEL_SDK_DISABLED", "false"), "true") == 0)
        return NULL;
    if (whole || !base)
        return whole ? mem_strdup(whole) : NULL;
    return mem_printf("%s%sv1/traces", base, base[strlen(base) - 1] == '/' ? "" : "/");
}

/* "0.1" as a number of SHARE_SCALE. */
static bool parse_share(const char *text, uint64_t *out)
{
    char *end = NULL;
    double share = strtod(text, &end);

    if (end == text || *end || !(share >= 0 && share <= 1))
        return false;
    *out = (uint64_t)(share * SHARE_SCALE);
    return true;
}

static struct curl_slist *add_header(struct curl_slist *list, char *pair)
{
    char *equals = strchr(pair, '=');
    char *value;
    char *line;

    if (!equals)
        return list;
    *equals = '\0';
    value = curl_easy_unescape(NULL, equals + 1, 0, NULL);
    line = mem_printf("%s: %s", pair, value ? value : "");
    list = curl_slist_append(list, line);
    free(line);
    curl_free(value);
    return list;
}

static struct curl_slist *find_headers(void)
{
    auto_free char *pairs = mem_strdup(setting("OTEL_EXPORTER_OTLP_HEADERS", ""));
    struct curl_slist *list = curl_slist_append(NULL, "Content-Type: application/json");
    char *rest = NULL;

    for (char *pair = strtok_r(pairs, ",", &rest); pair; pair = strtok_r(NULL, ",", &rest))
        list = add_header(list, pair);
    return curl_slist_append(list, "Expect:");
}

static int start_thread(struct trace_exporter *x, struct err *e)
{
    int rc = thread_start(&x->thread, STACK_BYTES, sender, x);

    return rc == 0 ? 0 : err_set(e, ERR_LIMIT, "start the exporter's thread: %s", strerror(rc));
}

static void release(struct trace_exporter *x)
{
    pthread_cond_destroy(&x->wake);
    pthread_mutex_destroy(&x->lock);
    curl_slist_free_all(x->headers);
    free(x->queue);
    free(x->service);
    free(x->url);
    free(x);
}

struct trace_exporter *trace_exporter_new(struct err *e)
{
    const char *timeout = setting("OTEL_EXPORTER_OTLP_TIMEOUT", "10000");
    const char *share = setting("OTEL_TRACES_SAMPLER_ARG", "0.1");
    char *url = find_url();
    struct trace_exporter *x;
    uint64_t ms;

    if (!url)
        return NULL;
    x = mem_new(struct trace_exporter);
    x->url = url;
    x->service = mem_strdup(setting("OTEL_SERVICE_NAME", "hypeman"));
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->wake, NULL);
    if (!parse_u64(timeout, 1, 600000, &ms))
        err_set(e, ERR_INVALID, "OTEL_EXPORTER_OTLP_TIMEOUT is no number of milliseconds");
    else if (!parse_share(share, &x->read_share))
        err_set(e, ERR_INVALID, "OTEL_TRACES_SAMPLER_ARG is no number from 0 to 1");
    else if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        err_set(e, ERR_INTERNAL, "libcurl does not start");
    if (e->code == ERR_NONE) {
        x->timeout_ms = (long)ms;
        x->headers = find_headers();
        if (start_thread(x, e) == 0)
            return x;
    }
    release(x);
    return NULL;
}

void trace_exporter_free(struct trace_exporter *x)
{
    if (!x)
        return;
    pthread_mutex_lock(&x->lock);
    atomic_store(&x->is_ending, true);
    pthread_cond_signal(&x->wake);
    pthread_mutex_unlock(&x->lock);
    pthread_join(x->thread, NULL);
    release(x);
}
