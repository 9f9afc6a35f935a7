/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/expand.h"

#include <archive.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/mem.h"

enum { PART = 64 << 10 };

struct input {
    const struct op *op;
    int fd;
    char *part;
    struct err err; /* why it could not be read; libarchive only knows that */
};

static la_ssize_t read_part(struct archive *a, void *arg, const void **out)
{
    struct input *in = arg;
    ssize_t n;

    *out = in->part;
    do {
        if (op_wait(in->op, in->fd, POLLIN, &in->err) < 0)
            n = -1;
        else if ((n = read(in->fd, in->part, PART)) < 0 && errno != EINTR && errno != EAGAIN)
            err_errno(&in->err, "read the archive");
    } while (n < 0 && in->err.code == ERR_NONE);
    if (n < 0)
        archive_set_error(a, EIO, "%s", in->err.msg);
    return n;
}

static struct archive *reader_new(void)
{
    struct archive *a = archive_read_new();

    if (!a || archive_read_support_filter_gzip(a) != ARCHIVE_OK ||
        archive_read_support_filter_bzip2(a) != ARCHIVE_OK ||
        archive_read_support_filter_xz(a) != ARCHIVE_OK ||
        archive_read_support_filter_zstd(a) != ARCHIVE_OK ||
        archive_read_support_format_raw(a) != ARCHIVE_OK ||
        archive_read_support_format_empty(a) != ARCHIVE_OK)
        abort(); /* only for want of memory */
    return a;
}

int expand(const struct op *op, int fd, expand_put *put, void *arg, struct err *e)
{
    auto_free char *part = mem_zalloc(1, PART);
    struct input in = {.op = op, .fd = fd, .part = part};
    struct archive *a = reader_new();
    struct archive_entry *entry;
    int rc = archive_read_open(a, &in, NULL, read_part, NULL);

    if (rc == ARCHIVE_OK)
        rc = archive_read_next_header(a, &entry);
    while (rc == ARCHIVE_OK && e->code == ERR_NONE) {
        const void *data;
        size_t len;
        la_int64_t at;

        rc = archive_read_data_block(a, &data, &len, &at);
        if (rc == ARCHIVE_OK && len > 0)
            (void)put(arg, data, len, e);
    }
    if (in.err.code != ERR_NONE)
        *e = in.err;
    else if (e->code == ERR_NONE && rc != ARCHIVE_EOF)
        err_set(e, ERR_INVALID, "the archive does not expand: %s", archive_error_string(a));
    archive_read_free(a);
    return e->code == ERR_NONE ? 0 : -1;
}
