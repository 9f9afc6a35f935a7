/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/opt.h"

#include <assert.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/session.h"

enum { MAX_FLAGS = 40, IS_LONG_ONLY = 256 };

static bool wants_help;
static const struct opt common[] = {
    {'h', "help", OPT_FLAG, &wants_help, NULL, "show this"},
    {0, "base-url", OPT_TEXT, &session_target.base_url, "URL", "the daemon, as http://HOST:PORT"},
    {0, "socket", OPT_TEXT, &session_target.socket_path, "PATH", "the daemon, by its socket"},
    {0},
};

/* The verb's flags and everybody's, in getopt's two notations. */
struct plan {
    const struct opt *opts[MAX_FLAGS];
    struct option longs[MAX_FLAGS + 1];
    char shorts[3 * MAX_FLAGS + 3];
    size_t n;
};

static void plan_add(struct plan *p, const struct opt *o)
{
    size_t len = strlen(p->shorts);

    for (; o->name; o++, p->n++) {
        assert(p->n < MAX_FLAGS);
        p->opts[p->n] = o;
        p->longs[p->n] =
            (struct option){o->name,
                            o->kind == OPT_FLAG ? optional_argument : required_argument,
                            NULL,
                            IS_LONG_ONLY + (int)p->n};
        if (o->letter) {
            p->shorts[len++] = o->letter;
            if (o->kind != OPT_FLAG)
                p->shorts[len++] = ':';
        }
    }
}

static const struct opt *plan_find(const struct plan *p, int found)
{
    if (found >= IS_LONG_ONLY)
        return p->opts[found - IS_LONG_ONLY];
    for (size_t i = 0; i < p->n; i++) {
        if (p->opts[i]->letter == found)
            return p->opts[i];
    }
    return NULL;
}

static bool set_value(const struct opt *o, const char *value)
{
    switch (o->kind) {
    case OPT_FLAG:
        if (value && strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
            return false;
        *(bool *)o->to = !value || strcmp(value, "true") == 0;
        return true;
    case OPT_TEXT:
        *(const char **)o->to = value;
        return true;
    case OPT_LIST:
        argv_push(o->to, value);
        return true;
    }
    return false;
}

static void print_flags(const struct opt *o)
{
    for (; o->name; o++) {
        char left[64];

        (void)snprintf(left,
                       sizeof(left),
                       "%c%c%c --%s%s%s",
                       o->letter ? '-' : ' ',
                       o->letter ? o->letter : ' ',
                       o->letter ? ',' : ' ',
                       o->name,
                       o->arg ? " " : "",
                       o->arg ? o->arg : "");
        printf("  %-28s %s\n", left, o->help);
    }
}

static void print_help(const struct cli_verb *verb, const struct opt *opts)
{
    printf("usage: hypeman %s%s%s\n\n%s\n\nflags:\n",
           verb->name,
           *verb->usage ? " " : "",
           verb->usage,
           verb->help);
    print_flags(opts);
    print_flags(common);
}

int opt_parse(const struct cli_verb *verb, const struct opt *opts, int *argc, char ***argv)
{
    struct plan p = {.shorts = ":"};
    int found;

    if (verb->is_prefix)
        memcpy(p.shorts, "+:", 3);
    plan_add(&p, opts);
    plan_add(&p, common);
    optind = 0; /* glibc: begin again, also after another table's parse */
    opterr = 0;
    while ((found = getopt_long(*argc, *argv, p.shorts, p.longs, NULL)) != -1) {
        const struct opt *o = found == '?' || found == ':' ? NULL : plan_find(&p, found);
        const char *word = (*argv)[optind - 1];

        if (found == ':')
            return cli_misuse(verb, "%s needs a value", word);
        if (!o)
            return optopt > 0 && optopt < IS_LONG_ONLY
                       ? cli_misuse(verb, "unknown flag: -%c", optopt)
                       : cli_misuse(verb, "unknown flag: %s", word);
        if (!set_value(o, optarg))
            return cli_misuse(verb, "--%s takes true or false, not %s", o->name, optarg);
    }
    if (wants_help) {
        print_help(verb, opts);
        return CLI_OK;
    }
    *argc -= optind;
    *argv += optind;
    return OPT_GO;
}
