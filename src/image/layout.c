/* SPDX-License-Identifier: Apache-2.0 */
#include "image/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "base/path.h"

enum {
    MAX_JSON = 1 << 20,
    MAX_LAYERS = 512,
    MAX_NESTING = 4, /* indexes that name indexes */
};

#define TAG_ANNOTATION "org.opencontainers.image.ref.name"

#define auto_json __attribute__((cleanup(json_drop)))

static void json_drop(json_t **doc)
{
    json_decref(*doc);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s ? s : "";
}

static bool is_one_of(const char *s, const char *const *list)
{
    while (*list && strcmp(*list, s) != 0)
        list++;
    return *list != NULL;
}

/* --- files --- */

static int open_file(int dirfd, const char *path, uint64_t *size_out, struct err *e)
{
    auto_close int fd = path_open_beneath(dirfd, path, O_RDONLY | O_NONBLOCK, 0, e);
    struct stat st;

    if (fd < 0 && (errno == ENOENT || errno == ELOOP || errno == EXDEV || errno == ENOTDIR)) {
        bool is_absent = errno == ENOENT;

        err_clear(e);
        return err_set(
            e, ERR_INVALID, is_absent ? "%s is missing" : "%s is not a plain file", path);
    }
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) < 0)
        return err_errno(e, "stat %s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_INVALID, "%s is not a plain file", path);
    *size_out = (uint64_t)st.st_size;
    return take_fd(&fd);
}

static int read_file(int fd, const char *what, struct buf *out, struct err *e)
{
    char chunk[16384];
    ssize_t n;

    while ((n = read(fd, chunk, sizeof(chunk))) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(e, "read %s", what);
        buf_append(out, chunk, (size_t)n);
        if (!buf_ok(out))
            return err_set(e, ERR_TOO_LARGE, "%s is larger than %zu bytes", what, out->max);
    }
    return 0;
}

static int open_blob(int dirfd, const char *digest, uint64_t size, struct err *e)
{
    char path[sizeof("blobs/sha256/") + DIGEST_HEX_LEN];
    auto_close int fd = -1;
    uint64_t found = 0;

    (void)snprintf(path, sizeof(path), "blobs/sha256/%s", digest_hex(digest));
    fd = open_file(dirfd, path, &found, e);
    if (fd < 0)
        return -1;
    if (found != size)
        return err_set(e,
                       ERR_INVALID,
                       "blob %s has %" PRIu64 " bytes, and should have %" PRIu64,
                       digest,
                       found,
                       size);
    return take_fd(&fd);
}

/* --- documents --- */

static int read_descriptor(const json_t *descriptor, struct layer *out, struct err *e)
{
    const char *digest = text_of(descriptor, "digest");
    const json_t *size = json_object_get(descriptor, "size");

    if (!digest_is_valid(digest))
        return err_set(e, ERR_INVALID, "\"%.100s\" is not a sha256 digest", digest);
    if (!json_is_integer(size) || json_integer_value(size) < 0)
        return err_set(e, ERR_INVALID, "blob %s has no size", digest);
    memcpy(out->digest, digest, sizeof(out->digest));
    out->size = (uint64_t)json_integer_value(size);
    return 0;
}

static json_t *read_json_blob(int dirfd, const struct layer *blob, struct err *e)
{
    auto_buf struct buf text = BUF(MAX_JSON);
    auto_close int fd = open_blob(dirfd, blob->digest, blob->size, e);
    char found[DIGEST_SIZE];
    json_t *doc;

    if (fd < 0 || read_file(fd, blob->digest, &text, e) < 0)
        return NULL;
    digest_of(buf_str(&text), text.len, found);
    if (strcmp(found, blob->digest) != 0) {
        err_set(e, ERR_INVALID, "blob %s is damaged: its digest is %s", blob->digest, found);
        return NULL;
    }
    doc = parse_json(buf_str(&text), text.len, e);
    if (!doc)
        err_wrap(e, "blob %s", blob->digest);
    return doc;
}

static json_t *read_index(int dirfd, struct err *e)
{
    auto_buf struct buf text = BUF(MAX_JSON);
    uint64_t size;
    auto_close int fd = open_file(dirfd, "index.json", &size, e);
    json_t *doc;

    if (fd < 0) {
        err_wrap(e, "this is not an OCI image layout");
        return NULL;
    }
    if (read_file(fd, "index.json", &text, e) < 0)
        return NULL;
    doc = parse_json(buf_str(&text), text.len, e);
    if (!doc)
        err_wrap(e, "index.json");
    return doc;
}

/* --- choosing the manifest --- */

static bool is_index(const char *media_type)
{
    static const char *const types[] = {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        NULL,
    };

    return is_one_of(media_type, types);
}

static bool is_manifest(const char *media_type)
{
    static const char *const types[] = {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "",
        NULL,
    };

    return is_one_of(media_type, types);
}

static bool is_ours(const json_t *platform)
{
    return !platform || (strcmp(text_of(platform, "os"), "linux") == 0 &&
                         strcmp(text_of(platform, "architecture"), "amd64") == 0);
}

/* The entries that may be meant, and those among them that are for our platform. */
struct choice {
    const json_t *first;
    size_t n;
    const json_t *latest;
    bool has_tag; /* whatever its platform */
};

static void consider(struct choice *c, const json_t *entry, const char *tag)
{
    const char *type = text_of(entry, "mediaType");
    const char *has = text_of(json_object_get(entry, "annotations"), TAG_ANNOTATION);

    if (tag && strcmp(has, tag) != 0)
        return;
    c->has_tag = true;
    if ((!is_manifest(type) && !is_index(type)) || !is_ours(json_object_get(entry, "platform")))
        return;
    if (c->n++ == 0)
        c->first = entry;
    if (strcmp(has, "latest") == 0)
        c->latest = entry;
}

static const json_t *choose(const json_t *index, bool is_nested, const char *tag, struct err *e)
{
    const json_t *manifests = json_object_get(index, "manifests");
    struct choice c = {0};

    if (!json_is_array(manifests)) {
        err_set(e, ERR_INVALID, "the index has no list of manifests");
        return NULL;
    }
    for (size_t i = 0; i < json_array_size(manifests); i++)
        consider(&c, json_array_get(manifests, i), tag);
    if (c.n == 1 || (c.n > 1 && (tag || is_nested)))
        return c.first;
    if (c.latest)
        return c.latest;
    if (tag && !c.has_tag)
        err_set(e, ERR_NOT_FOUND, "the layout has no tag %s", tag);
    else if (c.n > 1)
        err_set(e, ERR_INVALID, "the layout holds %zu images: say which, oci:DIR:TAG", c.n);
    else if (json_array_size(manifests) == 0)
        err_set(e, ERR_INVALID, "the layout holds no image");
    else {
        err_set(e, ERR_NOT_FOUND, "the layout has no image for " IMAGE_PLATFORM);
        err_slug(e, "platform_not_available");
    }
    return NULL;
}

/* Follows indexes down to a manifest. The descriptor's digest becomes the image's. */
static json_t *find_manifest(int dirfd, const char *tag, struct layer *found, struct err *e)
{
    auto_json json_t *doc = read_index(dirfd, e);

    for (int depth = 0; doc && depth < MAX_NESTING; depth++) {
        const json_t *chosen = choose(doc, depth > 0, depth > 0 ? NULL : tag, e);
        json_t *next;
        bool is_last;

        if (!chosen || read_descriptor(chosen, found, e) < 0)
            return NULL;
        is_last = !is_index(text_of(chosen, "mediaType"));
        next = read_json_blob(dirfd, found, e);
        if (is_last)
            return next;
        json_decref(doc);
        doc = next;
    }
    if (doc)
        err_set(e, ERR_INVALID, "indexes are nested more than %d deep", (int)MAX_NESTING);
    return NULL;
}

/* --- reading it --- */

static int read_layers(const json_t *manifest, struct layout *l, struct err *e)
{
    static const char *const types[] = {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        NULL,
    };
    const json_t *layers = json_object_get(manifest, "layers");

    if (!json_is_array(layers) || json_array_size(layers) == 0 ||
        json_array_size(layers) > MAX_LAYERS)
        return err_set(
            e, ERR_INVALID, "the manifest has no list of 1 to %d layers", (int)MAX_LAYERS);
    l->layers = mem_zalloc(json_array_size(layers), sizeof(*l->layers));
    for (size_t i = 0; i < json_array_size(layers); i++) {
        const json_t *layer = json_array_get(layers, i);
        const char *type = text_of(layer, "mediaType");

        if (!is_one_of(type, types))
            return err_set(e, ERR_UNSUPPORTED, "layers of type \"%.100s\" are not supported", type);
        if (read_descriptor(layer, &l->layers[l->n_layers++], e) < 0)
            return -1;
    }
    return 0;
}

static int read_config(const json_t *manifest, struct layout *l, struct err *e)
{
    struct layer blob = {0};
    auto_json json_t *doc = NULL;

    if (read_descriptor(json_object_get(manifest, "config"), &blob, e) < 0)
        return err_wrap(e, "the image's configuration");
    doc = read_json_blob(l->dirfd, &blob, e);
    if (!doc)
        return -1;
    if (!is_ours(doc)) {
        err_set(e,
                ERR_NOT_FOUND,
                "the image is for %.40s/%.40s, this host runs " IMAGE_PLATFORM,
                text_of(doc, "os"),
                text_of(doc, "architecture"));
        return err_slug(e, "platform_not_available");
    }
    if (image_config_read(json_object_get(doc, "config"), &l->config, e) < 0)
        return err_wrap(e, "the image's configuration");
    return 0;
}

int layout_read(int dirfd, const char *tag, struct layout *out, struct err *e)
{
    auto_layout struct layout l = {.dirfd = dirfd};
    struct layer found = {0};
    auto_json json_t *manifest = find_manifest(dirfd, tag, &found, e);

    if (!manifest || read_layers(manifest, &l, e) < 0 || read_config(manifest, &l, e) < 0)
        return -1;
    memcpy(l.digest, found.digest, sizeof(l.digest));
    *out = l;
    l = (struct layout){0};
    return 0;
}

void layout_fini(struct layout *layout)
{
    image_config_fini(&layout->config);
    free(layout->layers);
    *layout = (struct layout){.dirfd = -1};
}

int layout_open_layer(const struct layout *layout, const struct layer *layer, struct err *e)
{
    return open_blob(layout->dirfd, layer->digest, layer->size, e);
}
