/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/channel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/sys.h"
#include "base/cleanup.h"
#include "base/clock.h"

#define PORT_NAME "org.hypeman.agent.0"
#define PORTS "/sys/class/virtio-ports"

enum { PORT_WAIT_MS = 2000, OUT_MAX = 256 * 1024 };

static bool is_our_port(const char *entry)
{
    auto_buf struct buf name = BUF(256);
    char path[512];

    (void)snprintf(path, sizeof(path), PORTS "/%s/name", entry);
    return slurp(path, &name) && strcmp(buf_str(&name), PORT_NAME "\n") == 0;
}

static int try_open(void)
{
    DIR *dir = opendir(PORTS);
    struct dirent *d;
    int fd = -1;

    while (dir && fd < 0 && (d = readdir(dir))) {
        char path[512];

        if (d->d_name[0] == '.' || !is_our_port(d->d_name))
            continue;
        (void)snprintf(path, sizeof(path), "/dev/%s", d->d_name);
        fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    }
    if (dir)
        closedir(dir);
    return fd;
}

static bool has_console_device(void)
{
    DIR *dir = opendir("/sys/bus/virtio/drivers/virtio_console");
    struct dirent *d;
    bool found = false;

    while (dir && !found && (d = readdir(dir)))
        found = strncmp(d->d_name, "virtio", 6) == 0;
    if (dir)
        closedir(dir);
    return found;
}

void channel_open(struct channel *c)
{
    int64_t until = clock_ms() + PORT_WAIT_MS;

    *c = (struct channel){.fd = -1, .out = BUF(OUT_MAX)};
    frame_reader_init(&c->in);
    if (!has_console_device())
        return;
    while ((c->fd = try_open()) < 0 && clock_ms() < until)
        pause_ms(1);
    if (c->fd < 0)
        say("there is no agent port " PORT_NAME);
    else
        c->is_up = true; /* the first read tells */
}

static void disconnected(struct channel *c)
{
    c->is_up = false;
    c->is_ours = false;
    frame_reader_reset(&c->in);
    buf_reset(&c->out);
}

/* Reads once; false when there is nothing. */
static bool fill(struct channel *c)
{
    size_t room;
    void *at = frame_reader_space(&c->in, &room);
    ssize_t n = read(c->fd, at, room);

    if (n > 0) {
        c->is_up = true;
        frame_reader_filled(&c->in, (size_t)n);
        return true;
    }
    if (n == 0)
        disconnected(c); /* that is how the port says that no host is there */
    else
        c->is_up = true;
    return false;
}

int channel_next(struct channel *c, struct frame *out)
{
    if (c->fd < 0)
        return 0;
    channel_flush(c);
    for (;;) {
        struct err e = {0};
        int rc = frame_next(&c->in, out, &e);

        if (rc == 1)
            return 1;
        if (rc < 0)
            frame_reader_resync(&c->in); /* we cannot hang up; the host begins anew */
        else if (!fill(c))
            return 0;
    }
}

void channel_hello(struct channel *c, const char *nonce)
{
    buf_reset(&c->out); /* nothing for an older connection */
    frame_put_hello(&c->out, nonce);
    c->is_ours = true;
    channel_flush(c);
}

void channel_put(struct channel *c, uint8_t type, const struct buf *json)
{
    if (!c->is_ours)
        return;
    frame_put(&c->out, type, 0, json->data, json->len);
    channel_flush(c);
}

void channel_flush(struct channel *c)
{
    while (c->is_up && c->out.len > 0) {
        ssize_t n = write(c->fd, c->out.data, c->out.len);

        if (n <= 0)
            return;
        buf_consume(&c->out, (size_t)n);
    }
}
