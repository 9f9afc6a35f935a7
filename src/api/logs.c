/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/handlers.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/parse.h"
#include "loop/fswatch.h"

/*
 * GET /instances/{id}/logs: server-sent events, one JSON string a line.
 *
 * The files are read by short jobs, a chunk each; between them the stream waits,
 * for the client to take what it was sent or, when following, for the file to
 * grow (inotify). A follower ends when the instance has stopped and all was sent,
 * or is gone.
 */

enum {
    CHUNK = 64 * 1024,
    LINE_MAX_BYTES = 256 * 1024, /* longer ones are sent in pieces */
    BUFFERED_MAX = 2 * 1024 * 1024,
    TAIL_DEFAULT = 100,
    TAIL_MAX = 1000000,
    TAIL_BYTES = 16 * 1024 * 1024, /* how far back a tail looks */
};

struct log_stream {
    struct vm_world *world;
    struct call *call;        /* until the first chunk is read: then it is a stream, or an error */
    struct http_stream *http; /* NULL until then */
    char id[ID_SIZE];
    const char *file_name;
    uint64_t tail; /* lines; 0: all */
    bool follow;

    int fd;          /* -1 until the first job has opened it */
    off_t at;        /* of the next read */
    struct buf line; /* an unfinished one */
    bool line_due;   /* or a whole one that the client has no room for yet */
    struct fswatch grown;
    bool watching;
    struct instance_waiter waiter; /* a follower ends with the VM */
    bool gone;                     /* the client is; ends when the job is back */

    bool busy;  /* a job is under way */
    bool again; /* something changed meanwhile: read once more */
    struct job job;
    char *chunk;
    ssize_t n;    /* in the chunk */
    ssize_t used; /* of it */
};

static void end(struct log_stream *s)
{
    fswatch_remove(s->world->files, &s->grown);
    if (s->follow)
        instance_unwait(&s->waiter);
    if (s->fd >= 0)
        close(s->fd);
    if (s->http)
        http_stream_close(s->http);
    buf_free(&s->line);
    free(s->chunk);
    free(s);
}

/* --- worker --- */

/* Where the last n lines begin. */
static int find_tail(struct log_stream *s, struct err *e)
{
    struct stat st;
    off_t floor;
    off_t at;
    uint64_t newlines = 0;

    if (s->tail == 0)
        return 0;
    if (fstat(s->fd, &st) < 0)
        return err_errno(e, "read the log");
    floor = st.st_size > TAIL_BYTES ? st.st_size - TAIL_BYTES : 0;
    for (at = st.st_size; at > floor;) {
        size_t want = at - floor < CHUNK ? (size_t)(at - floor) : CHUNK;
        ssize_t n = pread(s->fd, s->chunk, want, at - (off_t)want);

        if (n <= 0)
            break;
        for (ssize_t i = n - 1; i >= 0; i--) {
            bool is_last = at - (off_t)want + i == st.st_size - 1;

            if (s->chunk[i] == '\n' && !is_last && ++newlines == s->tail) {
                s->at = at - (off_t)want + i + 1;
                return 0;
            }
        }
        at -= (off_t)want;
    }
    s->at = floor;
    return 0;
}

static int open_log(struct log_stream *s, struct err *e)
{
    auto_close int dir_fd = env_open_instance(&s->world->env, s->id, e);

    if (dir_fd < 0)
        return -1;
    s->fd = openat(dir_fd, s->file_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (s->fd < 0 && errno == ENOENT) {
        err_set(e, ERR_NOT_FOUND, "this instance has no such log yet");
        return err_slug(e, "log_not_found");
    }
    if (s->fd < 0)
        return err_errno(e, "open %s", s->file_name);
    return find_tail(s, e);
}

/* The head of a long log has been given back to the disk: what is left begins at the first data. */
static void skip_hole(struct log_stream *s)
{
    off_t data = lseek(s->fd, s->at, SEEK_DATA);

    if (data > s->at)
        s->at = data;
}

static void read_run(struct job *job)
{
    struct log_stream *s = container_of(job, struct log_stream, job);

    if (s->fd < 0 && open_log(s, &job->err) < 0)
        return;
    skip_hole(s);
    s->n = pread(s->fd, s->chunk, CHUNK, s->at);
    if (s->n < 0)
        err_errno(&job->err, "read %s", s->file_name);
    else
        s->at += s->n;
}

/* --- loop --- */

static void step(struct log_stream *s);

/* False when the client has no room for it: it stays due. */
static bool send_line(struct log_stream *s)
{
    struct buf event = BUF(8 * LINE_MAX_BYTES);
    struct jout j = JOUT(&event);
    size_t n = s->line.len;

    if (n > 0 && s->line.data[n - 1] == '\r') /* a serial console ends its lines with both */
        n--;
    buf_puts(&event, "data: ");
    jout_strn(&j, NULL, buf_str(&s->line), n);
    buf_puts(&event, "\n\n");
    s->line_due = http_stream_write(s->http, event.data, event.len) < 0;
    buf_free(&event);
    if (!s->line_due)
        buf_reset(&s->line);
    return !s->line_due;
}

/* Sends what the chunk holds; false when the client has to take some of it first. */
static bool send_chunk(struct log_stream *s)
{
    if (s->line_due && !send_line(s))
        return false;
    while (s->used < s->n) {
        char c = s->chunk[s->used++];

        if (c != '\n')
            buf_append(&s->line, &c, 1);
        if ((c == '\n' || s->line.len == LINE_MAX_BYTES) && !send_line(s))
            return false;
    }
    return true;
}

/* Whether more can come: from a VM that runs, or from one that an operation is bringing up. */
static bool may_grow(const struct log_stream *s)
{
    const struct instance *row = table_by_id(&s->world->table, s->id);

    return row &&
           (row->holder || vm_state_has_process(row->run.state) || row->run.state == VM_STANDBY);
}

/* The end of the file: for a follower, wait for more. */
static void at_end(struct log_stream *s)
{
    struct err e = {0};

    if (!s->follow || !may_grow(s)) {
        if (s->line.len == 0 || send_line(s))
            end(s);
    } else if (!s->watching) {
        s->watching = fswatch_add(s->world->files, &s->grown, s->fd, &e) == 0;
        if (s->watching) {
            step(s); /* what came between the read and the watch */
        } else {
            log_warn("log of instance %s cannot be followed: %s", s->id, e.msg);
            end(s);
        }
    } else if (s->again) {
        step(s);
    }
}

static void client_gone(void *arg)
{
    struct log_stream *s = arg;

    s->gone = true;
    if (!s->busy)
        end(s);
}

static void client_took(void *arg)
{
    struct log_stream *s = arg;

    if (s->line_due && send_chunk(s))
        step(s);
}

/* The log is there: from here on the answer is a stream. False when it was an error instead. */
static bool answer_first(struct log_stream *s, const struct err *e)
{
    struct http_stream_events events = {.gone = client_gone, .drained = client_took, .arg = s};
    struct call *c = s->call;

    s->call = NULL;
    if (e->code != ERR_NONE) {
        call_fail(c, e);
        return false;
    }
    http_add_header(c->http, "Cache-Control", "no-cache");
    http_add_header(c->http, "X-Accel-Buffering", "no");
    s->http = http_stream_open(c->http, "text/event-stream", BUFFERED_MAX, &events);
    call_done(c);
    return true;
}

static void read_done(struct job *job)
{
    struct log_stream *s = container_of(job, struct log_stream, job);

    s->busy = false;
    s->used = 0;
    if (s->call && !answer_first(s, &job->err)) {
        end(s);
    } else if (s->gone) {
        end(s);
    } else if (job->err.code != ERR_NONE) {
        log_info("log of instance %s: %s", s->id, job->err.msg);
        end(s);
    } else if (s->n == 0) {
        at_end(s);
    } else if (send_chunk(s)) {
        step(s);
    }
}

/* Reads the next chunk, unless the last one is still being read or sent. */
static void step(struct log_stream *s)
{
    struct err e = {0};

    s->again = true;
    if (s->busy || s->line_due)
        return;
    s->again = false;
    s->job = (struct job){
        .run = read_run,
        .done = read_done,
        .kind = VM_JOB_NOTE,
        .timeout_ms = 30000,
    };
    s->busy = true;
    if (jobs_submit(s->world->jobs, &s->job, &e) < 0) {
        s->job.err = e;
        s->n = 0;
        read_done(&s->job);
    }
}

static void grown(struct fswatch *w)
{
    step(container_of(w, struct log_stream, grown));
}

static void instance_told(struct instance_waiter *w, const struct instance *row)
{
    (void)row;
    step(container_of(w, struct log_stream, waiter));
}

static const char *file_of(const char *source)
{
    if (!source || !*source || strcmp(source, "app") == 0)
        return VMM_SERIAL_LOG;
    return strcmp(source, "vmm") == 0       ? VMM_VMM_LOG
           : strcmp(source, "hypeman") == 0 ? VM_OPERATIONS_LOG
                                            : NULL;
}

static int decode(struct call *c, struct log_stream *s, struct err *e)
{
    const char *tail = http_query(c->http, "tail");
    const char *follow = http_query(c->http, "follow");

    s->file_name = file_of(http_query(c->http, "source"));
    s->tail = TAIL_DEFAULT;
    s->follow = follow && strcmp(follow, "true") == 0;
    if (!s->file_name) {
        err_set(e, ERR_INVALID, "source must be app, vmm or hypeman");
        return err_slug(e, "invalid_source");
    }
    if (tail && strcmp(tail, "all") == 0) {
        s->tail = 0;
    } else if (tail && *tail && !parse_u64(tail, 1, TAIL_MAX, &s->tail)) {
        err_set(e, ERR_INVALID, "tail must be a number from 1 to %d, or \"all\"", TAIL_MAX);
        return err_slug(e, "invalid_tail");
    }
    if (follow && *follow && !s->follow && strcmp(follow, "false") != 0) {
        err_set(e, ERR_INVALID, "follow must be true or false");
        return err_slug(e, "Bad Request");
    }
    return 0;
}

void api_instances_logs(struct call *c)
{
    struct log_stream *s = mem_new(struct log_stream);
    struct err e = {0};

    if (decode(c, s, &e) < 0) {
        free(s);
        call_fail(c, &e);
        return;
    }
    s->world = c->api->world;
    s->call = c;
    memcpy(s->id, c->row->id, sizeof(s->id));
    s->fd = -1;
    s->line = BUF(LINE_MAX_BYTES);
    s->chunk = mem_zalloc(1, CHUNK);
    s->grown.fn = grown;
    if (s->follow) {
        s->waiter.fn = instance_told;
        instance_wait(c->row, &s->waiter);
    }
    step(s);
}
