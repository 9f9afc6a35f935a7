/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "base/argv.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/text.h"

static int remove_path(const char *path, const char *name)
{
    json_auto_t *doc = NULL;
    struct err e = {0};

    progress_begin("removing %s", name);
    doc = session_call("DELETE", path, NULL, SESSION_CALL_MS, &e);
    progress_end();
    if (!doc)
        return report_instance(name, &e);
    puts(name);
    return CLI_OK;
}

static int remove_any(void *ctx, const char *name)
{
    auto_free char *path = instance_path(name, "");

    (void)ctx;
    return remove_path(path, name);
}

/* Upstream's clients refuse what runs before they ask, since the API does not. */
static bool is_at_rest(const char *state)
{
    return strcmp(state, "Stopped") == 0 || strcmp(state, "Standby") == 0;
}

static int remove_at_rest(void *ctx, const char *name)
{
    auto_free char *path = instance_path(name, "");
    json_auto_t *doc = NULL;
    struct err e = {0};
    auto_free char *same = NULL;

    (void)ctx;
    doc = session_get(path, &e);
    if (!doc)
        return report_instance(name, &e);
    if (!is_at_rest(text_of(doc, "state"))) {
        err_set(&e,
                ERR_BAD_STATE,
                "%s is %s; stop it first ('hypeman stop %s') or force it ('hypeman rm -f %s')",
                name,
                text_of(doc, "state"),
                name,
                name);
        return report(&e);
    }
    same = instance_path(text_of(doc, "id"), ""); /* whatever the name means by now */
    return remove_path(same, name);
}

static int all_names(struct argv *names)
{
    json_auto_t *list = NULL;
    const json_t *row;
    struct err e = {0};
    size_t i;

    list = session_get("/instances", &e);
    if (!list)
        return report(&e);
    json_array_foreach(list, i, row)
    {
        argv_push(names, text_of(row, "name"));
    }
    return CLI_OK;
}

static int rm(int argc, char **argv)
{
    auto_argv struct argv names = {0};
    bool force = false;
    bool all = false;
    const struct opt opts[] = {
        {'f', "force", OPT_FLAG, &force, NULL, "also what runs"},
        {0, "all", OPT_FLAG, &all, NULL, "every instance"},
        {0},
    };
    int rc = opt_parse(&cli_rm, opts, &argc, &argv);

    if (rc != OPT_GO)
        return rc;
    if (all == (argc > 0))
        return cli_misuse(&cli_rm, all ? "--all takes no names" : "name an instance");
    if (all) {
        rc = all_names(&names);
        if (rc != CLI_OK)
            return rc;
        argc = (int)names.n;
        argv = names.v;
    }
    return for_each_name(argc, argv, force ? remove_any : remove_at_rest, NULL);
}

const struct cli_verb cli_rm = {
    .name = "rm",
    .help = "Remove instances and their disks",
    .usage = "[flags] NAME...",
    .run = rm,
};
