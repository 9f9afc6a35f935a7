/* SPDX-License-Identifier: Apache-2.0 */
/* What a stream and its child are connected by. */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent/stream.h"
#include "base/cleanup.h"

void child_ends_close(struct child_ends *c)
{
    for (size_t i = 0; i < 3; i++)
        cleanup_close(&c->fd[i]);
}

static bool make_ours(struct source *s, int fd)
{
    s->fd = fd;
    return fcntl(fd, F_SETFL, O_NONBLOCK) == 0;
}

int stream_pipes(struct stream *st, size_t n, struct child_ends *out, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        struct source *s = i == 0 ? &st->in : &st->out[i - 1];
        int ends[2];

        if (pipe2(ends, O_CLOEXEC) < 0)
            return err_errno(e, "make a pipe");
        out->fd[i] = ends[i != 0];
        if (!make_ours(s, ends[i == 0]))
            return err_errno(e, "make a pipe");
    }
    return 0;
}

int stream_terminal(struct stream *st, uint16_t rows, uint16_t cols, struct child_ends *out,
                    struct err *e)
{
    struct winsize size = {.ws_row = rows, .ws_col = cols};
    int unlocked = 0;
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);

    if (master < 0)
        return err_errno(e, "make a terminal");
    st->out[0].fd = master;
    st->in.fd = fcntl(master, F_DUPFD_CLOEXEC, 3);
    if (st->in.fd < 0 || ioctl(master, TIOCSPTLCK, &unlocked) < 0 ||
        ioctl(master, TIOCSWINSZ, &size) < 0)
        return err_errno(e, "make a terminal");
    out->fd[0] = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (out->fd[0] < 0)
        return err_errno(e, "open the terminal");
    st->is_terminal = true;
    return 0;
}
