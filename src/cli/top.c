/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instances that use most, live. The daemon is asked once a refresh; keys are
 * read while waiting for the next one.
 */
#include <curses.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/parse.h"
#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/session.h"
#include "cli/usage.h"

enum { REFRESH_MS = 2000, REFRESH_MIN_MS = 200 };

enum order { BY_CPU, BY_MEMORY, BY_NAME };

static enum order order; /* qsort() has no room for it elsewhere */

static int compare(const void *a, const void *b)
{
    const struct usage *x = a;
    const struct usage *y = b;

    if (order == BY_CPU && x->cpu_percent != y->cpu_percent)
        return x->cpu_percent < y->cpu_percent ? 1 : -1;
    if (order == BY_MEMORY && x->memory_bytes != y->memory_bytes)
        return x->memory_bytes < y->memory_bytes ? 1 : -1;
    return strcmp(x->name, y->name);
}

static void draw(struct usages *u)
{
    static const char *const orders[] = {"CPU", "memory", "name"};
    double cpu = 0;
    uint64_t memory = 0;
    char a[AMOUNT_SIZE];
    char b[AMOUNT_SIZE];

    if (u->n > 1)
        qsort(u->all, u->n, sizeof(*u->all), compare);
    for (size_t i = 0; i < u->n; i++) {
        cpu += u->all[i].cpu_percent;
        memory += u->all[i].memory_bytes;
    }
    (void)erase();
    (void)mvprintw(0,
                   0,
                   "%zu instances, %.1f %% CPU, %s memory; by %s; c, m, n: order, q: quit",
                   u->n,
                   cpu,
                   amount_text(memory, a),
                   orders[order]);
    (void)attron(A_REVERSE);
    (void)mvprintw(2,
                   0,
                   "%-24s %-12s %8s %10s %8s %10s %10s",
                   "NAME",
                   "STATE",
                   "CPU %",
                   "MEMORY",
                   "OF %",
                   "NET RX",
                   "NET TX");
    (void)attroff(A_REVERSE);
    for (size_t i = 0; i < u->n && (int)i + 3 < LINES; i++) {
        const struct usage *one = &u->all[i];
        double of = one->allocated_bytes ? (double)one->allocated_bytes : 1;

        (void)mvprintw((int)i + 3,
                       0,
                       "%-24.24s %-12s %8.1f %10s %8.1f",
                       one->name,
                       one->state,
                       one->cpu_percent,
                       amount_text(one->memory_bytes, a),
                       (double)one->memory_bytes / of * 100);
        (void)printw(
            " %10s %10s", amount_text(one->received_bytes, a), amount_text(one->sent_bytes, b));
    }
    (void)refresh();
}

/* False when the user has had enough. */
static bool take_key(int key)
{
    if (key == 'c')
        order = BY_CPU;
    else if (key == 'm')
        order = BY_MEMORY;
    else if (key == 'n')
        order = BY_NAME;
    return key != 'q' && key != 3 /* Ctrl-C */;
}

/* Draws at every key until the time is over. False at the end. */
static bool show(struct usages *u, int64_t ms)
{
    int64_t until = clock_ms() + ms;

    for (;;) {
        int64_t left = until - clock_ms();
        int key;

        draw(u);
        if (left <= 0)
            return true;
        timeout((int)left);
        key = getch();
        if (key != ERR && !take_key(key))
            return false;
    }
}

static int watch(int64_t refresh_ms, struct err *e)
{
    auto_usages struct usages last = {0};
    bool goes_on = true;

    while (goes_on) {
        auto_usages struct usages now = {0};

        if (usages_look(&now, last.at_us ? &last : NULL, 0, NULL, e) < 0)
            return -1;
        goes_on = show(&now, refresh_ms);
        usages_free(&last);
        last = now;
        now = (struct usages){0};
    }
    return 0;
}

static int top(int argc, char **argv)
{
    const char *interval = NULL;
    const struct opt opts[] = {
        {0, "interval", OPT_TEXT, &interval, "DURATION", "look again after this long: 2s"},
        {0},
    };
    int rc = opt_parse(&cli_top, opts, &argc, &argv);
    int64_t refresh_ms = REFRESH_MS;
    struct err e = {0};

    if (rc != OPT_GO)
        return rc;
    if (argc > 0)
        return cli_misuse(&cli_top, "it takes no names; 'hypeman stats %s' shows one", argv[0]);
    if (interval && (!parse_duration_ms(interval, &refresh_ms) || refresh_ms < REFRESH_MIN_MS ||
                     refresh_ms > INT32_MAX))
        return cli_misuse(&cli_top, "--interval takes a duration from 200ms, not %s", interval);
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return cli_misuse(&cli_top, "it needs a terminal; 'hypeman stats' prints once");
    if (!newterm(NULL, stdout, stdin)) {
        err_set(&e, ERR_INTERNAL, "this terminal (%s) is not known", getenv("TERM"));
        return report(&e);
    }
    (void)raw(); /* Ctrl-C is a key here */
    (void)noecho();
    (void)curs_set(0);
    rc = watch(refresh_ms, &e);
    (void)endwin();
    return rc < 0 ? report(&e) : CLI_OK;
}

const struct cli_verb cli_top = {
    .name = "top",
    .help = "Watch what instances use, live",
    .usage = "[flags]",
    .run = top,
};
