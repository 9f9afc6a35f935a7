/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/session.h"
#include "cli/text.h"
#include "cli/transfer.h"

/*
 * Where things go is docker's rule: into a directory that is there under the
 * source's name, or, without the name, what is in it, where the source ends in
 * "/."; else as what the destination is called, whose parent must exist.
 */

struct copy {
    const char *instance; /* borrowed from the arguments' copies */
    char *guest_path;
    char *local_path;
    struct transfer_options options;
    bool follow;
    bool quiet;
};

/* What is at the end of a path. */
struct place {
    bool exists;
    bool is_dir;
};

/* --- paths --- */

/* "web:/etc"; not "./a:b", "/a:b" or "a/b:c". Cuts the name off. */
static bool split_remote(char *arg, const char **name, char **path)
{
    char *colon = strchr(arg, ':');

    if (!colon || colon == arg || *arg == '.' || memchr(arg, '/', (size_t)(colon - arg)))
        return false;
    *colon = '\0';
    *name = arg;
    *path = colon[1] == '/' ? mem_strdup(colon + 1) : mem_printf("/%s", colon + 1);
    return true;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s);
    size_t m = strlen(end);

    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Only what is in it. */
static bool means_content(const char *path)
{
    return strcmp(path, ".") == 0 || ends_with(path, "/.") || strspn(path, "/") == strlen(path);
}

static void strip(char *path)
{
    size_t n = strlen(path);

    while (n > 1 && (path[n - 1] == '/' || (path[n - 1] == '.' && path[n - 2] == '/')))
        path[--n] = '\0';
}

/* Both are new, and in a path without a slash at its end. */
static void split(const char *path, char **parent, char **base)
{
    const char *slash = strrchr(path, '/');

    *base = mem_strdup(slash ? slash + 1 : path);
    *parent = !slash          ? mem_strdup(".")
              : slash == path ? mem_strdup("/")
                              : mem_printf("%.*s", (int)(slash - path), path);
}

static int look_local(const char *path, bool follow, struct place *out, struct err *e)
{
    struct stat st;

    *out = (struct place){0};
    if ((follow ? stat(path, &st) : lstat(path, &st)) < 0)
        return errno == ENOENT ? 0 : err_errno(e, "%s", path);
    *out = (struct place){.exists = true, .is_dir = S_ISDIR(st.st_mode)};
    return 0;
}

static int look_in_guest(const char *instance, const char *path, bool follow, struct place *out,
                         struct err *e)
{
    auto_buf struct buf query = BUF(16 << 10);
    auto_free char *url = NULL;
    json_auto_t *doc = NULL;

    buf_puts(&query, "/stat?path=");
    url_puts(&query, path);
    buf_puts(&query, follow ? "&follow_links=true" : "");
    url = instance_path(instance, buf_str(&query));
    doc = session_get(url, e);
    if (!doc)
        return -1;
    if (*text_of(doc, "error"))
        return err_set(e, ERR_INTERNAL, "%s:%s: %s", instance, path, text_of(doc, "error"));
    out->exists = json_is_true(json_object_get(doc, "exists"));
    out->is_dir = json_is_true(json_object_get(doc, "is_dir"));
    return 0;
}

/* --- the rule --- */

/* Either of both sides, as far as the rule goes. */
struct side {
    const char *name; /* for messages: "web:" or "" */
    char *path;       /* changed: slashes at its end go */
    struct place at;
    int (*look)(const struct copy *c, const char *path, struct place *out, struct err *e);
};

/* Into which directory, and what the first name becomes. Both are new. */
static int resolve(const struct copy *c, const struct side *from, const struct side *to,
                   char **directory, char **as, struct err *e)
{
    bool wants_dir = ends_with(to->path, "/");
    bool only_content = from->at.is_dir && means_content(from->path);
    auto_free char *parent = NULL;
    struct place above;

    strip(from->path);
    strip(to->path);
    if (!from->at.exists)
        return err_set(e, ERR_NOT_FOUND, "no such file or directory: %s%s", from->name, from->path);
    if (to->at.exists && to->at.is_dir) {
        split(from->path, &parent, as);
        if (only_content)
            **as = '\0';
        *directory = mem_strdup(to->path);
        return 0;
    }
    if (to->at.exists && (from->at.is_dir || wants_dir))
        return err_set(e, ERR_EXISTS, "%s%s is no directory", to->name, to->path);
    if (!from->at.is_dir && wants_dir)
        return err_set(e, ERR_NOT_FOUND, "no such directory: %s%s", to->name, to->path);
    split(to->path, directory, as);
    if (to->look(c, *directory, &above, e) < 0)
        return -1;
    if (!above.exists || !above.is_dir)
        return err_set(e, ERR_NOT_FOUND, "no such directory: %s%s", to->name, *directory);
    return 0;
}

static int look_here(const struct copy *c, const char *path, struct place *out, struct err *e)
{
    (void)c;
    return look_local(path, true, out, e);
}

static int look_there(const struct copy *c, const char *path, struct place *out, struct err *e)
{
    return look_in_guest(c->instance, path, true, out, e);
}

/* --- both directions --- */

static int copy_in(struct copy *c, struct err *e)
{
    auto_free char *remote = mem_printf("%s:", c->instance);
    bool follow = c->follow || ends_with(c->local_path, "/");
    struct side here = {.name = "", .path = c->local_path, .look = look_here};
    struct side there = {.name = remote, .path = c->guest_path, .look = look_there};
    auto_free char *real = NULL;
    auto_free char *root = NULL;
    auto_free char *as = NULL;

    if (strcmp(c->local_path, "-") == 0) {
        if (look_there(c, c->guest_path, &there.at, e) < 0)
            return -1;
        if (!there.at.is_dir)
            return err_set(e, ERR_NOT_FOUND, "no such directory: %s%s", remote, c->guest_path);
        return transfer_stream_in(c->instance, c->guest_path, &c->options, e);
    }
    if (look_local(c->local_path, follow || means_content(c->local_path), &here.at, e) < 0 ||
        look_there(c, c->guest_path, &there.at, e) < 0)
        return -1;
    if (here.at.is_dir && ends_with(c->local_path, "..")) { /* has no name of its own */
        real = realpath(c->local_path, NULL);
        here.path = real ? real : c->local_path;
    }
    if (resolve(c, &here, &there, &root, &as, e) < 0)
        return -1;
    return transfer_in(
        c->instance, root, &(struct transfer_source){here.path, as, follow}, &c->options, e);
}

/* A link that is to be followed leads to a directory by a "." behind it, and a file by asking. */
static int copy_out(struct copy *c, struct err *e)
{
    auto_free char *remote = mem_printf("%s:", c->instance);
    bool follow = c->follow || ends_with(c->guest_path, "/") || means_content(c->guest_path);
    struct side there = {.name = remote, .path = c->guest_path, .look = look_there};
    struct side here = {.name = "", .path = c->local_path, .look = look_here};
    struct transfer_wanted wanted = {0};
    auto_free char *asked = NULL;
    auto_free char *directory = NULL;
    auto_free char *as = NULL;

    if (look_in_guest(c->instance, c->guest_path, follow, &there.at, e) < 0)
        return -1;
    if (strcmp(c->local_path, "-") != 0 && (look_here(c, c->local_path, &here.at, e) < 0 ||
                                            resolve(c, &there, &here, &directory, &as, e) < 0))
        return -1;
    if (!there.at.exists)
        return err_set(e, ERR_NOT_FOUND, "no such file or directory: %s%s", remote, c->guest_path);
    strip(c->guest_path);
    asked = follow && there.at.is_dir && strcmp(c->guest_path, "/") != 0
                ? mem_printf("%s/.", c->guest_path)
                : mem_strdup(c->guest_path);
    wanted.path = asked;
    wanted.follow = follow && !there.at.is_dir;
    if (!directory)
        return transfer_stream_out(c->instance, &wanted, &c->options, e);
    if (chdir(directory) < 0)
        return err_errno(e, "%s", directory);
    return transfer_out(c->instance, &wanted, as, &c->options, e);
}

static int copy_args(struct copy *c, const char *source, const char *target)
{
    auto_free char *from = mem_strdup(source);
    auto_free char *to = mem_strdup(target);
    auto_free char *guest = NULL;
    auto_free char *local = NULL;
    const char *other;
    char *both = NULL;
    bool is_out = split_remote(from, &c->instance, &guest);
    bool is_in = split_remote(to, is_out ? &other : &c->instance, is_out ? &both : &guest);
    struct err e = {0};
    int rc;

    free(both);
    if (is_out == is_in)
        return cli_misuse(&cli_cp, "one of the two, and only one, must be NAME:PATH");
    local = mem_strdup(is_out ? to : from);
    if (!*local)
        return cli_misuse(&cli_cp, "a path is empty");
    c->guest_path = guest;
    c->local_path = local;
    c->options.shows_progress = !c->quiet && strcmp(local, "-") != 0;
    rc = is_out ? copy_out(c, &e) : copy_in(c, &e);
    return rc < 0 ? report_instance(c->instance, &e) : CLI_OK;
}

static int cp(int argc, char **argv)
{
    struct copy c = {0};
    const struct opt opts[] = {
        {'a', "archive", OPT_FLAG, &c.options.keep_owner, NULL, "keep the owners"},
        {'L',
         "follow-links",
         OPT_FLAG,
         &c.follow,
         NULL,
         "if the source is a link, what it leads to"},
        {'q', "quiet", OPT_FLAG, &c.quiet, NULL, "show no progress"},
        {0},
    };
    int rc = opt_parse(&cli_cp, opts, &argc, &argv);

    if (rc != OPT_GO)
        return rc;
    if (argc != 2)
        return cli_misuse(&cli_cp, "name a source and a destination");
    return copy_args(&c, argv[0], argv[1]);
}

const struct cli_verb cli_cp = {
    .name = "cp",
    .help = "Copy files into or out of an instance, as docker cp does",
    .usage =
        "[flags] SOURCE DESTINATION, one of them NAME:PATH; - is a tar archive, into an instance "
        "compressed or not",
    .run = cp,
};
