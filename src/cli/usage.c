/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/usage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cli/session.h"
#include "cli/text.h"

void usages_free(struct usages *u)
{
    free(u->all);
    *u = (struct usages){0};
}

const char *amount_text(uint64_t bytes, char out[AMOUNT_SIZE])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    size_t i = 0;

    while (v >= 1000 && i + 1 < sizeof(units) / sizeof(units[0])) {
        v /= 1024;
        i++;
    }
    (void)snprintf(out, AMOUNT_SIZE, i == 0 ? "%.0f%s" : v < 10 ? "%.2f%s" : "%.1f%s", v, units[i]);
    return out;
}

static uint64_t count_of(const json_t *doc, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(doc, key));

    return v > 0 ? (uint64_t)v : 0;
}

static int look_at(struct usages *u, const char *name, const char *state, struct err *e)
{
    auto_free char *path = instance_path(name, "/stats");
    json_auto_t *doc = session_get(path, e);
    struct usage *one;

    if (!doc)
        return -1;
    u->all = mem_realloc(u->all, (u->n + 1) * sizeof(*u->all));
    one = &u->all[u->n++];
    *one = (struct usage){
        .cpu_s = json_number_value(json_object_get(doc, "cpu_seconds")),
        .memory_bytes = count_of(doc, "memory_rss_bytes"),
        .allocated_bytes = count_of(doc, "allocated_memory_bytes"),
        .received_bytes = count_of(doc, "network_rx_bytes"),
        .sent_bytes = count_of(doc, "network_tx_bytes"),
    };
    (void)snprintf(one->name, sizeof(one->name), "%s", text_of(doc, "instance_name"));
    (void)snprintf(one->state, sizeof(one->state), "%s", state);
    return 0;
}

/* What goes away between the list and the look is no error. */
static int look_at_all(struct usages *u, struct err *e)
{
    json_auto_t *list = session_get("/instances", e);
    const json_t *row;
    size_t i;

    if (!list)
        return -1;
    json_array_foreach(list, i, row)
    {
        const char *state = text_of(row, "state");

        if (strcmp(state, "Stopped") == 0 || strcmp(state, "Standby") == 0)
            continue;
        if (look_at(u, text_of(row, "id"), state, e) < 0) {
            if (e->code != ERR_NOT_FOUND)
                return -1;
            err_clear(e);
        }
    }
    return 0;
}

static void compare(struct usages *u, const struct usages *last)
{
    double seconds = (double)(u->at_us - last->at_us) / 1e6;

    for (size_t i = 0; i < u->n; i++) {
        for (size_t k = 0; k < last->n; k++) {
            if (strcmp(u->all[i].name, last->all[k].name) != 0)
                continue;
            if (u->all[i].cpu_s >= last->all[k].cpu_s && seconds > 0) /* else it was restarted */
                u->all[i].cpu_percent = (u->all[i].cpu_s - last->all[k].cpu_s) / seconds * 100;
            break;
        }
    }
}

int usages_look(struct usages *out, const struct usages *last, int n, char **names, struct err *e)
{
    auto_usages struct usages u = {.at_us = clock_us()};

    for (int i = 0; i < n; i++) {
        if (look_at(&u, names[i], "", e) < 0)
            return -1;
    }
    if (n == 0 && look_at_all(&u, e) < 0)
        return -1;
    if (last)
        compare(&u, last);
    *out = u;
    u = (struct usages){0};
    return 0;
}
