/* SPDX-License-Identifier: Apache-2.0 */
/* What of instances can be changed: "update network". */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/session.h"
#include "cli/text.h"

static const struct cli_verb update_network;

static int send_to_one(void *ctx, const char *name)
{
    const json_t *body = ctx;
    auto_free char *path = instance_path(name, "");
    json_auto_t *doc = NULL;
    struct err e = {0};

    doc = session_call("PATCH", path, body, SESSION_CALL_MS, &e);
    if (!doc)
        return report_instance(name, &e);
    puts(name);
    return CLI_OK;
}

static int network(int argc, char **argv)
{
    const char *download = NULL;
    const char *upload = NULL;
    const struct opt opts[] = {
        {0, "bandwidth-down", OPT_TEXT, &download, "RATE", "the most it takes in; 0: no limit"},
        {0, "bandwidth-up", OPT_TEXT, &upload, "RATE", "the most it sends out; 0: no limit"},
        {0},
    };
    int rc = opt_parse(&update_network, opts, &argc, &argv);
    json_auto_t *body = NULL;

    if (rc != OPT_GO)
        return rc;
    if (argc == 0)
        return cli_misuse(&update_network, "name an instance");
    if (!download && !upload)
        return cli_misuse(&update_network, "say what is to change");
    body = json_pack(
        "{s:{s:s*, s:s*}}", "network", "bandwidth_download", download, "bandwidth_upload", upload);
    if (!body)
        return cli_misuse(&update_network, "a rate is not UTF-8");
    return for_each_name(argc, argv, send_to_one, body);
}

static const struct cli_verb update_network = {
    .name = "update network",
    .help = "Change the rates of instances' networks, also while they run",
    .usage = "[flags] NAME...",
    .run = network,
};

static int update(int argc, char **argv)
{
    const struct cli_verb table[] = {update_network, {0}};

    return cli_dispatch(table, " update", argc, argv);
}

const struct cli_verb cli_update = {
    .name = "update",
    .help = "Change instances",
    .usage = "COMMAND",
    .run = update,
};
