/* SPDX-License-Identifier: Apache-2.0 */
/* Makes small OCI image layouts for tests, right ones and wrong ones. */
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "image/digest.h"
#include "unit.h"

struct item {
    const char *path;
    char type;        /* f file, d directory, l symlink, h hard link, c device, p fifo, s socket */
    unsigned mode;    /* 0 for 0644 and 0755 */
    const char *text; /* content or target */
};

struct maker {
    int dirfd;
    struct buf layers; /* descriptors, with commas */
    struct buf manifests;
    const char *layer_type;
};

static inline void put_file(int dirfd, const char *path, const void *data, size_t len)
{
    struct err e = {0};
    int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(file_write_all(fd, data, len, &e), 0);
    close(fd);
}

static inline void put_blob(struct maker *m, const void *data, size_t len, char digest[DIGEST_SIZE])
{
    char path[128];

    digest_of(data, len, digest);
    (void)snprintf(path, sizeof(path), "blobs/sha256/%s", digest_hex(digest));
    put_file(m->dirfd, path, data, len);
}

static inline void begin_layout(struct maker *m, int dirfd)
{
    static const char version[] = "{\"imageLayoutVersion\": \"1.0.0\"}";

    *m = (struct maker){.dirfd = dirfd,
                        .layers = BUF(1 << 20),
                        .manifests = BUF(1 << 20),
                        .layer_type = "application/vnd.oci.image.layer.v1.tar"};
    (void)mkdirat(dirfd, "blobs", 0755);
    (void)mkdirat(dirfd, "blobs/sha256", 0755);
    put_file(dirfd, "oci-layout", version, strlen(version));
}

static inline void describe(struct buf *list, const char *type, const char *digest, size_t size,
                            const char *more)
{
    buf_printf(list,
               "%s{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu%s}",
               list->len ? "," : "",
               type,
               digest,
               size,
               more);
}

static inline void add_blob_layer(struct maker *m, const void *data, size_t len)
{
    char digest[DIGEST_SIZE];

    put_blob(m, data, len, digest);
    describe(&m->layers, m->layer_type, digest, len, "");
}

static inline void write_item(struct archive *a, const struct item *i)
{
    struct archive_entry *entry = archive_entry_new();
    bool is_dir = i->type == 'd';

    archive_entry_copy_pathname(entry, i->path);
    archive_entry_set_mtime(entry, 1000000000, 0);
    archive_entry_set_filetype(entry,
                               is_dir           ? AE_IFDIR
                               : i->type == 'l' ? AE_IFLNK
                               : i->type == 'c' ? AE_IFCHR
                               : i->type == 'p' ? AE_IFIFO
                                                : AE_IFREG);
    archive_entry_set_perm(entry, i->mode ? i->mode : is_dir ? 0755 : 0644);
    archive_entry_set_size(entry, i->type == 'f' ? (int64_t)strlen(i->text) : 0);
    if (i->type == 'l')
        archive_entry_copy_symlink(entry, i->text);
    if (i->type == 'h')
        archive_entry_copy_hardlink(entry, i->text);
    if (i->type == 'c')
        archive_entry_set_rdev(entry, makedev(1, 3));
    assert_true(archive_write_header(a, entry) >= ARCHIVE_WARN);
    if (i->type == 'f')
        assert_int_equal(archive_write_data(a, i->text, strlen(i->text)), strlen(i->text));
    archive_entry_free(entry);
}

/* filter: ARCHIVE_FILTER_NONE, _GZIP or _ZSTD. The items end with one without a path. */
static inline size_t write_tar(int filter, const struct item *items, char *out, size_t size)
{
    struct archive *a = archive_write_new();
    size_t used = 0;

    archive_write_set_format_pax_restricted(a);
    archive_write_set_options(a, "hdrcharset=BINARY");
    assert_int_equal(archive_write_add_filter(a, filter), ARCHIVE_OK);
    assert_int_equal(archive_write_open_memory(a, out, size, &used), ARCHIVE_OK);
    for (; items->path; items++)
        write_item(a, items);
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
    return used;
}

static inline void add_layer(struct maker *m, int filter, const struct item *items)
{
    static char tar[4 << 20];

    add_blob_layer(m, tar, write_tar(filter, items, tar, sizeof(tar)));
}

static inline void write_index(struct maker *m)
{
    struct buf index = BUF(1 << 20);

    buf_printf(&index, "{\"schemaVersion\":2,\"manifests\":[%s]}", buf_str(&m->manifests));
    put_file(m->dirfd, "index.json", index.data, index.len);
    buf_free(&index);
}

/* Ends an image: the layers so far with this configuration, under this tag. */
static inline void end_image(struct maker *m, const char *arch, const char *config, const char *tag)
{
    struct buf doc = BUF(1 << 20);
    struct buf more = BUF(1000);
    char digest[DIGEST_SIZE];

    buf_printf(&doc, "{\"os\":\"linux\",\"architecture\":\"%s\",\"config\":%s}", arch, config);
    put_blob(m, doc.data, doc.len, digest);
    buf_printf(&more,
               "{\"schemaVersion\":2,\"config\":{\"mediaType\":"
               "\"application/vnd.oci.image.config.v1+json\",\"digest\":\"%s\",\"size\":%zu},"
               "\"layers\":[%s]}",
               digest,
               doc.len,
               buf_str(&m->layers));
    buf_free(&doc);
    put_blob(m, more.data, more.len, digest);
    doc = BUF(1000);
    buf_printf(&doc, ",\"annotations\":{\"org.opencontainers.image.ref.name\":\"%s\"}", tag);
    describe(&m->manifests,
             "application/vnd.oci.image.manifest.v1+json",
             digest,
             more.len,
             buf_str(&doc));
    buf_free(&doc);
    buf_free(&more);
    buf_free(&m->layers);
    m->layers = BUF(1 << 20);
    write_index(m);
}

static inline void end_layout(struct maker *m)
{
    buf_free(&m->layers);
    buf_free(&m->manifests);
}
