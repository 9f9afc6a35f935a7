/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/guest_socket.h"
#include "api/handlers.h"
#include "api/member.h"
#include "api/tar.h"
#include "base/json.h"
#include "base/mem.h"

/*
 * GET /instances/{id}/cp: files into or out of a guest, as the contract's clients
 * know it: into it one file or directory a connection, out of it a whole tree.
 * "format":"tar" is ours: then the binary messages are a tar archive, in either
 * direction, so that a tree takes one connection and a name may be any bytes.
 */

enum {
    CHUNK = 32 * 1024, /* of a file, as the original sends it */
    FILE_MODE = 0644,
    DIRECTORY_MODE = 0755,
    PERMISSIONS = 0777,
    HEAD_MAX = 64 * 1024,
};

struct copy {
    struct guest_socket s;
    bool is_to;
    bool is_tar;
    bool keeps_owner; /* of a tar archive's entries */
    struct tar_reader *tar;
    struct guest_entry one; /* the file or directory that is to be made */
    char *one_path;         /* NULL once the guest has it */
    bool wants_end;         /* the guest is to be told, once it has that */
    struct err err;         /* what is wrong with the archive */
    struct timer broken;    /* tells it: not from within the input */

    /* The entry that is under way out of the guest. */
    bool in_entry;
    uint64_t size;  /* of its content */
    uint64_t left;  /* of that */
    char path[200]; /* before the first: what is asked for */
};

static struct copy *of(void *owner)
{
    return container_of((struct guest_socket *)owner, struct copy, s);
}

/* --- answers --- */

static void send_error(struct copy *x, const char *message, const char *path)
{
    struct buf json = BUF(HEAD_MAX);
    struct jout j = JOUT(&json);

    jout_open(&j, NULL, '{');
    jout_str(&j, "type", "error");
    jout_str(&j, "message", message);
    if (path)
        jout_str(&j, "path", path);
    jout_close(&j, '}');
    guest_socket_send_json(&x->s, &json);
}

static void send_result(struct copy *x, uint64_t bytes, const char *error)
{
    struct buf json = BUF(HEAD_MAX);
    struct jout j = JOUT(&json);

    jout_open(&j, NULL, '{');
    jout_str(&j, "type", "result");
    jout_bool(&j, "success", !error);
    if (error)
        jout_str(&j, "error", error);
    jout_int(&j, "bytes_written", (int64_t)bytes);
    jout_close(&j, '}');
    guest_socket_send_json(&x->s, &json);
}

static void send_end(struct copy *x, bool is_final)
{
    struct buf json = BUF(64);

    buf_printf(&json, "{\"type\":\"end\",\"final\":%s}", is_final ? "true" : "false");
    guest_socket_send_json(&x->s, &json);
}

static void fail(struct copy *x, const struct err *e, const char *path)
{
    send_error(x, e->msg, path);
    guest_socket_finish(&x->s, WS_NORMAL, e->msg);
}

static void refuse(struct guest_socket *s, const struct err *e)
{
    send_error(of(s), e->msg, NULL);
}

/* --- out of the guest --- */

/* Whether all of a name is UTF-8; the clients' messages are. */
static bool is_text(const char *s)
{
    size_t left = strlen(s);

    while (left > 0) {
        size_t n = utf8_len((const unsigned char *)s, left);

        if (n == 0)
            return false;
        s += n;
        left -= n;
    }
    return true;
}

static int refuse_name(const char *name, struct err *e)
{
    auto_buf struct buf shown = BUF(400);

    for (const char *p = name; *p && shown.len < 300; p++)
        buf_printf(&shown, *p >= ' ' && *p <= '~' ? "%c" : "\\x%02x", (unsigned char)*p);
    return err_set(e,
                   ERR_INVALID,
                   "the name %s is not UTF-8, which this protocol cannot carry; copy with "
                   "\"format\":\"tar\"",
                   buf_str(&shown));
}

static void send_header(struct copy *x, const struct guest_entry *entry)
{
    struct buf json = BUF(HEAD_MAX);
    struct jout j = JOUT(&json);

    jout_open(&j, NULL, '{');
    jout_str(&j, "type", "header");
    jout_str(&j, "path", entry->path);
    jout_int(&j, "mode", entry->mode & PERMISSIONS);
    jout_bool(&j, "is_dir", entry->kind == GUEST_DIRECTORY);
    if (entry->kind == GUEST_SYMLINK) {
        jout_bool(&j, "is_symlink", true);
        jout_str(&j, "link_target", entry->link_target);
    }
    jout_int(&j, "size", entry->kind == GUEST_DIRECTORY ? 0 : (int64_t)entry->size);
    jout_int(&j, "mtime", entry->mtime_s > 0 ? entry->mtime_s : 0); /* clients refuse others */
    if (entry->uid)
        jout_int(&j, "uid", entry->uid);
    if (entry->gid)
        jout_int(&j, "gid", entry->gid);
    jout_close(&j, '}');
    guest_socket_send(&x->s, WS_TEXT, buf_str(&json), json.len, entry->cost);
    buf_free(&json);
}

static void send_tar_entry(struct copy *x, const struct guest_entry *entry)
{
    struct buf b = BUF(HEAD_MAX);

    tar_put_entry(&b, entry);
    guest_socket_send(&x->s, WS_BINARY, buf_str(&b), b.len, entry->cost);
    buf_free(&b);
}

/* The end of the entry before. A file that has shrunk leaves an archive that cannot be completed.
 */
static int end_entry(struct copy *x, bool is_final, struct err *e)
{
    struct buf b = BUF(4 * TAR_BLOCK);

    if (x->is_tar && x->in_entry && x->left > 0)
        return err_set(e, ERR_BUSY, "%s shrank while it was copied", x->path);
    if (!x->is_tar) {
        if (x->in_entry)
            send_end(x, is_final);
        return 0;
    }
    tar_put_padding(&b, x->size);
    if (is_final)
        tar_put_end(&b);
    if (b.len > 0)
        guest_socket_send(&x->s, WS_BINARY, b.data, b.len, 0);
    buf_free(&b);
    if (is_final)
        send_end(x, true);
    return 0;
}

static void on_entry(void *owner, const struct guest_entry *entry)
{
    struct copy *x = of(owner);
    const char *target = entry->link_target ? entry->link_target : "";
    struct err e = {0};

    if (end_entry(x, false, &e) < 0) {
        fail(x, &e, x->path);
        return;
    }
    if (!x->is_tar && entry->kind == GUEST_HARD_LINK) {
        err_set(&e, ERR_INTERNAL, "the guest sends a hard link, which it was not asked for");
        fail(x, &e, NULL);
        return;
    }
    if (!x->is_tar && (!is_text(entry->path) || !is_text(target))) {
        refuse_name(is_text(entry->path) ? target : entry->path, &e);
        fail(x, &e, entry->path);
        return;
    }
    x->in_entry = true;
    x->size = x->left = entry->kind == GUEST_FILE ? entry->size : 0;
    (void)snprintf(x->path, sizeof(x->path), "%s", entry->path);
    if (x->is_tar)
        send_tar_entry(x, entry);
    else
        send_header(x, entry);
}

/*
 * The official TypeScript client takes a binary message that parses as JSON for
 * one of the protocol's, whatever file it is from. It looks at the first byte, so
 * brackets at the beginning of a chunk go ahead in a message of their own, which
 * never parses, and what follows begins with something else.
 */
static void send_chunk(struct copy *x, const char *data, size_t len)
{
    size_t ahead = 0;

    while (ahead < len && (data[ahead] == '{' || data[ahead] == '['))
        ahead++;
    if (ahead > 0)
        guest_socket_send(&x->s, WS_BINARY, data, ahead, ahead);
    if (len > ahead)
        guest_socket_send(&x->s, WS_BINARY, data + ahead, len - ahead, len - ahead);
}

static void on_data(void *owner, enum guest_channel from, const void *data, size_t len)
{
    struct copy *x = of(owner);
    const char *bytes = data;

    (void)from;
    if (len > x->left) {
        struct err e = {0};

        err_set(&e, ERR_INTERNAL, "the guest sends more of %s than there is", x->path);
        fail(x, &e, x->path);
        return;
    }
    x->left -= len;
    x->s.bytes += len;
    if (x->is_tar)
        guest_socket_send(&x->s, WS_BINARY, bytes, len, len);
    for (size_t at = 0; !x->is_tar && at < len; at += CHUNK)
        send_chunk(x, bytes + at, len - at < CHUNK ? len - at : CHUNK);
}

static void out_ended(struct copy *x, const struct guest_end *end)
{
    struct err e = end->err;

    if (end->ok && !x->in_entry)
        err_set(&e, ERR_INVALID, "%s is no file, directory or link", x->path);
    /* The official TypeScript client takes a close that comes before it has written its last file
     * for a failure; all official clients leave by themselves. */
    if (end->ok && x->in_entry && end_entry(x, true, &e) == 0) {
        x->s.succeeded = true;
        guest_socket_done(&x->s);
    } else
        fail(x, &e, *x->path ? x->path : NULL);
}

/* --- into the guest --- */

static bool put_tar_entry(void *arg, const struct guest_entry *entry)
{
    struct copy *x = arg;
    struct guest_entry put = *entry;

    put.has_owner = x->keeps_owner;
    return guest_put_entry(x->s.guest, &put);
}

static size_t put_tar_data(void *arg, const void *data, size_t len)
{
    struct copy *x = arg;

    return guest_write(x->s.guest, data, len);
}

static const struct tar_sink tar_sink = {put_tar_entry, put_tar_data};

static void on_broken(struct timer *t)
{
    struct copy *x = container_of(t, struct copy, broken);

    send_result(x, 0, x->err.msg);
    guest_socket_finish(&x->s, WS_NORMAL, x->err.msg);
}

/* The guest may have no room even for the first, as long as its agent has not greeted. */
static bool has_begun(struct copy *x)
{
    if (x->one_path && guest_put_entry(x->s.guest, &x->one)) {
        free(x->one_path);
        x->one_path = NULL;
    }
    return !x->one_path;
}

static size_t input(struct guest_socket *s, const char *data, size_t len)
{
    struct copy *x = of(s);
    ssize_t n;

    if (!x->is_to || x->err.code != ERR_NONE)
        return len;
    if (!x->is_tar)
        return has_begun(x) ? guest_write(s->guest, data, len) : 0;
    n = tar_feed(x->tar, data, len, &x->err);
    if (n < 0)
        loop_timer_start(s->world->loop, &x->broken, 0);
    return n < 0 ? len : (size_t)n;
}

static void input_ended(struct guest_socket *s)
{
    struct copy *x = of(s);

    if (x->is_tar && x->err.code == ERR_NONE && tar_reader_finish(x->tar, &x->err) < 0)
        loop_timer_start(s->world->loop, &x->broken, 0);
    x->wants_end = x->err.code == ERR_NONE && !has_begun(x);
    if (x->err.code == ERR_NONE && !x->wants_end)
        guest_end_input(s->guest);
}

static void text(struct guest_socket *s, const char *data, size_t len)
{
    struct err ignored = {0};
    json_auto_t *doc = of(s)->is_to ? parse_json(data, len, &ignored) : NULL;
    const char *type = json_string_value(json_object_get(doc, "type"));

    if (type && strcmp(type, "end") == 0)
        guest_socket_end_input(s);
}

static void on_writable(void *owner)
{
    struct copy *x = of(owner);

    if (!has_begun(x))
        return;
    if (x->wants_end)
        input_ended(&x->s);
    else
        guest_socket_push(&x->s);
}

static void in_ended(struct copy *x, const struct guest_end *end)
{
    x->s.bytes = end->bytes;
    x->s.succeeded = end->ok;
    /* A guest that is lost is no answer of the guest's. */
    if (!end->ok && (end->err.code == ERR_BAD_STATE || end->err.code == ERR_TIMEOUT)) {
        fail(x, &end->err, NULL);
        return;
    }
    send_result(x, end->bytes, end->ok ? NULL : end->err.msg);
    guest_socket_finish(&x->s, WS_NORMAL, end->ok ? "done" : end->err.msg);
}

static void on_ended(void *owner, const struct guest_end *end)
{
    struct copy *x = of(owner);

    if (x->is_to)
        in_ended(x, end);
    else
        out_ended(x, end);
}

/* --- the beginning --- */

struct request {
    const char *direction;
    const char *path;
    const char *format;
    bool is_dir;
    bool follow_links;
    json_int_t mode;
    json_int_t uid;
    json_int_t gid;
};

static int decode(struct copy *x, const json_t *doc, struct request *out, struct err *e)
{
    if (json_text_member(doc, "direction", &out->direction, e) < 0 ||
        json_text_member(doc, "guest_path", &out->path, e) < 0 ||
        json_text_member(doc, "format", &out->format, e) < 0 ||
        json_bool_member(doc, "is_dir", false, &out->is_dir, e) < 0 ||
        json_bool_member(doc, "follow_links", false, &out->follow_links, e) < 0 ||
        json_bool_member(doc, "keep_owner", false, &x->keeps_owner, e) < 0 ||
        json_int_member(doc, "mode", UINT32_MAX, &out->mode, e) < 0 ||
        json_int_member(doc, "uid", UINT32_MAX, &out->uid, e) < 0 ||
        json_int_member(doc, "gid", UINT32_MAX, &out->gid, e) < 0)
        return -1;
    if (!out->path || !*out->path || strlen(out->path) > GUEST_NAME_MAX)
        return err_set(e, ERR_INVALID, "guest_path must have 1 to %d bytes", GUEST_NAME_MAX);
    if (out->format && strcmp(out->format, "tar") != 0)
        return err_set(e, ERR_INVALID, "format must be tar, or left out");
    x->is_tar = out->format != NULL;
    return 0;
}

static int begin_to(struct copy *x, struct instance *row, const struct request *r, struct err *e)
{
    x->one = (struct guest_entry){
        .kind = r->is_dir ? GUEST_DIRECTORY : GUEST_FILE,
        .mode = r->mode     ? (uint32_t)r->mode & PERMISSIONS
                : r->is_dir ? DIRECTORY_MODE
                            : FILE_MODE,
        .has_owner = r->uid || r->gid,
        .uid = (uint32_t)r->uid,
        .gid = (uint32_t)r->gid,
    };
    x->is_to = true;
    if (x->is_tar) {
        x->tar = tar_reader_new(&tar_sink, x);
    } else {
        x->one_path = mem_strdup(r->path);
        x->one.path = x->one_path;
    }
    x->s.guest = guest_copy_in(row, x->is_tar ? r->path : "/", &x->s.kind->events, &x->s, e);
    if (!x->s.guest)
        return -1;
    (void)has_begun(x);
    return 0;
}

static int begin(struct guest_socket *s, struct instance *row, const json_t *doc, struct err *e)
{
    struct copy *x = of(s);
    struct request r = {0};

    if (decode(x, doc, &r, e) < 0)
        return -1;
    trace_text(&s->trace, "direction", r.direction ? r.direction : "");
    trace_text(&s->trace, "guest_path", r.path);
    if (r.direction && strcmp(r.direction, "to") == 0)
        return begin_to(x, row, &r, e);
    if (!r.direction || strcmp(r.direction, "from") != 0)
        return err_set(e,
                       ERR_INVALID,
                       "invalid direction: %.100s (must be 'to' or 'from')",
                       r.direction ? r.direction : "");
    (void)snprintf(x->path, sizeof(x->path), "%s", r.path);
    s->guest = guest_copy_out(
        row, &(struct guest_tree){r.path, r.follow_links, x->is_tar}, &s->kind->events, s, e);
    return s->guest ? 0 : -1;
}

static void copy_free(struct guest_socket *s)
{
    struct copy *x = of(s);

    loop_timer_stop(s->world->loop, &x->broken);
    tar_reader_free(x->tar);
    free(x->one_path);
    free(x);
}

static const struct guest_socket_kind kind = {
    .name = "cp",
    .span = "cp.session",
    .survives_hangup = true,
    .events = {.data = on_data, .entry = on_entry, .writable = on_writable, .ended = on_ended},
    .begin = begin,
    .input = input,
    .text = text,
    .input_ended = input_ended,
    .refuse = refuse,
    .free = copy_free,
};

void api_instances_cp(struct call *c)
{
    struct copy *x = mem_new(struct copy);

    x->broken.fn = on_broken;
    guest_socket_open(c, &x->s, &kind);
}
