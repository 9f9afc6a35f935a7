/* SPDX-License-Identifier: Apache-2.0 */
/* Making images: directories and OCI layouts into a squashfs, and what must be refused. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "image/import.h"
#include "layout_maker.h"
#include "loop/proc.h"

struct fixture {
    char path[64];
    int source; /* path/source */
    int images; /* path/images */
    struct op op;
    uint64_t max_bytes;
    struct image image;
    struct maker maker;
    size_t fds;
};

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    struct err e = {0};
    int dirfd;

    f->fds = open_fds();
    (void)snprintf(f->path, sizeof(f->path), "/var/tmp/test_import.XXXXXX");
    assert_non_null(mkdtemp(f->path));
    dirfd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(mkdirat(dirfd, "source", 0755), 0);
    assert_int_equal(mkdirat(dirfd, "images", 0700), 0);
    f->source = dir_open(dirfd, "source", &e);
    f->images = dir_open(dirfd, "images", &e);
    close(dirfd);
    f->op = (struct op){.deadline_ms = clock_ms() + 60000, .cancel_fd = -1};
    begin_layout(&f->maker, f->source);
    *state = f;
    return 0;
}

/* As setup(), without the layout: the source is an empty directory. */
static int setup_dir(void **state)
{
    struct fixture *f;
    struct err e = {0};

    setup(state);
    f = *state;
    assert_int_equal(tree_remove(f->source, "blobs", &e), 0);
    assert_int_equal(tree_remove(f->source, "oci-layout", &e), 0);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    char images[80];

    (void)snprintf(images, sizeof(images), "%s/images", f->path);
    image_fini(&f->image);
    end_layout(&f->maker);
    close(f->source);
    close(f->images);
    (void)umount2(images, MNT_DETACH); /* of a test that failed */
    assert_int_equal(tree_remove(AT_FDCWD, f->path, &e), 0);
    assert_int_equal(open_fds(), f->fds);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
    assert_int_equal(errno, ECHILD);
    free(f);
    return 0;
}

static int import(struct fixture *f, const char *kind, const char *tag,
                  const struct image_config *overrides, struct err *e)
{
    struct image_source source = {.name = mem_strdup("busybox:demo"), .max_bytes = f->max_bytes};
    char text[128];
    int rc;

    (void)snprintf(text, sizeof(text), "%s:%s/source%s", kind, f->path, tag);
    assert_int_equal(image_source_parse(text, &source, e), 0);
    if (overrides)
        source.overrides = *overrides;
    image_fini(&f->image);
    rc = image_import(&f->op, &source, f->images, &f->image, e);
    image_source_fini(&source);
    return rc;
}

static void import_well(struct fixture *f, const char *kind, const char *tag)
{
    struct err e = {0};

    if (import(f, kind, tag, NULL, &e) < 0)
        fail_msg("%s", e.msg);
}

/* What a program prints about the image that was made. */
static void ask(struct fixture *f, struct buf *out, const char *option, const char *path)
{
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    struct err e = {0};

    argv_push(&argv, "/usr/bin/rdsquashfs");
    argv_push(&argv, option);
    if (path)
        argv_push(&argv, path);
    argv_pushf(&argv, "%s/images/%s/rootfs.sqfs", f->path, digest_hex(f->image.digest));
    if (proc_run(&f->op, &spec, out, &e) < 0)
        fail_msg("%s", e.msg);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The lines of rdsquashfs --describe, sorted. */
static void expect_tree(struct fixture *f, const char *want)
{
    auto_buf struct buf out = BUF(1 << 20);
    auto_buf struct buf sorted = BUF(1 << 20);
    char *lines[1000] = {0};
    size_t n = 0;
    char *line;

    ask(f, &out, "-d", NULL);
    for (line = out.data; line && *line && n < 1000; n++) {
        char *end = strchrnul(line, '\n');

        lines[n] = line;
        line = *end ? end + 1 : end;
        *end = '\0';
    }
    qsort(lines, n, sizeof(*lines), by_text);
    for (size_t i = 0; i < n; i++)
        buf_printf(&sorted, "%s\n", lines[i]);
    assert_string_equal(buf_str(&sorted), want);
}

static void expect_content(struct fixture *f, const char *path, const char *want)
{
    auto_buf struct buf out = BUF(1 << 20);

    ask(f, &out, "-c", path);
    assert_string_equal(buf_str(&out), want);
}

/* What a listing does not show. */
static void expect_attribute(struct fixture *f, const char *path, const char *want)
{
    auto_buf struct buf out = BUF(1 << 20);

    ask(f, &out, "-s", path);
    assert_non_null(strstr(buf_str(&out), want));
}

static size_t n_in(int dirfd)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fdopendir(fd);
    size_t n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2;
}

static void refused(struct fixture *f, const char *kind, const char *tag, enum err_code code,
                    const char *text)
{
    struct err e = {0};

    if (import(f, kind, tag, NULL, &e) == 0)
        fail_msg("it was imported");
    print_message("%s\n", e.msg);
    assert_non_null(strstr(e.msg, text));
    assert_int_equal(e.code, code);
    assert_int_equal(n_in(f->images), 0);
}

/* --- sources --- */

static void sources_are_read_strictly(void **state)
{
    static const char *const bad[] = {
        "", "dir", "dir:", "oci:", "tar:/x", "dir:rel", "oci:rel:tag", "oci:/x:", "/x", "DIR:/x"};
    struct image_source source = {0};
    struct err e = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (image_source_parse(bad[i], &source, &e) == 0)
            fail_msg("%s was taken", bad[i]);
        assert_int_equal(e.code, ERR_INVALID);
        err_clear(&e);
    }
    assert_int_equal(image_source_parse("dir:/a:b", &source, &e), 0);
    assert_string_equal(source.path, "/a:b");
    assert_null(source.tag);
    image_source_fini(&source);
    assert_int_equal(image_source_parse("oci:/a:h.x:5/b:c", &source, &e), 0);
    assert_string_equal(source.path, "/a");
    assert_string_equal(source.tag, "h.x:5/b:c");
    image_source_fini(&source);
}

/* --- directories --- */

static void make_device(int dirfd, const char *name)
{
    if (mknodat(dirfd, name, S_IFCHR | 0666, makedev(1, 3)) < 0)
        put_file(dirfd, name, "", 0); /* not root: only here for the listing below to differ */
}

static void fill_tree(int dirfd)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timespec times[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000, .tv_nsec = 5}};

    assert_int_equal(mkdirat(dirfd, "bin", 0755), 0);
    assert_int_equal(mkdirat(dirfd, "empty", 0700), 0);
    put_file(dirfd, "bin/tool", "tool\n", 5);
    assert_int_equal(fchmodat(dirfd, "bin/tool", 04755, 0), 0);
    assert_int_equal(linkat(dirfd, "bin/tool", dirfd, "alias", 0), 0);
    assert_int_equal(symlinkat("/etc", dirfd, "outside"), 0);
    assert_int_equal(symlinkat("nowhere", dirfd, "dangling"), 0);
    assert_int_equal(mkfifoat(dirfd, "fifo", 0600), 0);
    make_device(dirfd, "null");
    put_file(dirfd, "\xc3\xa4 \xe9", "x", 1); /* UTF-8, a blank, and a byte that is no text */
    (void)snprintf(at.sun_path, sizeof(at.sun_path), "/proc/self/fd/%d/socket", dirfd);
    assert_int_equal(bind(sock, (struct sockaddr *)&at, sizeof(at)), 0);
    close(sock);
    assert_int_equal(utimensat(dirfd, "bin/tool", times, 0), 0);
}

static void a_directory_becomes_the_root(void **state)
{
    struct fixture *f = *state;
    struct stat st;

    fill_tree(f->source);
    import_well(f, "dir", "");
    expect_tree(f,
                "dir bin 0755 0 0\n"
                "dir empty 0700 0 0\n"
                "file \"\xc3\xa4 \xe9\" 0644 0 0\n"
                "file alias 04755 0 0\n"
                "file bin/tool 04755 0 0\n"
                "nod null 0644 0 0 c 1 3\n"
                "pipe fifo 0600 0 0\n"
                "slink dangling 0777 0 0 nowhere\n"
                "slink outside 0777 0 0 /etc\n");
    expect_content(f, "bin/tool", "tool\n");
    expect_content(f, "alias", "tool\n");
    expect_attribute(f, "alias", "Hard link count: 2");
    expect_attribute(f, "alias", "(1000000000)");
    assert_string_equal(f->image.name, "docker.io/library/busybox:demo");
    assert_int_equal(n_in(f->images), 1);
    assert_int_equal(fstatat(f->images, digest_hex(f->image.digest), &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_true(f->image.size_bytes > 0);
}

static void the_same_tree_gives_the_same_digest(void **state)
{
    struct fixture *f = *state;
    char first[DIGEST_SIZE];

    fill_tree(f->source);
    import_well(f, "dir", "");
    memcpy(first, f->image.digest, sizeof(first));
    import_well(f, "dir", "");
    assert_string_equal(f->image.digest, first);
    assert_int_equal(n_in(f->images), 1);
    put_file(f->source, "bin/tool", "toll\n", 5);
    import_well(f, "dir", "");
    assert_string_not_equal(f->image.digest, first);
    assert_int_equal(n_in(f->images), 2);
}

static void the_digest_is_that_of_the_file(void **state)
{
    struct fixture *f = *state;
    char path[100];
    char digest[DIGEST_SIZE];
    struct err e = {0};
    int fd;

    put_file(f->source, "a", "a", 1);
    import_well(f, "dir", "");
    (void)snprintf(path, sizeof(path), "%s/rootfs.sqfs", digest_hex(f->image.digest));
    fd = openat(f->images, path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(digest_of_file(&f->op, fd, digest, &e), 0);
    assert_string_equal(digest, f->image.digest);
    close(fd);
}

static void file_capabilities_are_kept(void **state)
{
    /* cap_net_raw, permitted and effective, revision 2 */
    static const unsigned char cap[20] = {1, 0, 0, 2, 0, 0x20};
    struct fixture *f = *state;
    auto_buf struct buf out = BUF(1 << 16);
    int fd;

    put_file(f->source, "ping", "x", 1);
    fd = openat(f->source, "ping", O_RDONLY | O_CLOEXEC);
    if (fsetxattr(fd, "user.note", "n", 1, 0) < 0 ||
        fsetxattr(fd, "security.capability", cap, sizeof(cap), 0) < 0) {
        print_message("no extended attributes here: left out\n");
    } else {
        import_well(f, "dir", "");
        ask(f, &out, "-x", "ping");
        assert_string_equal(buf_str(&out),
                            "security.capability=0x0100000200200000000000000000000000000000\n");
    }
    close(fd);
}

static void what_is_set_by_the_client_holds(void **state)
{
    struct fixture *f = *state;
    struct image_config o = {0};
    struct err e = {0};

    argv_push(&o.entrypoint, "/bin/init");
    argv_push(&o.cmd, "-v");
    argv_push(&o.env, "A=2");
    o.working_dir = mem_strdup("/w");
    o.user = mem_strdup("nobody");
    assert_int_equal(import(f, "dir", "", &o, &e), 0);
    assert_string_equal(f->image.config.entrypoint.v[0], "/bin/init");
    assert_string_equal(f->image.config.cmd.v[0], "-v");
    assert_string_equal(f->image.config.env.v[0], "A=2");
    assert_string_equal(f->image.config.working_dir, "/w");
    assert_string_equal(f->image.config.user, "nobody");
}

static void a_missing_directory_is_said_to_be_missing(void **state)
{
    struct fixture *f = *state;
    struct image_source source = {.name = mem_strdup("a"), .path = mem_strdup("/nowhere/at/all")};
    struct err e = {0};

    assert_int_equal(image_import(&f->op, &source, f->images, &f->image, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_string_equal(e.msg, "there is no directory /nowhere/at/all");
    free(source.name);
    source.name =
        mem_strdup("a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
    err_clear(&e);
    assert_int_equal(image_import(&f->op, &source, f->images, &f->image, &e), -1);
    assert_string_equal(err_name(&e), "invalid_name");
    image_source_fini(&source);
}

static void a_directory_over_the_limit_is_refused(void **state)
{
    struct fixture *f = *state;

    put_file(f->source, "a", "0123456789", 10);
    put_file(f->source, "b", "0123456789", 10);
    f->max_bytes = 19;
    refused(f, "dir", "", ERR_TOO_LARGE, "b: with it the tree is larger");
    f->max_bytes = 20;
    import_well(f, "dir", "");
}

static void a_tree_that_is_too_deep_is_refused(void **state)
{
    struct fixture *f = *state;
    int at = fcntl(f->source, F_DUPFD_CLOEXEC, 3);

    for (int i = 0; i < 250; i++) {
        int next;

        assert_int_equal(mkdirat(at, "d", 0755), 0);
        next = openat(at, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        close(at);
        at = next;
    }
    close(at);
    refused(f, "dir", "", ERR_INVALID, "directories deep");
}

/* --- layouts --- */

#define ITEMS(...) ((const struct item[]){__VA_ARGS__, {0}})
static const char no_config[] = "{}";

static void layers_lie_over_one_another(void **state)
{
    struct fixture *f = *state;
    static const char config[] = "{\"Entrypoint\":[\"/e\"],\"Cmd\":[\"c\"],\"Env\":[\"A=1\"],"
                                 "\"WorkingDir\":\"/w\",\"User\":\"u:g\",\"Labels\":{\"x\":\"y\"}}";

    add_layer(&f->maker,
              ARCHIVE_FILTER_NONE,
              ITEMS({"./", 'd', 0750, NULL},
                    {"etc/", 'd', 0700, NULL},
                    {"etc/passwd", 'f', 0, "old"},
                    {"etc/gone", 'f', 0, "gone"},
                    {"usr/bin/tool", 'f', 0755, "tool"},
                    {"data/a", 'f', 0, "a"},
                    {"data/b/c", 'f', 0, "c"},
                    {"file-to-dir", 'f', 0, "x"},
                    {"dir-to-file/x", 'f', 0, "x"},
                    {"\xc3\xa4 \xe9", 'f', 0, "name"}));
    add_layer(&f->maker,
              ARCHIVE_FILTER_GZIP,
              ITEMS({"etc/", 'd', 0755, NULL},
                    {"etc/passwd", 'f', 0600, "new"},
                    {"etc/.wh.gone", 'f', 0, ""},
                    {"data/new", 'f', 0, "n"}, /* before the marker, and still of this layer */
                    {"data/.wh..wh..opq", 'f', 0, ""},
                    {"data/new2", 'f', 0, "n"},
                    {".wh..wh.plnk", 'd', 0, NULL},
                    {".wh..wh.plnk/1.2", 'f', 0, "x"},
                    {"file-to-dir", 'd', 0, NULL},
                    {"file-to-dir/y", 'f', 0, "y"},
                    {"dir-to-file", 'f', 0, "now a file"}));
    add_layer(&f->maker,
              ARCHIVE_FILTER_ZSTD,
              ITEMS({"dev/null", 'c', 0666, NULL},
                    {"run/fifo", 'p', 0600, NULL},
                    {"link", 'l', 0777, "/etc/passwd"}));
    end_image(&f->maker, "amd64", config, "1.0");
    import_well(f, "oci", "");
    expect_tree(f,
                "dir data 0755 0 0\n"
                "dir dev 0755 0 0\n"
                "dir etc 0755 0 0\n"
                "dir file-to-dir 0755 0 0\n"
                "dir run 0755 0 0\n"
                "dir usr 0755 0 0\n"
                "dir usr/bin 0755 0 0\n"
                "file \"\xc3\xa4 \xe9\" 0644 0 0\n"
                "file data/new 0644 0 0\n"
                "file data/new2 0644 0 0\n"
                "file dir-to-file 0644 0 0\n"
                "file etc/passwd 0600 0 0\n"
                "file file-to-dir/y 0644 0 0\n"
                "file usr/bin/tool 0755 0 0\n"
                "nod dev/null 0666 0 0 c 1 3\n"
                "pipe run/fifo 0600 0 0\n"
                "slink link 0777 0 0 /etc/passwd\n");
    expect_attribute(f, "/", "Access: 0750");
    expect_content(f, "etc/passwd", "new");
    expect_content(f, "dir-to-file", "now a file");
    assert_string_equal(f->image.config.entrypoint.v[0], "/e");
    assert_string_equal(f->image.config.cmd.v[0], "c");
    assert_string_equal(f->image.config.env.v[0], "A=1");
    assert_string_equal(f->image.config.working_dir, "/w");
    assert_string_equal(f->image.config.user, "u:g");
}

static void damage(struct fixture *f, const char *digest, bool same_size)
{
    char path[128];

    (void)snprintf(path, sizeof(path), "blobs/sha256/%s", digest_hex(digest));
    if (same_size) {
        int fd = openat(f->source, path, O_RDWR | O_CLOEXEC);
        char c = 0;

        assert_int_equal(pread(fd, &c, 1, 0), 1);
        c ^= 1;
        assert_int_equal(pwrite(fd, &c, 1, 0), 1);
        close(fd);
    } else {
        put_file(f->source, path, "x", 1);
    }
}

static void digest_in(const struct buf *descriptors, char out[DIGEST_SIZE])
{
    const char *at = strstr(buf_str(descriptors), "sha256:");

    assert_non_null(at);
    memcpy(out, at, DIGEST_LEN);
    out[DIGEST_LEN] = '\0';
}

static void the_digest_of_a_layout_is_that_of_its_manifest(void **state)
{
    struct fixture *f = *state;
    char layer[DIGEST_SIZE];
    char path[128];
    struct stat before;
    struct stat after;

    add_layer(&f->maker, ARCHIVE_FILTER_NONE, ITEMS({"a", 'f', 0, "a"}));
    digest_in(&f->maker.layers, layer);
    end_image(&f->maker, "amd64", no_config, "1");
    import_well(f, "oci", "");
    assert_non_null(strstr(buf_str(&f->maker.manifests), f->image.digest));
    (void)snprintf(path, sizeof(path), "%s/rootfs.sqfs", digest_hex(f->image.digest));
    assert_int_equal(fstatat(f->images, path, &before, 0), 0);
    assert_int_equal(before.st_mode & 07777, 0400);

    damage(f, layer, true); /* which nobody looks at: the files are found by the manifest */
    import_well(f, "oci", ":1");
    assert_int_equal(fstatat(f->images, path, &after, 0), 0);
    assert_true(before.st_ino == after.st_ino && f->image.size_bytes == (uint64_t)after.st_size);
    assert_int_equal(n_in(f->images), 1);
}

static void a_hard_link_outlives_the_name_it_was_made_to(void **state)
{
    struct fixture *f = *state;

    add_layer(&f->maker,
              ARCHIVE_FILTER_NONE,
              ITEMS({"a/first", 'f', 0640, "shared"},
                    {"a/second", 'h', 0, "a/first"},
                    {"b/third", 'h', 0, "./a/second"},
                    {"replaced", 'f', 0, "old"},
                    {"kept", 'h', 0, "replaced"}));
    add_layer(&f->maker,
              ARCHIVE_FILTER_GZIP,
              ITEMS({"a/.wh.first", 'f', 0, ""},
                    {"replaced", 'f', 0, "new"},
                    {"from-below", 'h', 0, "kept"}));
    end_image(&f->maker, "amd64", no_config, "1");
    import_well(f, "oci", "");
    expect_tree(f,
                "dir a 0755 0 0\n"
                "dir b 0755 0 0\n"
                "file a/second 0640 0 0\n"
                "file b/third 0640 0 0\n"
                "file from-below 0644 0 0\n"
                "file kept 0644 0 0\n"
                "file replaced 0644 0 0\n");
    expect_content(f, "a/second", "shared");
    expect_attribute(f, "a/second", "Hard link count: 2");
    expect_attribute(f, "a/second", "(1000000000)");
    expect_content(f, "b/third", "shared");
    expect_content(f, "kept", "old");
    expect_content(f, "from-below", "old");
    expect_content(f, "replaced", "new");
}

static void paths_follow_the_symlinks_inside_the_image(void **state)
{
    struct fixture *f = *state;

    add_layer(&f->maker,
              ARCHIVE_FILTER_NONE,
              ITEMS({"usr/lib/old", 'f', 0, "old"},
                    {"lib", 'l', 0777, "usr/lib"},
                    {"up", 'l', 0777, "../../../usr"},
                    {"opt/abs", 'l', 0777, "/usr/./lib/"},
                    {"l2", 'l', 0777, "lib"}));
    add_layer(&f->maker,
              ARCHIVE_FILTER_NONE,
              ITEMS({"lib/a", 'f', 0, "a"},
                    {"up/lib/b", 'f', 0, "b"},
                    {"opt/abs/sub/c", 'f', 0, "c"},
                    {"l2/.wh.old", 'f', 0, ""},
                    {"l2/d", 'h', 0, "opt/abs/sub/c"}));
    end_image(&f->maker, "amd64", no_config, "1");
    import_well(f, "oci", "");
    expect_tree(f,
                "dir opt 0755 0 0\n"
                "dir usr 0755 0 0\n"
                "dir usr/lib 0755 0 0\n"
                "dir usr/lib/sub 0755 0 0\n"
                "file usr/lib/a 0644 0 0\n"
                "file usr/lib/b 0644 0 0\n"
                "file usr/lib/d 0644 0 0\n"
                "file usr/lib/sub/c 0644 0 0\n"
                "slink l2 0777 0 0 lib\n"
                "slink lib 0777 0 0 usr/lib\n"
                "slink opt/abs 0777 0 0 /usr/./lib/\n"
                "slink up 0777 0 0 ../../../usr\n");
}

static void whiteouts_spare_their_own_layer(void **state)
{
    struct fixture *f = *state;

    add_layer(&f->maker,
              ARCHIVE_FILTER_NONE,
              ITEMS({"d/old", 'f', 0, "o"}, {"d/sub/old", 'f', 0, "o"}, {"f", 'f', 0, "old"}));
    add_layer(&f->maker,
              ARCHIVE_FILTER_NONE,
              ITEMS({"d/sub/new", 'f', 0, "n"},
                    {".wh.d", 'f', 0, ""},
                    {"f", 'f', 0, "new"},
                    {".wh.f", 'f', 0, ""},
                    {"no/such/.wh.file", 'f', 0, ""}));
    end_image(&f->maker, "amd64", no_config, "1");
    import_well(f, "oci", "");
    expect_tree(f,
                "dir d 0755 0 0\n"
                "dir d/sub 0755 0 0\n"
                "file d/sub/new 0644 0 0\n"
                "file f 0644 0 0\n");
    expect_content(f, "f", "new");
}

static void an_entry_repeated_in_a_layer_counts_once(void **state)
{
    struct fixture *f = *state;

    add_layer(&f->maker,
              ARCHIVE_FILTER_NONE,
              ITEMS({"a", 'f', 0, "first"},
                    {"a", 'f', 0600, "second"},
                    {"self", 'f', 0, "x"},
                    {"self", 'h', 0, "self"},
                    {"d/f", 'f', 0, "in"},
                    {"d", 'h', 0, "d/f"}));
    end_image(&f->maker, "amd64", no_config, "1");
    import_well(f, "oci", "");
    expect_tree(f, "file a 0600 0 0\nfile d 0644 0 0\nfile self 0644 0 0\n");
    expect_content(f, "a", "second");
    expect_content(f, "d", "in");
}

static void refused_entry(struct fixture *f, struct item item, const char *text)
{
    add_layer(&f->maker,
              ARCHIVE_FILTER_NONE,
              ITEMS({"dir/file", 'f', 0, "x"}, {"loop", 'l', 0777, "loop"}, item));
    end_image(&f->maker, "amd64", no_config, "1");
    refused(f, "oci", "", ERR_INVALID, text);
    buf_reset(&f->maker.manifests);
}

static void names_that_lead_out_are_refused(void **state)
{
    struct fixture *f = *state;

    refused_entry(f, (struct item){"../evil", 'f', 0, "x"}, "../evil leads out of the image");
    refused_entry(f, (struct item){"dir/../../evil", 'f', 0, "x"}, "leads out of the image");
    refused_entry(f, (struct item){"a/..", 'd', 0, "x"}, "leads out of the image");
    refused_entry(f, (struct item){"/etc/passwd", 'f', 0, "x"}, "is absolute");
    refused_entry(f, (struct item){"hard", 'h', 0, "../../etc/shadow"}, "leads out");
    refused_entry(f, (struct item){"hard", 'h', 0, "/etc/shadow"}, "is absolute");
    refused_entry(f, (struct item){"hard", 'h', 0, "missing"}, "which is no file");
    refused_entry(f, (struct item){"hard", 'h', 0, "dir"}, "which is no file");
    refused_entry(f, (struct item){"dir/.wh...", 'f', 0, ""}, "whiteout names no file");
    refused_entry(f, (struct item){"dir/.wh.", 'f', 0, ""}, "whiteout names no file");
    refused_entry(f, (struct item){"dir/file/below", 'f', 0, ""}, "not a directory");
    refused_entry(f, (struct item){"loop/below", 'f', 0, ""}, "too many symlinks");
    refused_entry(f, (struct item){".", 'f', 0, "x"}, "root is not a directory");
    refused_entry(f, (struct item){".", 'h', 0, "dir/file"}, "root is not a directory");
}

static void a_blob_that_is_not_what_its_digest_says_is_refused(void **state)
{
    struct fixture *f = *state;
    char layer[DIGEST_SIZE];
    char manifest[DIGEST_SIZE];

    add_layer(&f->maker, ARCHIVE_FILTER_NONE, ITEMS({"a", 'f', 0, "aaaaaaaa"}));
    digest_in(&f->maker.layers, layer);
    end_image(&f->maker, "amd64", no_config, "1");
    digest_in(&f->maker.manifests, manifest);
    damage(f, layer, true);
    refused(f, "oci", "", ERR_INVALID, layer);
    damage(f, layer, false);
    refused(f, "oci", "", ERR_INVALID, "has 1 bytes, and should have");
    damage(f, manifest, true);
    refused(f, "oci", "", ERR_INVALID, "is damaged");
}

/* The end of the tar is not the end of the blob: what follows counts as well. */
static void a_blob_with_a_wrong_tail_is_refused(void **state)
{
    struct fixture *f = *state;
    char layer[DIGEST_SIZE];
    char path[128];
    struct stat st;
    int fd;

    add_layer(&f->maker, ARCHIVE_FILTER_NONE, ITEMS({"a", 'f', 0, "aaaaaaaa"}));
    digest_in(&f->maker.layers, layer);
    end_image(&f->maker, "amd64", no_config, "1");
    (void)snprintf(path, sizeof(path), "blobs/sha256/%s", digest_hex(layer));
    fd = openat(f->source, path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(pwrite(fd, "x", 1, st.st_size - 1), 1);
    close(fd);
    refused(f, "oci", "", ERR_INVALID, "it is damaged");
}

static void padding_after_a_tar_is_part_of_its_blob(void **state)
{
    struct fixture *f = *state;
    char *blob = mem_zalloc(1, 1 << 20);

    write_tar(ARCHIVE_FILTER_NONE, ITEMS({"a", 'f', 0, "a"}), blob, 1 << 20);
    add_blob_layer(&f->maker, blob, 1 << 20);
    end_image(&f->maker, "amd64", no_config, "1");
    import_well(f, "oci", "");
    expect_tree(f, "file a 0644 0 0\n");
    free(blob);
}

static void what_is_no_layout_is_refused(void **state)
{
    struct fixture *f = *state;

    refused(f, "oci", "", ERR_INVALID, "this is not an OCI image layout: index.json is missing");
    put_file(f->source, "index.json", "{", 1);
    refused(f, "oci", "", ERR_INVALID, "index.json: invalid JSON");
    put_file(f->source, "index.json", "{}", 2);
    refused(f, "oci", "", ERR_INVALID, "no list of manifests");
    put_file(f->source, "index.json", "{\"manifests\":[]}", 16);
    refused(f, "oci", "", ERR_INVALID, "holds no image");
    put_file(f->source, "index.json", "{\"manifests\":[{\"digest\":\"../../x\"}]}", 36);
    refused(f, "oci", "", ERR_INVALID, "is not a sha256 digest");
    assert_int_equal(unlinkat(f->source, "index.json", 0), 0);
    assert_int_equal(symlinkat("/etc/passwd", f->source, "index.json"), 0);
    refused(f, "oci", "", ERR_INVALID, "is not a plain file");
    assert_int_equal(unlinkat(f->source, "index.json", 0), 0);
    assert_int_equal(mkfifoat(f->source, "index.json", 0644), 0);
    refused(f, "oci", "", ERR_INVALID, "is not a plain file");
}

static void the_image_is_chosen_by_tag_and_platform(void **state)
{
    struct fixture *f = *state;

    add_layer(&f->maker, ARCHIVE_FILTER_NONE, ITEMS({"one", 'f', 0, "1"}));
    end_image(&f->maker, "amd64", no_config, "1");
    add_layer(&f->maker, ARCHIVE_FILTER_NONE, ITEMS({"two", 'f', 0, "2"}));
    end_image(&f->maker, "amd64", no_config, "h.x/a:2");
    add_layer(&f->maker, ARCHIVE_FILTER_NONE, ITEMS({"arm", 'f', 0, "3"}));
    end_image(&f->maker, "arm64", no_config, "arm");
    refused(f, "oci", "", ERR_INVALID, "holds 3 images: say which, oci:DIR:TAG");
    refused(f, "oci", ":3", ERR_NOT_FOUND, "no tag 3");
    refused(f, "oci", ":arm", ERR_NOT_FOUND, "is for linux/arm64, this host runs linux/amd64");
    import_well(f, "oci", ":h.x/a:2");
    expect_tree(f, "file two 0644 0 0\n");
    add_layer(&f->maker, ARCHIVE_FILTER_NONE, ITEMS({"latest", 'f', 0, "4"}));
    end_image(&f->maker, "amd64", no_config, "latest");
    import_well(f, "oci", "");
    expect_tree(f, "file latest 0644 0 0\n");
}

static void an_index_of_platforms_is_followed(void **state)
{
    struct fixture *f = *state;
    auto_buf struct buf nested = BUF(1 << 16);
    char digest[DIGEST_SIZE];
    char other[DIGEST_SIZE];
    char path[128];
    struct stat st;

    add_layer(&f->maker, ARCHIVE_FILTER_NONE, ITEMS({"a", 'f', 0, "a"}));
    end_image(&f->maker, "amd64", no_config, "x");
    digest_in(&f->maker.manifests, digest);
    buf_reset(&f->maker.manifests);
    (void)snprintf(path, sizeof(path), "blobs/sha256/%s", digest_hex(digest));
    assert_int_equal(fstatat(f->source, path, &st, 0), 0);
    buf_printf(&nested,
               "{\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","
               "\"digest\":\"sha256:x\",\"size\":1,\"platform\":{\"os\":\"linux\","
               "\"architecture\":\"arm64\"}},"
               "{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"%s\","
               "\"size\":%zu,\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}}]}",
               digest,
               (size_t)st.st_size);
    put_blob(&f->maker, nested.data, nested.len, other);
    describe(&f->maker.manifests,
             "application/vnd.oci.image.index.v1+json",
             other,
             nested.len,
             ",\"annotations\":{\"org.opencontainers.image.ref.name\":\"multi\"}");
    write_index(&f->maker);
    import_well(f, "oci", ":multi");
    assert_string_equal(f->image.digest, digest);
}

static void layers_we_cannot_read_are_refused(void **state)
{
    static char junk[4096];
    struct fixture *f = *state;

    memset(junk, 'j', sizeof(junk));
    add_blob_layer(&f->maker, junk, sizeof(junk));
    end_image(&f->maker, "amd64", no_config, "1");
    refused(f, "oci", "", ERR_INVALID, "no readable tar");
    buf_reset(&f->maker.manifests);
    f->maker.layer_type = "application/vnd.oci.image.layer.v1.tar+encrypted";
    add_blob_layer(&f->maker, junk, sizeof(junk));
    end_image(&f->maker, "amd64", no_config, "1");
    refused(f, "oci", "", ERR_UNSUPPORTED, "tar+encrypted");
}

static void a_layer_that_unpacks_beyond_the_limit_is_refused(void **state)
{
    struct fixture *f = *state;
    char *zeros = mem_zalloc(1, 1000001);

    memset(zeros, '0', 1000000);
    add_layer(&f->maker, ARCHIVE_FILTER_GZIP, ITEMS({"a", 'f', 0, zeros}, {"b", 'f', 0, zeros}));
    end_image(&f->maker, "amd64", no_config, "1");
    f->max_bytes = 1999999;
    refused(f, "oci", "", ERR_TOO_LARGE, "larger than the limit");
    f->max_bytes = 2000000;
    import_well(f, "oci", "");
    free(zeros);
}

static void run_umoci(struct fixture *f, const char *const *args)
{
    auto_buf struct buf out = BUF(1 << 16);
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    struct err e = {0};

    spec.cwd_fd = f->source;
    argv_push(&argv, "/usr/bin/umoci");
    while (*args)
        argv_push(&argv, *args++);
    if (proc_run(&f->op, &spec, &out, &e) < 0)
        fail_msg("%s", e.msg);
}

/* Whether a file system that the kernel mounts is what was made. */
static void expect_mountable(struct fixture *f)
{
    auto_buf struct buf out = BUF(1 << 16);
    auto_argv struct argv argv = {0};
    struct proc_spec spec = PROC_SPEC(&argv);
    struct err e = {0};
    struct stat first;
    struct stat second;
    char path[128];

    argv_push(&argv, "/bin/mount");
    argv_push(&argv, "-oloop,ro");
    argv_pushf(&argv, "%s/images/%s/rootfs.sqfs", f->path, digest_hex(f->image.digest));
    argv_pushf(&argv, "%s/source", f->path);
    if (proc_run(&f->op, &spec, &out, &e) < 0) {
        print_message("no loop mounts here: %s\n", e.msg);
        return;
    }
    (void)snprintf(path, sizeof(path), "%s/source/bin/busybox", f->path);
    assert_int_equal(lstat(path, &first), 0);
    (void)snprintf(path, sizeof(path), "%s/source/bin/sh", f->path);
    assert_int_equal(lstat(path, &second), 0);
    (void)snprintf(path, sizeof(path), "%s/source", f->path);
    assert_int_equal(umount2(path, 0), 0);
    assert_true(first.st_ino == second.st_ino && first.st_nlink == 2);
    assert_true(first.st_size > 100000);
}

static void a_layout_made_by_umoci_is_imported(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct buf busybox = BUF(8 << 20);

    if (access("/usr/bin/umoci", X_OK) < 0 || access("/bin/busybox", X_OK) < 0) {
        print_message("no umoci or busybox here: left out\n");
        return;
    }
    run_umoci(f, (const char *[]){"init", "--layout", "l", NULL});
    run_umoci(f, (const char *[]){"new", "--image", "l:t", NULL});
    run_umoci(f, (const char *[]){"unpack", "--image", "l:t", "bundle", NULL});
    assert_int_equal(file_read(AT_FDCWD, "/bin/busybox", &busybox, &e), 0);
    assert_int_equal(mkdirat(f->source, "bundle/rootfs/bin", 0755), 0);
    put_file(f->source, "bundle/rootfs/bin/busybox", busybox.data, busybox.len);
    assert_int_equal(
        linkat(f->source, "bundle/rootfs/bin/busybox", f->source, "bundle/rootfs/bin/sh", 0), 0);
    put_file(f->source, "bundle/rootfs/gone", "x", 1);
    run_umoci(f, (const char *[]){"repack", "--refresh-bundle", "--image", "l:t", "bundle", NULL});
    assert_int_equal(unlinkat(f->source, "bundle/rootfs/gone", 0), 0);
    run_umoci(f, (const char *[]){"repack", "--image", "l:t", "bundle", NULL});
    run_umoci(
        f,
        (const char *[]){
            "config", "--image", "l:t", "--config.cmd", "/bin/sh", "--config.env", "A=1", NULL});
    buf_free(&busybox);

    {
        struct image_source source = {.name = mem_strdup("busybox"), .kind = IMAGE_FROM_OCI};

        source.path = mem_printf("%s/source/l", f->path);
        source.tag = mem_strdup("t");
        if (image_import(&f->op, &source, f->images, &f->image, &e) < 0)
            fail_msg("%s", e.msg);
        image_source_fini(&source);
    }
    expect_tree(f, "dir bin 0755 0 0\nfile bin/busybox 0644 0 0\nfile bin/sh 0644 0 0\n");
    assert_string_equal(f->image.config.cmd.v[0], "/bin/sh");
    expect_mountable(f);
}

/* --- ends that come early --- */

/* Reading it takes minutes, and takes no room. */
static void make_endless_file(struct fixture *f)
{
    int fd = openat(f->source, "sparse", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

    assert_int_equal(ftruncate(fd, 2LL << 40), 0);
    close(fd);
    f->max_bytes = UINT64_MAX;
}

static void *cancel_soon(void *arg)
{
    const int *fd = arg;
    uint64_t one = 1;

    (void)poll(NULL, 0, 300);
    assert_int_equal(write(*fd, &one, sizeof(one)), sizeof(one));
    return NULL;
}

static void a_cancelled_import_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    int fd = eventfd(0, EFD_CLOEXEC);
    pthread_t thread;

    make_endless_file(f);
    f->op.cancel_fd = fd;
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &fd), 0);
    refused(f, "dir", "", ERR_CANCELLED, "cancelled");
    pthread_join(thread, NULL);
    close(fd);
}

static void an_import_ends_at_its_deadline(void **state)
{
    struct fixture *f = *state;

    make_endless_file(f);
    f->op.deadline_ms = clock_ms() + 300;
    refused(f, "dir", "", ERR_TIMEOUT, "deadline passed");
}

static void a_full_disk_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    char path[80];
    char *noise = mem_zalloc(1, 4 << 20);
    int fd;

    (void)snprintf(path, sizeof(path), "%s/images", f->path);
    if (mount("tmpfs", path, "tmpfs", 0, "size=1m") < 0) {
        print_message("not root, or no mounts here: left out\n");
        free(noise);
        return;
    }
    close(f->images);
    f->images = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    for (size_t at = 0; at < 4 << 20;) {
        ssize_t n = read(fd, noise + at, (4 << 20) - at);

        assert_true(n > 0);
        at += (size_t)n;
    }
    close(fd);
    put_file(f->source, "noise", noise, 4 << 20);
    free(noise);
    refused(f, "dir", "", ERR_NO_SPACE, "make room there");
    put_file(f->source, "noise", "small", 5);
    import_well(f, "dir", "");
    close(f->images);
    assert_int_equal(umount2(path, MNT_DETACH), 0);
    f->images = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* --- files that go --- */

static bool is_kept(void *arg, const char *digest)
{
    return strcmp(arg, digest) == 0;
}

static void files_of_no_use_are_swept(void **state)
{
    struct fixture *f = *state;
    char kept[DIGEST_SIZE];
    struct err e = {0};

    put_file(f->source, "a", "a", 1);
    import_well(f, "dir", "");
    put_file(f->source, "a", "b", 1);
    import_well(f, "dir", "");
    memcpy(kept, f->image.digest, sizeof(kept));
    assert_int_equal(mkdirat(f->images, ".new-half", 0700), 0);
    put_file(f->images, ".new-half/rootfs.sqfs", "x", 1);
    assert_int_equal(mkdirat(f->images, ".old-half", 0700), 0);
    assert_int_equal(mkdirat(f->images, "not ours", 0700), 0);
    assert_int_equal(image_sweep_files(f->images, is_kept, kept, &e), 0);
    assert_int_equal(n_in(f->images), 2);
    expect_content(f, "a", "b");
    assert_int_equal(image_remove_files(f->images, kept, &e), 0);
    assert_int_equal(image_remove_files(f->images, kept, &e), 0);
    assert_int_equal(n_in(f->images), 1);
}

#define layout_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define dir_test(name) cmocka_unit_test_setup_teardown(name, setup_dir, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(sources_are_read_strictly),
        dir_test(a_directory_becomes_the_root),
        dir_test(the_same_tree_gives_the_same_digest),
        dir_test(the_digest_is_that_of_the_file),
        dir_test(file_capabilities_are_kept),
        dir_test(what_is_set_by_the_client_holds),
        dir_test(a_missing_directory_is_said_to_be_missing),
        dir_test(a_directory_over_the_limit_is_refused),
        dir_test(a_tree_that_is_too_deep_is_refused),
        layout_test(layers_lie_over_one_another),
        layout_test(the_digest_of_a_layout_is_that_of_its_manifest),
        layout_test(a_hard_link_outlives_the_name_it_was_made_to),
        layout_test(paths_follow_the_symlinks_inside_the_image),
        layout_test(whiteouts_spare_their_own_layer),
        layout_test(an_entry_repeated_in_a_layer_counts_once),
        layout_test(names_that_lead_out_are_refused),
        layout_test(a_blob_that_is_not_what_its_digest_says_is_refused),
        layout_test(a_blob_with_a_wrong_tail_is_refused),
        layout_test(padding_after_a_tar_is_part_of_its_blob),
        layout_test(what_is_no_layout_is_refused),
        layout_test(the_image_is_chosen_by_tag_and_platform),
        layout_test(an_index_of_platforms_is_followed),
        layout_test(layers_we_cannot_read_are_refused),
        layout_test(a_layer_that_unpacks_beyond_the_limit_is_refused),
        dir_test(a_layout_made_by_umoci_is_imported),
        dir_test(a_cancelled_import_leaves_nothing),
        dir_test(an_import_ends_at_its_deadline),
        dir_test(a_full_disk_leaves_nothing),
        dir_test(files_of_no_use_are_swept),
    };
    sigset_t pipes;

    sigemptyset(&pipes);
    sigaddset(&pipes, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipes, NULL); /* as in a worker */
    return cmocka_run_group_tests_name("import", tests, NULL, NULL);
}
