/* SPDX-License-Identifier: Apache-2.0 */
#include "firecracker_guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "fault.h"
#include "wire/config_disk.h"
#include "wire/frame.h"

enum { OVERLAY = 1, CONFIG = 2, NAME_ROOM = 512, FIRST_HOST_PORT = 1 << 30 };

struct guest {
    struct vm *vm;
    int fd;
    bool introduced; /* the CONNECT line was taken */
    struct frame_reader in;
};

struct guest *guest_new(struct vm *vm)
{
    struct guest *g = mem_new(struct guest);

    g->vm = vm;
    g->fd = -1;
    frame_reader_init(&g->in);
    return g;
}

int guest_fd(const struct guest *g)
{
    return g->fd;
}

void guest_disconnect(struct guest *g)
{
    if (g->fd >= 0)
        close(g->fd);
    g->fd = -1;
    g->introduced = false;
    frame_reader_reset(&g->in);
}

/* One host at a time; a newer one takes over. */
void guest_accept(struct guest *g)
{
    int fd = accept4(g->vm->vsock_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    guest_disconnect(g);
    g->fd = fd;
}

static void send_all(const struct guest *g, struct buf *b)
{
    (void)!send(g->fd, b->data, b->len, MSG_NOSIGNAL);
    buf_free(b);
}

/* As the real one does: ten bytes at once, or it hangs up; then byte by byte to the newline. */
static bool take_connect(struct guest *g)
{
    char line[33] = "";
    unsigned port;
    size_t n = 10;
    char ok[32];

    if (recv(g->fd, line, n, 0) != (ssize_t)n)
        return false;
    while (line[n - 1] != '\n' && n < 32 && recv(g->fd, line + n, 1, 0) == 1)
        n++;
    if (line[n - 1] != '\n' || sscanf(line, "CONNECT %u", &port) != 1 || port != WIRE_VSOCK_PORT)
        return false;
    g->introduced = true;
    (void)snprintf(ok, sizeof(ok), "OK %d\n", FIRST_HOST_PORT);
    return send(g->fd, ok, strlen(ok), MSG_NOSIGNAL) > 0;
}

static void put_json(struct buf *out, uint8_t type, const char *json)
{
    frame_put(out, type, 0, json, strlen(json));
}

static void answer_hello(const struct guest *g, const json_t *hello)
{
    const char *nonce = json_string_value(json_object_get(hello, "nonce"));
    struct buf out = BUF(4096);
    char started[64];

    frame_put_hello(&out, nonce ? nonce : "");
    (void)snprintf(started, sizeof(started), "{\"at_us\":%lld}", (long long)wall_us());
    put_json(&out, FRAME_STARTED, started);
    send_all(g, &out);
}

/* Its disk is its own: what it is called is at the end of it. */
static void remember_name(const struct guest *g, const json_t *identity)
{
    const char *name = json_string_value(json_object_get(identity, "hostname"));
    char text[NAME_ROOM] = "";
    struct stat st;

    if (g->vm->n_drives <= OVERLAY || fstat(g->vm->drive_fds[OVERLAY], &st) < 0)
        return;
    (void)snprintf(text, sizeof(text), "%s", name ? name : "");
    (void)!pwrite(g->vm->drive_fds[OVERLAY], text, sizeof(text), st.st_size - NAME_ROOM);
}

static uint64_t incarnation(const struct guest *g)
{
    struct buf disk = BUF(CONFIG_MAX + 4096);
    char *room = buf_space(&disk, CONFIG_MAX);
    ssize_t n = g->vm->n_drives > CONFIG
                    ? pread(g->vm->drive_fds[CONFIG], room, CONFIG_MAX, CONFIG_OFFSET)
                    : 0;
    struct err e = {0};
    const char *text;
    size_t len;
    uint64_t found = 0;

    if (n > 0 && config_disk_find((unsigned char *)room, (size_t)n, &text, &len, &e) == 0) {
        json_t *config = parse_json(text, len, &e);

        found = (uint64_t)json_integer_value(json_object_get(config, "incarnation"));
        json_decref(config);
    }
    buf_free(&disk);
    return found;
}

/* The workload ends well, which the guest writes down before it says so; then it resets. */
static void shut_down(const struct guest *g)
{
    struct exit_record record = {.incarnation = incarnation(g), .at_us = wall_us()};
    unsigned char sector[EXIT_SECTOR];
    struct buf json = BUF(4096);
    struct buf out = BUF(8192);

    exit_sector_make(sector, &record);
    if (g->vm->n_drives > CONFIG)
        (void)!pwrite(g->vm->drive_fds[CONFIG], sector, sizeof(sector), 0);
    exit_record_json(&json, &record);
    put_json(&out, FRAME_EXITED, buf_str(&json));
    send_all(g, &out);
    exit(0);
}

/* Whatever the command, it is a "cat": what comes in goes out, and at the end of it it ends well.
 */
static void take_work(const struct guest *g, const struct frame *f)
{
    static const char done[] = "{\"code\":0}";
    struct buf out = BUF(2 * FRAME_MAX);

    if (f->type == FRAME_DATA) {
        frame_put_u32(&out, FRAME_CREDIT, f->stream, frame_cost(f));
        frame_put(&out, FRAME_DATA, f->stream, f->data, f->len);
    } else if (f->type == FRAME_END_INPUT || f->type == FRAME_CLOSE) {
        frame_put(&out, FRAME_DONE, f->stream, done, strlen(done));
    }
    send_all(g, &out);
}

static void take_frame(struct guest *g, const struct frame *f)
{
    struct err e = {0};
    json_t *doc;

    if (f->stream > 0)
        take_work(g, f);
    if (f->type == FRAME_SHUTDOWN && !fault_is("keeps-on", "", NULL))
        shut_down(g);
    if (f->type != FRAME_HELLO && f->type != FRAME_IDENTITY)
        return;
    doc = parse_json((const char *)f->data, f->len, &e);
    if (f->type == FRAME_HELLO)
        answer_hello(g, doc);
    else
        remember_name(g, doc);
    json_decref(doc);
}

void guest_readable(struct guest *g)
{
    struct frame f;
    struct err e = {0};
    size_t room;
    void *space;
    ssize_t n;

    if (!g->introduced && !take_connect(g)) {
        guest_disconnect(g);
        return;
    }
    space = frame_reader_space(&g->in, &room);
    n = space ? recv(g->fd, space, room, MSG_DONTWAIT) : 0;
    if (n == 0 || (n < 0 && !space)) {
        guest_disconnect(g);
        return;
    }
    if (n < 0)
        return;
    frame_reader_filled(&g->in, (size_t)n);
    while (g->fd >= 0 && frame_next(&g->in, &f, &e) == 1)
        take_frame(g, &f);
}
