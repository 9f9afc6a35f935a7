/* SPDX-License-Identifier: Apache-2.0 */
/* What a caller asks for, in the words of the protocol. */
#include <string.h>

#include "base/jout.h"
#include "vm/guest.h"
#include "vm/guest_mux.h"

static void put_list(struct jout *j, const char *key, const char *const *texts, size_t *total)
{
    jout_open(j, key, '[');
    for (; texts && *texts; texts++) {
        jout_str(j, NULL, *texts);
        *total += strlen(*texts) + 1;
    }
    jout_close(j, ']');
}

struct guest_stream *guest_exec(struct instance *row, const struct guest_command *command,
                                const struct guest_events *events, void *owner, struct err *e)
{
    auto_buf struct buf text = BUF(EXEC_JSON_MAX);
    struct jout j = JOUT(&text);
    size_t total = 0;

    jout_open(&j, NULL, '{');
    put_list(&j, "argv", command->argv, &total);
    put_list(&j, "env", command->env, &total);
    jout_str(&j, "cwd", command->cwd ? command->cwd : "");
    jout_str(&j, "user", command->user ? command->user : "");
    jout_bool(&j, "tty", command->is_terminal);
    jout_int(&j, "rows", command->rows);
    jout_int(&j, "cols", command->cols);
    jout_bool(&j, "merge", command->merge_stderr);
    jout_int(&j, "timeout_ms", command->timeout_ms);
    jout_int(&j, "grace_ms", command->grace_ms);
    jout_close(&j, '}');
    if (total > GUEST_COMMAND_MAX)
        text.failed = true;
    return guest_begin(
        row, &(struct guest_work){FRAME_EXEC, &text, command->wait_ms}, events, owner, e);
}

struct path_work {
    enum frame_type type;
    struct guest_tree tree;
};

static struct guest_stream *begin_path(struct instance *row, const struct path_work *p,
                                       const struct guest_events *events, void *owner,
                                       struct err *e)
{
    auto_buf struct buf text = BUF(8 * GUEST_NAME_MAX);
    struct jout j = JOUT(&text);

    if (*p->tree.path == '\0' || strlen(p->tree.path) > GUEST_NAME_MAX) {
        err_set(e, ERR_INVALID, "a path has 1 to %d bytes", GUEST_NAME_MAX);
        return NULL;
    }
    jout_open(&j, NULL, '{');
    jout_str(&j, "path", p->tree.path);
    jout_bool(&j, "follow", p->tree.follow_links);
    jout_bool(&j, "hard_links", p->tree.hard_links);
    jout_close(&j, '}');
    return guest_begin(
        row, &(struct guest_work){.type = p->type, .request = &text}, events, owner, e);
}

struct guest_stream *guest_copy_in(struct instance *row, const char *root,
                                   const struct guest_events *events, void *owner, struct err *e)
{
    return begin_path(row, &(struct path_work){FRAME_COPY_IN, {.path = root}}, events, owner, e);
}

struct guest_stream *guest_copy_out(struct instance *row, const struct guest_tree *tree,
                                    const struct guest_events *events, void *owner, struct err *e)
{
    return begin_path(row, &(struct path_work){FRAME_COPY_OUT, *tree}, events, owner, e);
}

struct guest_stream *guest_stat(struct instance *row, const char *path, bool follow_links,
                                const struct guest_events *events, void *owner, struct err *e)
{
    return begin_path(
        row, &(struct path_work){FRAME_STAT, {path, follow_links, false}}, events, owner, e);
}
