/* SPDX-License-Identifier: Apache-2.0 */
#include "image/import.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/id.h"
#include "base/mem.h"
#include "base/path.h"
#include "image/flatten.h"
#include "image/layout.h"
#include "image/squash.h"
#include "image/tree.h"

static const uint64_t default_max_bytes = 64ULL << 30;

/* Names of one digest's files while they come and go: a prefix and a fresh id. */
#define NEW_PREFIX ".new-"
#define OLD_PREFIX ".old-"
enum { TEMPORARY_SIZE = sizeof(NEW_PREFIX) + ID_SIZE };

/* --- the source --- */

int image_source_parse(const char *text, struct image_source *out, struct err *e)
{
    const char *path = strchr(text, ':');
    size_t len = path ? strlen(path + 1) : 0;

    if (len == 0 || (strncmp(text, "dir:", 4) != 0 && strncmp(text, "oci:", 4) != 0))
        return err_set(e, ERR_INVALID, "an image's source is dir:PATH or oci:DIR[:TAG]");
    path++;
    if (*path != '/')
        return err_set(e, ERR_INVALID, "the path of an image's source must be absolute");
    out->kind = text[0] == 'd' ? IMAGE_FROM_DIR : IMAGE_FROM_OCI;
    if (out->kind == IMAGE_FROM_OCI)
        len = strcspn(path, ":"); /* as skopeo: a tag may hold colons, the path may not */
    if (path[len] == ':' && !path[len + 1])
        return err_set(e, ERR_INVALID, "the tag after %.*s: is empty", (int)len, path);
    out->path = mem_printf("%.*s", (int)len, path);
    out->tag = path[len] ? mem_strdup(path + len + 1) : NULL;
    return 0;
}

void image_source_fini(struct image_source *source)
{
    image_config_fini(&source->overrides);
    free(source->name);
    free(source->path);
    free(source->tag);
    *source = (struct image_source){0};
}

static int open_source(const struct image_source *source, struct err *e)
{
    int fd = open(source->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 && errno == ENOENT)
        return err_set(e, ERR_NOT_FOUND, "there is no directory %s", source->path);
    if (fd < 0 && errno == ENOTDIR)
        return err_set(e, ERR_INVALID, "%s is not a directory", source->path);
    return fd < 0 ? err_errno(e, "open %s", source->path) : fd;
}

static int normal_name(const char *name, char out[REF_TEXT_SIZE], struct err *e)
{
    struct image_ref ref;

    if (image_ref_parse(name, &ref, e) < 0)
        return -1;
    if (ref.digest[0]) {
        err_set(e, ERR_INVALID, "invalid image reference: an import is given a tag, not a digest");
        return err_slug(e, "invalid_name");
    }
    image_ref_text(&ref, out);
    return 0;
}

static void copy_list(struct argv *to, const struct argv *from)
{
    if (from->n == 0)
        return;
    argv_free(to);
    for (size_t i = 0; i < from->n; i++)
        argv_push(to, from->v[i]);
}

static void copy_text(char **to, const char *from)
{
    if (!from)
        return;
    free(*to);
    *to = mem_strdup(from);
}

static void apply_overrides(struct image_config *config, const struct image_config *overrides)
{
    copy_list(&config->entrypoint, &overrides->entrypoint);
    copy_list(&config->cmd, &overrides->cmd);
    copy_text(&config->working_dir, overrides->working_dir);
    copy_text(&config->user, overrides->user);
    for (size_t i = 0; i < overrides->env.n; i++)
        image_config_set_env(config, overrides->env.v[i]);
}

/* --- building --- */

/* Under way: undone when the scope ends, unless it was published. */
struct build {
    const struct op *op;
    const struct image_source *source;
    int images_dirfd;
    int source_fd;
    int dirfd; /* the temporary directory */
    char temporary[TEMPORARY_SIZE];
    char digest[DIGEST_SIZE];
    struct layout layout; /* of IMAGE_FROM_OCI */
    uint64_t size_bytes;
};

#define auto_build __attribute__((cleanup(build_undo)))

static void build_undo(struct build *b)
{
    struct err ignored = {0};

    if (b->temporary[0])
        (void)tree_remove(b->images_dirfd, b->temporary, &ignored);
    layout_fini(&b->layout);
    cleanup_close(&b->dirfd);
    cleanup_close(&b->source_fd);
}

static void temporary_name(const char *prefix, char out[TEMPORARY_SIZE])
{
    char id[ID_SIZE];

    id_new(id);
    (void)snprintf(out, TEMPORARY_SIZE, "%s%s", prefix, id);
}

/* Whether there are files with this digest; then their size is learned. */
static bool is_built(struct build *b)
{
    char path[DIGEST_HEX_LEN + sizeof("/" IMAGE_ROOTFS)];
    struct stat st;

    (void)snprintf(path, sizeof(path), "%s/" IMAGE_ROOTFS, digest_hex(b->digest));
    if (fstatat(b->images_dirfd, path, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
        return false;
    b->size_bytes = (uint64_t)st.st_size;
    return true;
}

static int fill(struct build *b, const struct merge *survey, uint64_t max_bytes, struct err *e)
{
    struct squash *squash = squash_begin(b->op, b->dirfd, IMAGE_ROOTFS, e);
    int rc = -1;

    if (!squash)
        return -1;
    if (survey)
        rc = flatten_write(b->op, &b->layout, survey, squash, e);
    else
        rc = tree_pack(b->source_fd, max_bytes, squash, e);
    if (rc == 0)
        rc = squash_finish(squash, e);
    squash_free(squash);
    return rc;
}

/* The file as it will stay: read-only, its size known, and its digest for want of another. */
static int seal(struct build *b, struct err *e)
{
    auto_close int fd = path_open_beneath(b->dirfd, IMAGE_ROOTFS, O_RDONLY, 0, e);
    struct stat st;

    if (fd < 0)
        return -1;
    if (fchmod(fd, 0400) < 0 || fstat(fd, &st) < 0)
        return err_errno(e, "seal " IMAGE_ROOTFS);
    b->size_bytes = (uint64_t)st.st_size;
    if (b->source->kind == IMAGE_FROM_DIR && digest_of_file(b->op, fd, b->digest, e) < 0)
        return -1;
    return dir_sync(b->dirfd, e);
}

static int build_files(struct build *b, struct err *e)
{
    uint64_t max_bytes = b->source->max_bytes ? b->source->max_bytes : default_max_bytes;
    struct merge *survey = NULL;
    int rc;

    if (b->source->kind == IMAGE_FROM_OCI) {
        survey = flatten_survey(b->op, &b->layout, max_bytes, e);
        if (!survey)
            return -1;
    }
    temporary_name(NEW_PREFIX, b->temporary);
    rc = dir_ensure(b->images_dirfd, b->temporary, 0700, e);
    if (rc == 0) {
        b->dirfd = dir_open(b->images_dirfd, b->temporary, e);
        rc = b->dirfd < 0 || fill(b, survey, max_bytes, e) < 0 || seal(b, e) < 0 ? -1 : 0;
    }
    merge_free(survey);
    if (survey)
        (void)malloc_trim(0); /* nothing else here is as large; an idle daemon stays small */
    return rc;
}

/* The same content may be there already, from another source: then this one goes. */
static int publish(struct build *b, struct err *e)
{
    if (renameat(b->images_dirfd, b->temporary, b->images_dirfd, digest_hex(b->digest)) == 0)
        b->temporary[0] = '\0';
    else if ((errno != EEXIST && errno != ENOTEMPTY) || !is_built(b))
        return err_errno(e, "publish the image's files");
    return dir_sync(b->images_dirfd, e);
}

int image_import(const struct op *op, const struct image_source *source, int images_dirfd,
                 struct image *out, struct err *e)
{
    auto_build struct build b = {
        .op = op, .source = source, .images_dirfd = images_dirfd, .source_fd = -1, .dirfd = -1};
    char name[REF_TEXT_SIZE];
    bool is_oci = source->kind == IMAGE_FROM_OCI;
    struct image image = {0};

    if (normal_name(source->name, name, e) < 0)
        return -1;
    b.source_fd = open_source(source, e);
    if (b.source_fd < 0)
        return -1;
    if ((is_oci && layout_read(b.source_fd, source->tag, &b.layout, e) < 0))
        return err_wrap(e, "%s", source->path);
    if (is_oci)
        memcpy(b.digest, b.layout.digest, sizeof(b.digest));
    if (!(is_oci && is_built(&b)) && (build_files(&b, e) < 0 || publish(&b, e) < 0))
        return err_wrap(e, "import %s", source->path);

    image.name = mem_strdup(name);
    memcpy(image.digest, b.digest, sizeof(image.digest));
    image.size_bytes = b.size_bytes;
    image.created_us = wall_us();
    image.config = b.layout.config;
    b.layout.config = (struct image_config){0};
    apply_overrides(&image.config, &source->overrides);
    *out = image;
    return 0;
}

/* --- removing --- */

int image_remove_files(int images_dirfd, const char *digest, struct err *e)
{
    char temporary[TEMPORARY_SIZE];

    temporary_name(OLD_PREFIX, temporary);
    if (renameat(images_dirfd, digest_hex(digest), images_dirfd, temporary) < 0)
        return errno == ENOENT ? 0 : err_errno(e, "remove the files of %s", digest);
    return tree_remove(images_dirfd, temporary, e);
}

static bool is_leftover(const char *name, bool (*is_used)(void *arg, const char *digest), void *arg)
{
    char digest[DIGEST_SIZE];
    int n = snprintf(digest, sizeof(digest), "sha256:%s", name);

    if (strncmp(name, NEW_PREFIX, strlen(NEW_PREFIX)) == 0 ||
        strncmp(name, OLD_PREFIX, strlen(OLD_PREFIX)) == 0)
        return true;
    return n == DIGEST_LEN && digest_is_valid(digest) && !is_used(arg, digest);
}

int image_sweep_files(int images_dirfd, bool (*is_used)(void *arg, const char *digest), void *arg,
                      struct err *e)
{
    int fd = dir_open(images_dirfd, ".", e);
    const struct dirent *entry;
    DIR *dir;
    int rc = 0;

    if (fd < 0)
        return -1;
    dir = fdopendir(fd);
    if (!dir) {
        err_errno(e, "read the images directory");
        close(fd);
        return -1;
    }
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        if (is_leftover(entry->d_name, is_used, arg))
            rc = tree_remove(images_dirfd, entry->d_name, e);
    }
    closedir(dir);
    return rc;
}
