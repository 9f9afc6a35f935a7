/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/parse.h"
#include "cli/cli.h"
#include "cli/follow.h"
#include "cli/opt.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/text.h"

struct waiting {
    char *state; /* NULL: until it stops, for its exit code */
    int64_t timeout_ms;
};

static int print_exit_code(const char *name)
{
    auto_free char *path = instance_path(name, "");
    struct err e = {0};
    json_auto_t *doc = session_get(path, &e);
    const json_t *code = json_object_get(doc, "exit_code");

    if (!doc)
        return report_instance(name, &e);
    if (!json_is_integer(code)) {
        err_set(&e, ERR_INTERNAL, "%s stopped without an exit code", name);
        return report(&e);
    }
    printf("%lld\n", (long long)json_integer_value(code));
    return CLI_OK;
}

static int wait_one(void *ctx, const char *name)
{
    const struct waiting *w = ctx;
    const char *wanted = w->state ? w->state : "Stopped";
    json_auto_t *doc = NULL;
    struct err e = {0};
    const char *state;

    progress_begin("waiting until %s is %s", name, wanted);
    doc = wait_for_state(name, wanted, w->timeout_ms, &e);
    progress_end();
    if (!doc)
        return report_instance(name, &e);
    state = text_of(doc, "state");
    if (json_is_true(json_object_get(doc, "timed_out")))
        err_set(&e, ERR_TIMEOUT, "%s is still %s", name, state);
    else if (strcmp(state, wanted) != 0)
        err_set(&e,
                ERR_BAD_STATE,
                "%s is %s and will not become %s%s%s",
                name,
                state,
                wanted,
                *text_of(doc, "state_error") ? ": " : "",
                text_of(doc, "state_error"));
    if (w->state)
        puts(state);
    if (e.code)
        return report(&e);
    return w->state ? CLI_OK : print_exit_code(name);
}

static int wait_verb(int argc, char **argv)
{
    const char *state = NULL;
    const char *timeout = NULL;
    const struct opt opts[] = {
        {0, "state", OPT_TEXT, &state, "STATE", "wait for this state and print it"},
        {0, "timeout", OPT_TEXT, &timeout, "DURATION", "give up after this long: 30s, 5m"},
        {0},
    };
    int rc = opt_parse(&cli_wait, opts, &argc, &argv);
    auto_free char *name = NULL;
    struct waiting w = {.timeout_ms = INT64_MAX};

    if (rc != OPT_GO)
        return rc;
    if (argc == 0)
        return cli_misuse(&cli_wait, "name an instance");
    if (timeout && !parse_duration_ms(timeout, &w.timeout_ms))
        return cli_misuse(&cli_wait, "--timeout takes a duration like 30s or 5m, not %s", timeout);
    name = state ? state_name(state) : NULL;
    w.state = name;
    return for_each_name(argc, argv, wait_one, &w);
}

const struct cli_verb cli_wait = {
    .name = "wait",
    .help = "Wait until instances stop and print their exit codes, or for a state",
    .usage = "[flags] NAME...",
    .run = wait_verb,
};
