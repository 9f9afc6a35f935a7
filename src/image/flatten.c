/* SPDX-License-Identifier: Apache-2.0 */
#include "image/flatten.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/mem.h"

enum { CHUNK = 128 * 1024 };

/* One layer being read: the blob through its digest into libarchive. */
struct reader {
    const struct op *op;
    const struct layer *layer;
    int fd;
    struct digest *digest;
    struct archive *tar;
    char *chunk;
    struct err failure; /* why the blob could not be read; libarchive only knows that */
};

#define auto_reader __attribute__((cleanup(reader_fini)))

static void reader_fini(struct reader *r)
{
    if (r->tar)
        (void)archive_read_free(r->tar);
    digest_free(r->digest);
    free(r->chunk);
    cleanup_close(&r->fd);
}

static la_ssize_t read_blob(struct archive *tar, void *arg, const void **data_out)
{
    struct reader *r = arg;
    ssize_t n = -1;

    if (r->failure.code == ERR_NONE && op_sleep(r->op, 0, &r->failure) == 0) {
        do
            n = read(r->fd, r->chunk, CHUNK);
        while (n < 0 && errno == EINTR);
        if (n < 0)
            err_errno(&r->failure, "read");
    }
    if (n < 0) {
        archive_set_error(tar, EIO, "%s", r->failure.msg);
        return -1;
    }
    digest_add(r->digest, r->chunk, (size_t)n);
    *data_out = r->chunk;
    return n;
}

static int read_error(struct reader *r, struct err *e)
{
    if (r->failure.code != ERR_NONE) {
        *e = r->failure;
        return -1;
    }
    return err_set(e, ERR_INVALID, "it is no readable tar: %s", archive_error_string(r->tar));
}

static int reader_open(struct reader *r, const struct layout *layout, struct err *e)
{
    r->fd = layout_open_layer(layout, r->layer, e);
    if (r->fd < 0)
        return -1;
    r->digest = digest_new();
    r->chunk = mem_zalloc(1, CHUNK);
    r->tar = archive_read_new();
    if (!r->tar)
        return err_set(e, ERR_INTERNAL, "libarchive: out of memory");
    if (archive_read_support_filter_gzip(r->tar) != ARCHIVE_OK ||
        archive_read_support_filter_zstd(r->tar) != ARCHIVE_OK ||
        archive_read_support_format_tar(r->tar) != ARCHIVE_OK ||
        archive_read_open(r->tar, r, NULL, read_blob, NULL) != ARCHIVE_OK)
        return read_error(r, e);
    return 0;
}

/* *entry_out is NULL at the end. A warning is about text in another locale: bytes are kept. */
static int reader_next(struct reader *r, struct archive_entry **entry_out, struct err *e)
{
    int rc;

    if (op_sleep(r->op, 0, e) < 0)
        return -1;
    rc = archive_read_next_header(r->tar, entry_out);
    if (rc == ARCHIVE_EOF)
        *entry_out = NULL;
    return rc == ARCHIVE_EOF || rc >= ARCHIVE_WARN ? 0 : read_error(r, e);
}

/* What follows the tar in the blob counts for the digest as well. */
static int reader_verify(struct reader *r, struct err *e)
{
    char found[DIGEST_SIZE];
    const void *ignored;
    la_ssize_t n;

    do
        n = read_blob(r->tar, r, &ignored);
    while (n > 0);
    if (n < 0)
        return read_error(r, e);
    digest_end(r->digest, found);
    if (strcmp(found, r->layer->digest) != 0)
        return err_set(e, ERR_INVALID, "it is damaged: its digest is %s", found);
    return 0;
}

/* --- first reading --- */

struct survey {
    struct merge *merge;
    uint64_t bytes_left;
};

static int count(struct survey *s, struct archive_entry *entry, struct err *e)
{
    int64_t size = archive_entry_size(entry);

    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry))
        return 0;
    if (size < 0 || (uint64_t)size > s->bytes_left)
        return err_set(e, ERR_TOO_LARGE, "unpacked, the image is larger than the limit");
    s->bytes_left -= (uint64_t)size;
    return 0;
}

static int survey_layer(const struct op *op, const struct layout *layout, const struct layer *layer,
                        struct survey *s, struct err *e)
{
    auto_reader struct reader r = {.op = op, .layer = layer, .fd = -1};
    struct archive_entry *entry;

    if (reader_open(&r, layout, e) < 0)
        return -1;
    merge_begin_layer(s->merge);
    for (;;) {
        if (reader_next(&r, &entry, e) < 0)
            return -1;
        if (!entry)
            return reader_verify(&r, e);
        /* Before its data is passed over, which takes time in proportion to what it claims. */
        if (count(s, entry, e) < 0 || merge_add(s->merge, entry, e) < 0)
            return -1;
    }
}

struct merge *flatten_survey(const struct op *op, const struct layout *layout, uint64_t max_bytes,
                             struct err *e)
{
    struct survey s = {.merge = merge_new(), .bytes_left = max_bytes};

    for (size_t i = 0; i < layout->n_layers; i++) {
        if (survey_layer(op, layout, &layout->layers[i], &s, e) < 0) {
            err_wrap(e, "layer %s", layout->layers[i].digest);
            merge_free(s.merge);
            return NULL;
        }
    }
    return s.merge;
}

/* --- second reading --- */

struct entry_writer {
    struct reader *reader;
    struct archive_entry *entry;
    struct squash *to;
    char *chunk;
};

static int copy_data(struct entry_writer *w, struct err *e)
{
    for (;;) {
        /* Fills the holes of a sparse file with zeros. */
        la_ssize_t n = archive_read_data(w->reader->tar, w->chunk, CHUNK);

        if (n < ARCHIVE_WARN || n == ARCHIVE_RETRY)
            return read_error(w->reader, e);
        if (n <= 0)
            return 0;
        if (squash_data(w->to, w->chunk, (size_t)n, e) < 0)
            return -1;
    }
}

static int write_name(void *arg, const char *path, const char *first, struct err *e)
{
    struct entry_writer *w = arg;
    bool is_file = archive_entry_filetype(w->entry) == AE_IFREG;

    if (first && is_file)
        return squash_link(w->to, path, first, e);
    if (squash_entry(w->to, path, w->entry, e) < 0)
        return -1;
    return is_file ? copy_data(w, e) : 0;
}

static int write_layer(const struct op *op, const struct layout *layout, size_t number,
                       const struct merge *survey, struct squash *to, struct err *e)
{
    auto_free char *chunk = mem_zalloc(1, CHUNK);
    auto_reader struct reader r = {.op = op, .layer = &layout->layers[number], .fd = -1};
    struct entry_writer w = {.reader = &r, .to = to, .chunk = chunk};

    if (reader_open(&r, layout, e) < 0)
        return -1;
    for (size_t i = 0;; i++) {
        if (reader_next(&r, &w.entry, e) < 0)
            return -1;
        if (!w.entry)
            return reader_verify(&r, e);
        if (merge_each_name(survey, number, i, write_name, &w, e) < 0)
            return -1;
    }
}

struct implied_writer {
    struct archive_entry *entry;
    struct squash *to;
};

static int write_implied(void *arg, const char *path, const char *first, struct err *e)
{
    const struct implied_writer *w = arg;

    (void)first;
    return squash_entry(w->to, path, w->entry, e);
}

int flatten_write(const struct op *op, const struct layout *layout, const struct merge *survey,
                  struct squash *to, struct err *e)
{
    struct implied_writer w = {.entry = archive_entry_new(), .to = to};
    int rc;

    if (!w.entry)
        return err_set(e, ERR_INTERNAL, "libarchive: out of memory");
    archive_entry_set_mode(w.entry, AE_IFDIR | 0755);
    rc = merge_each_implied(survey, write_implied, &w, e);
    archive_entry_free(w.entry);
    for (size_t i = 0; i < layout->n_layers && rc == 0; i++) {
        if (!merge_layer_is_seen(survey, i))
            continue;
        rc = write_layer(op, layout, i, survey, to, e);
        if (rc < 0)
            err_wrap(e, "layer %s", layout->layers[i].digest);
    }
    return rc;
}
