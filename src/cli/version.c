/* SPDX-License-Identifier: Apache-2.0 */
#include "base/version.h"

#include <stdio.h>

#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/session.h"
#include "cli/text.h"

enum { SERVER_MS = 3000 };

/* {version, api_version} of the daemon, or NULL with *e set. */
static json_t *ask_server(struct err *e)
{
    json_auto_t *doc = session_call("GET", "/capabilities", NULL, SERVER_MS, e);
    json_t *server = json_object_get(doc, "server");

    if (doc && !server)
        err_set(e, ERR_INTERNAL, "the daemon does not say its version");
    return json_incref(server);
}

static void print_text(const json_t *server, const struct err *e)
{
    printf("client: %s (commit %s)\n", version_number, version_commit);
    if (server) {
        fputs("server: ", stdout);
        text_print(stdout, text_of(server, "version"));
        printf(" (API ");
        text_print(stdout, text_of(server, "api_version"));
        printf(") at %s\n", session_where());
    } else {
        fputs("server: ", stdout);
        text_print(stdout, e->msg);
        putchar('\n');
    }
}

static int version(int argc, char **argv)
{
    const char *format_word = NULL;
    const struct opt opts[] = {
        {0, "format", OPT_TEXT, &format_word, "FORMAT", "table or json"},
        {0},
    };
    int rc = opt_parse(&cli_version, opts, &argc, &argv);
    enum format format = FORMAT_TABLE;
    json_auto_t *server = NULL;
    json_auto_t *doc = NULL;
    struct err e = {0};

    if (rc != OPT_GO)
        return rc;
    if (argc > 0)
        return cli_misuse(&cli_version, "it takes no names");
    if (!format_parse(format_word, &format))
        return cli_misuse(&cli_version, "no such format: %s", format_word);
    server = ask_server(&e);
    if (e.code == ERR_CANCELLED)
        return report(&e);
    if (format == FORMAT_TABLE) {
        print_text(server, &e);
        return CLI_OK;
    }
    doc = json_pack("{s:{s:s,s:s},s:O?}",
                    "client",
                    "version",
                    version_number,
                    "commit",
                    version_commit,
                    "server",
                    server);
    json_print(doc, format);
    return CLI_OK;
}

const struct cli_verb cli_version = {
    .name = "version",
    .help = "Show the versions of this program and of the daemon",
    .usage = "[flags]",
    .run = version,
};
