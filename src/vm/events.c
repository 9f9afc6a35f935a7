/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/events.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/parse.h"
#include "store/store.h"

#define META_KEY "revision"
#define FILE_NAME "events"

#define REVISION_MAX (1ULL << 53) /* what a client's JSON can still tell apart */

enum {
    BLOCK = 1 << 24, /* hours of the busiest host; 2^53 is far away all the same */
    FILE_MAX = 4 * JOURNAL_BYTES,
};

/* --- rows --- */

struct row_text *row_text_new(const char *json, size_t len)
{
    struct row_text *t = mem_zalloc(1, sizeof(*t) + len + 1);

    t->refs = 1;
    t->len = (uint32_t)len;
    memcpy(t->json, json, len);
    return t;
}

struct row_text *row_text_ref(struct row_text *t)
{
    t->refs++;
    return t;
}

void row_text_unref(struct row_text *t)
{
    if (t && --t->refs == 0)
        free(t);
}

const char *event_kind_name(enum event_kind k)
{
    static const char *const names[] = {
        [EVENT_CREATED] = "created", [EVENT_UPDATED] = "updated", [EVENT_DELETED] = "deleted"};

    return names[k];
}

/* --- the ring --- */

void journal_init(struct journal *j)
{
    *j = (struct journal){.oldest = 1};
    list_init(&j->followers);
}

static struct event *slot(const struct journal *j, uint64_t revision)
{
    return &j->ring[revision % JOURNAL_ENTRIES];
}

static void drop_oldest(struct journal *j)
{
    struct event *e = slot(j, j->oldest++);

    j->bytes -= e->row ? e->row->len : 0;
    row_text_unref(e->row);
    e->row = NULL;
}

void journal_free(struct journal *j)
{
    while (j->oldest <= j->revision && j->ring)
        drop_oldest(j);
    free(j->ring);
    *j = (struct journal){0};
}

static void keep(struct journal *j, const struct event *event)
{
    if (!j->ring)
        j->ring = mem_zalloc(JOURNAL_ENTRIES, sizeof(*j->ring));
    j->bytes += event->row ? event->row->len : 0;
    while (j->oldest < event->revision &&
           (event->revision - j->oldest >= JOURNAL_ENTRIES || j->bytes > JOURNAL_BYTES))
        drop_oldest(j);
    *slot(j, event->revision) = *event;
}

const struct event *journal_at(const struct journal *j, uint64_t revision)
{
    return revision >= j->oldest && revision <= j->revision ? slot(j, revision) : NULL;
}

bool journal_reaches(const struct journal *j, uint64_t revision)
{
    return revision <= j->revision && revision + 1 >= j->oldest;
}

void journal_follow(struct journal *j, struct follower *f)
{
    list_append(&j->followers, &f->link);
}

void journal_unfollow(struct follower *f)
{
    list_remove(&f->link);
}

/* --- revisions --- */

struct reservation {
    struct store_done done;
    struct journal *journal;
    uint64_t upto;
};

static void reserved(struct store_done *done, const struct err *result)
{
    struct reservation *r = container_of(done, struct reservation, done);

    r->journal->is_reserving = false;
    if (result->code == ERR_NONE)
        r->journal->reserved = r->upto;
    else
        log_error("revisions are not reserved, to be tried again: %s", result->msg);
    free(r);
}

/* Half a block ahead of need: a slow disk has hours. */
static void reserve_ahead(struct journal *j)
{
    struct reservation *r;
    struct store_change *change;

    if (j->is_reserving || !j->store || j->revision + BLOCK / 2 < j->reserved)
        return;
    r = mem_new(struct reservation);
    change = store_change_new();
    r->journal = j;
    r->upto = j->reserved + BLOCK;
    r->done.fn = reserved;
    j->is_reserving = true;
    meta_put(change, META_KEY, (int64_t)r->upto);
    store_post(j->store, j->loop, change, &r->done);
}

void journal_add(struct journal *j, enum event_kind kind, const char *id, struct row_text *row)
{
    struct event event = {.revision = ++j->revision, .kind = kind, .row = row};
    struct list due;

    if (!j->is_open) {
        j->oldest = j->revision + 1;
        row_text_unref(row);
        return;
    }
    memcpy(event.id, id, strnlen(id, ID_LEN));
    keep(j, &event);
    reserve_ahead(j);

    list_init(&due);
    while (!list_empty(&j->followers)) {
        struct list *l = j->followers.next;

        list_remove(l);
        list_append(&due, l);
    }
    while (!list_empty(&due)) {
        struct follower *f = container_of(due.next, struct follower, link);

        list_remove(&f->link);
        list_append(&j->followers, &f->link);
        f->fn(f);
    }
}

/* --- from one daemon to the next --- */

/* "REVISION KIND ID JSON", a line for each that is kept, in order. */
int journal_save(const struct journal *j, int data_fd, struct err *e)
{
    auto_buf struct buf text = BUF(FILE_MAX);

    if (!j->is_open || !j->ring)
        return 0;
    for (uint64_t r = j->oldest; r <= j->revision; r++) {
        const struct event *event = slot(j, r);

        buf_printf(&text, "%" PRIu64 " %d %s ", r, (int)event->kind, event->id);
        if (event->row)
            buf_append(&text, event->row->json, event->row->len);
        buf_puts(&text, "\n");
    }
    if (!buf_ok(&text))
        return err_set(e, ERR_TOO_LARGE, "the journal passes %d bytes", FILE_MAX);
    return file_replace(data_fd, FILE_NAME, 0600, buf_str(&text), text.len, e);
}

/* The next word of a line, cut off behind it. */
static char *word(char **line)
{
    char *start = *line;
    char *blank = start ? strchr(start, ' ') : NULL;

    if (blank)
        *blank = '\0';
    *line = blank ? blank + 1 : NULL;
    return start;
}

static bool take_line(struct journal *j, char *line)
{
    struct event event = {0};
    const char *revision = word(&line);
    const char *kind = word(&line);
    const char *id = word(&line);
    uint64_t number;

    if (!line || !parse_u64(revision, 1, REVISION_MAX, &event.revision) ||
        !parse_u64(kind, 0, EVENT_DELETED, &number) || !id_is_valid(id) ||
        (j->revision && event.revision != j->revision + 1))
        return false;
    event.kind = (enum event_kind)number;
    memcpy(event.id, id, ID_LEN);
    if (event.kind != EVENT_DELETED)
        event.row = row_text_new(line, strlen(line));
    if (j->revision == 0)
        j->oldest = event.revision;
    j->revision = event.revision;
    keep(j, &event);
    return true;
}

/* The file goes before anything else happens: it is good for one start. Whether it is believed;
 * if not, what it gave a number to has had that number all the same. */
static bool take_over(struct journal *j, int data_fd, uint64_t last_reserved)
{
    auto_buf struct buf text = BUF(FILE_MAX);
    struct err e = {0};
    char *rest = NULL;
    bool good = true;

    if (file_read(data_fd, FILE_NAME, &text, &e) < 0)
        return false; /* there was a crash, or no daemon before */
    if (unlinkat(data_fd, FILE_NAME, 0) < 0 || dir_sync(data_fd, &e) < 0)
        return false;
    for (char *line = text.data ? strtok_r(text.data, "\n", &rest) : NULL; line && good;
         line = strtok_r(NULL, "\n", &rest))
        good = take_line(j, line);
    if (good && j->revision > 0 && j->revision <= last_reserved)
        return true;
    while (j->revision > 0 && j->oldest <= j->revision)
        drop_oldest(j);
    return false;
}

int journal_open(struct journal *j, struct store *store, struct loop *loop, int data_fd,
                 struct err *e)
{
    struct store_change *change;
    int64_t stored = 0;
    uint64_t last;

    if (store_meta(store, META_KEY, 0, &stored, e) < 0)
        return -1;
    last = (uint64_t)stored;
    j->revision = 0; /* what was counted before has no number that anybody saw */
    if (!take_over(j, data_fd, last)) {
        last = j->revision > last ? j->revision : last;
        j->revision = last;
        j->oldest = last + 1;
    }
    j->reserved = last + BLOCK;
    change = store_change_new();
    meta_put(change, META_KEY, (int64_t)j->reserved);
    if (store_commit(store, change, e) < 0)
        return err_wrap(e, "reserve revisions");
    j->store = store;
    j->loop = loop;
    j->is_open = true;
    return 0;
}
