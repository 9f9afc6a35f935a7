/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "api/handlers.h"
#include "base/json.h"
#include "base/mem.h"
#include "vm/guest.h"

/* GET /instances/{id}/stat: what a path inside a guest is. */

enum { PERMISSIONS = 0777, ANSWER_MAX = 64 * 1024 };

struct stat_call {
    struct call *call;
    struct guest_stream *guest;
    bool exists;
    struct guest_entry found;
    char *link_target;
};

static void on_entry(void *owner, const struct guest_entry *entry)
{
    struct stat_call *q = owner;

    free(q->link_target);
    q->exists = true;
    q->found = *entry;
    q->link_target = entry->link_target ? mem_strdup(entry->link_target) : NULL;
}

static void answer(struct stat_call *q, const char *error)
{
    struct buf json = BUF(ANSWER_MAX);
    struct jout j = JOUT(&json);

    jout_open(&j, NULL, '{');
    jout_bool(&j, "exists", q->exists);
    jout_bool(&j, "is_dir", q->exists && q->found.kind == GUEST_DIRECTORY);
    jout_bool(&j, "is_file", q->exists && q->found.kind == GUEST_FILE);
    jout_bool(&j, "is_symlink", q->exists && q->found.kind == GUEST_SYMLINK);
    jout_str(&j, "link_target", q->link_target);
    jout_int(&j, "mode", q->found.mode & PERMISSIONS);
    jout_int(&j, "size", (int64_t)q->found.size);
    jout_str(&j, "error", error);
    jout_close(&j, '}');
    call_reply(q->call, 200, &json);
}

/* What the guest says of the path is an answer; that it cannot be asked is none. */
static bool is_about_the_path(enum err_code code)
{
    return code != ERR_BAD_STATE && code != ERR_TIMEOUT && code != ERR_LIMIT &&
           code != ERR_CANCELLED;
}

static void on_ended(void *owner, const struct guest_end *end)
{
    struct stat_call *q = owner;

    if (end->ok || end->err.code == ERR_NOT_FOUND)
        answer(q, NULL);
    else if (is_about_the_path(end->err.code))
        answer(q, end->err.msg);
    else
        call_fail(q->call, &end->err);
    guest_close(q->guest);
    free(q->link_target);
    free(q);
}

static const struct guest_events events = {.entry = on_entry, .ended = on_ended};

static int decode(struct call *c, bool *follow, struct err *e)
{
    const char *path = http_query(c->http, "path");
    const char *word = http_query(c->http, "follow_links");

    *follow = word && strcmp(word, "true") == 0;
    if (!path || !*path || strlen(path) > GUEST_NAME_MAX)
        err_set(e, ERR_INVALID, "path must have 1 to %d bytes", GUEST_NAME_MAX);
    else if (word && *word && !*follow && strcmp(word, "false") != 0)
        err_set(e, ERR_INVALID, "follow_links must be true or false");
    else
        return guest_check(c->row, e);
    return err_slug(e, "Bad Request");
}

void api_instances_stat(struct call *c)
{
    struct stat_call *q = mem_new(struct stat_call);
    struct err e = {0};
    bool follow;

    q->call = c;
    if (decode(c, &follow, &e) == 0)
        q->guest = guest_stat(c->row, http_query(c->http, "path"), follow, &events, q, &e);
    if (!q->guest) {
        free(q);
        call_fail(c, &e);
    }
}
