/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/channel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/sys.h"
#include "base/cleanup.h"
#include "base/clock.h"

#define PORT_NAME "org.hypeman.agent.0"
#define PORTS "/sys/class/virtio-ports"

enum {
    PORT_WAIT_MS = 2000,
    OUT_MAX = 8 * 1024 * 1024, /* never reached: streams stop at the next one */
    OUT_FULL = 128 * 1024,
    PORT_PIECE = 4096, /* what a port reads at once: a buffer of the driver's */
};

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

/* Nobody is woken because what was sent has gone; only who waits for room. */
static void watch_port(struct channel *c)
{
    source_want(c->poller,
                &c->port,
                EPOLLIN | (c->out.len > 0 ? EPOLLOUT : 0u) | (c->is_up ? 0u : EPOLLET));
}

static void disconnected(struct channel *c)
{
    c->is_up = false;
    c->is_ours = false;
    frame_reader_reset(&c->in);
    buf_free(&c->out);
    if (c->listener.fd >= 0)
        source_close(c->poller, &c->port);
}

static void port_ready(struct source *s, uint32_t events)
{
    struct channel *c = container_of(s, struct channel, port);

    (void)events;
    c->ready(c);
}

static void use(struct channel *c, int fd)
{
    c->port.fd = fd;
    c->is_up = fd >= 0; /* the first read tells */
    watch_port(c);
}

/* The host has one connection; a newer one means that the last one is over. */
static void accept_host(struct source *s, uint32_t events)
{
    struct channel *c = container_of(s, struct channel, listener);
    int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)events;
    if (fd < 0)
        return;
    disconnected(c);
    use(c, fd);
    c->ready(c);
}

/* <linux/vm_sockets.h>, which musl's headers do not have. */
struct vsock_address {
    sa_family_t family;
    uint16_t reserved;
    uint32_t port;
    uint32_t cid;
    unsigned char zero[4];
};

static int listen_vsock(void)
{
    const struct vsock_address any = {
        .family = AF_VSOCK, .port = WIRE_VSOCK_PORT, .cid = UINT32_MAX /* any */};
    auto_close int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0 || bind(fd, (const struct sockaddr *)&any, sizeof(any)) < 0 || listen(fd, 4) < 0)
        return -1;
    return take_fd(&fd);
}

int channel_wait_for_port(void)
{
    int64_t until = clock_ms() + PORT_WAIT_MS;
    int fd;

    while ((fd = try_open()) < 0 && clock_ms() < until)
        pause_ms(1);
    if (fd < 0)
        say("there is no agent port " PORT_NAME);
    return fd;
}

void channel_use(struct channel *c, struct poller *p, int fd, void (*ready)(struct channel *c))
{
    *c = (struct channel){.poller = p, .out = BUF(OUT_MAX), .ready = ready, .may_have_more = true};
    frame_reader_init(&c->in);
    c->in.keeps_memory = true;
    source_init(&c->port, -1, port_ready);
    source_init(&c->listener, -1, accept_host);
    use(c, fd);
}

void channel_open(struct channel *c, struct poller *p, void (*ready)(struct channel *c))
{
    channel_use(c, p, has_console_device() ? channel_wait_for_port() : -1, ready);
    if (c->port.fd >= 0)
        return;
    c->listener.fd = listen_vsock();
    source_want(p, &c->listener, EPOLLIN);
}

void channel_close(struct channel *c)
{
    disconnected(c);
    source_close(c->poller, &c->port);
    source_close(c->poller, &c->listener);
}

/* Reads once; *more_out: there may be more, since a port gives one page at a time. */
static bool fill(struct channel *c, bool *more_out)
{
    size_t room;
    void *at = frame_reader_space(&c->in, &room);
    ssize_t n = read(c->port.fd, at, room);

    *more_out = n >= PORT_PIECE;
    if (n > 0) {
        c->is_up = true;
        frame_reader_filled(&c->in, (size_t)n);
        return true;
    }
    if (n == 0 || (errno != EAGAIN && errno != EINTR))
        disconnected(c); /* a read of 0 is how the port says that no host is there */
    else
        c->is_up = true;
    return false;
}

int channel_next(struct channel *c, struct frame *out)
{
    channel_flush(c);
    while (c->port.fd >= 0) {
        struct err e = {0};
        int rc = frame_next(&c->in, out, &e);

        if (rc == 1)
            return 1;
        if (rc < 0)
            frame_reader_resync(&c->in); /* we cannot hang up; the host begins anew */
        else if (!c->may_have_more || !fill(c, &c->may_have_more))
            break;
    }
    c->may_have_more = true; /* when we are asked again */
    watch_port(c);
    return 0;
}

void channel_hello(struct channel *c, const char *nonce)
{
    buf_reset(&c->out); /* nothing for an older connection */
    frame_put_hello(&c->out, nonce);
    c->is_ours = true;
    channel_flush(c);
}

/* Zeros fill up a frame that was cut, and are frames of no meaning; then comes a greeting that
 * answers none. */
void channel_announce(struct channel *c)
{
    static const char zeros[1024];
    static const char nobody[] = "00000000000000000000000000000000";

    if (!c->is_up || c->listener.fd >= 0)
        return;
    while (c->out.len < FRAME_HEADER + FRAME_MAX)
        buf_append(&c->out, zeros, sizeof(zeros));
    frame_put_hello(&c->out, nobody);
    channel_flush(c);
}

void channel_put(struct channel *c, uint8_t type, uint32_t stream, const struct buf *json)
{
    if (!c->is_ours)
        return;
    frame_put(&c->out, type, stream, json->data, json->len);
    channel_flush(c);
}

void channel_flush(struct channel *c)
{
    while (c->is_up && c->out.len > 0) {
        ssize_t n = write(c->port.fd, c->out.data, c->out.len);

        if (n <= 0)
            break;
        buf_consume(&c->out, (size_t)n);
    }
    watch_port(c);
}

void channel_pass(struct channel *c, const void *frame, size_t len)
{
    ssize_t n = c->is_up && c->out.len == 0 ? write(c->port.fd, frame, len) : 0;
    size_t gone = n > 0 ? (size_t)n : 0;

    buf_append(&c->out, (const char *)frame + gone, len - gone);
}

bool channel_is_full(const struct channel *c)
{
    return c->out.len >= OUT_FULL;
}
