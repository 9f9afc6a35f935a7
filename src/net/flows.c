/* SPDX-License-Identifier: Apache-2.0 */
#include "net/flows.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"

/* FLOWS_MAX is what the kernel itself tracks by default. */
enum { FLOWS_MAX = 1 << 18, KEY_SIZE = 25, GUEST_SIZE = 9, OPENER = 0, TARGET = 1 };

struct guest {
    struct map_link link;
    char key[GUEST_SIZE];
    struct list flows[2]; /* that it opened, that lead to it */
    unsigned n_open[2];
};

struct flow {
    struct map_link link;
    char text[KEY_SIZE];
    struct flow_key key;
    struct list all;
    struct guest *guests[2]; /* NULL: not a guest */
    struct list of_guest[2];
    uint64_t listed; /* the last listing that it was in, or was told of in */
    uint64_t told;   /* the listing that was the last when it was told of; 0: never */
    bool is_open;
    bool is_new;
};

struct flows {
    struct map by_key;
    struct map guests;
    struct list all;
    uint64_t listing; /* counts them */
    bool is_listing;
    bool is_full; /* said already */
    size_t n_untold;
};

struct flows *flows_new(void)
{
    struct flows *f = mem_new(struct flows);

    list_init(&f->all);
    f->listing = 1;
    return f;
}

static void key_text(const struct flow_key *k, char out[KEY_SIZE])
{
    (void)snprintf(out,
                   KEY_SIZE,
                   "%08" PRIx32 "%08" PRIx32 "%04" PRIx16 "%04" PRIx16,
                   k->from,
                   k->to,
                   k->from_port,
                   k->to_port);
}

static struct flow *find(const struct flows *f, const struct flow_key *k)
{
    char text[KEY_SIZE];
    struct map_link *l;

    key_text(k, text);
    l = map_find(&f->by_key, text);
    return l ? container_of(l, struct flow, link) : NULL;
}

static struct guest *find_guest(const struct flows *f, uint32_t address)
{
    char text[GUEST_SIZE];
    struct map_link *l;

    (void)snprintf(text, sizeof(text), "%08" PRIx32, address);
    l = map_find(&f->guests, text);
    return l ? container_of(l, struct guest, link) : NULL;
}

static struct guest *get_guest(struct flows *f, uint32_t address)
{
    struct guest *g = find_guest(f, address);

    if (g)
        return g;
    g = mem_new(struct guest);
    (void)snprintf(g->key, sizeof(g->key), "%08" PRIx32, address);
    list_init(&g->flows[OPENER]);
    list_init(&g->flows[TARGET]);
    map_put(&f->guests, &g->link, g->key);
    return g;
}

static void set_open(struct flow *flow, bool is_open)
{
    if (flow->is_open == is_open)
        return;
    flow->is_open = is_open;
    for (int i = 0; i < 2; i++) {
        struct guest *g = flow->guests[i];

        if (g)
            g->n_open[i] = is_open ? g->n_open[i] + 1 : g->n_open[i] - 1;
    }
}

static void set_told(struct flows *f, struct flow *flow)
{
    if (flow->told == 0)
        f->n_untold--;
    flow->told = f->listing;
    flow->listed = f->listing;
}

static struct flow *add(struct flows *f, const struct flow_news *news)
{
    struct flow *flow;

    if (f->by_key.n >= FLOWS_MAX) {
        if (!f->is_full)
            log_warn("network: guests have more than %d connections; the rest is not counted",
                     FLOWS_MAX);
        f->is_full = true;
        return NULL;
    }
    flow = mem_new(struct flow);
    flow->key = news->key;
    key_text(&flow->key, flow->text);
    map_put(&f->by_key, &flow->link, flow->text);
    list_append(&f->all, &flow->all);
    for (int i = 0; i < 2; i++) {
        list_init(&flow->of_guest[i]);
        if (news->guests[i] == 0)
            continue;
        flow->guests[i] = get_guest(f, news->guests[i]);
        list_append(&flow->guests[i]->flows[i], &flow->of_guest[i]);
    }
    flow->listed = f->listing;
    f->n_untold++;
    return flow;
}

static void free_if_idle(struct flows *f, struct guest *g)
{
    if (!g || !list_empty(&g->flows[OPENER]) || !list_empty(&g->flows[TARGET]))
        return;
    map_remove(&f->guests, &g->link);
    free(g);
}

static void drop(struct flows *f, struct flow *flow)
{
    set_open(flow, false);
    if (flow->told == 0)
        f->n_untold--;
    map_remove(&f->by_key, &flow->link);
    list_remove(&flow->all);
    list_remove(&flow->of_guest[OPENER]);
    list_remove(&flow->of_guest[TARGET]);
    free_if_idle(f, flow->guests[OPENER]);
    if (flow->guests[TARGET] != flow->guests[OPENER])
        free_if_idle(f, flow->guests[TARGET]);
    free(flow);
}

void flows_free(struct flows *f)
{
    if (!f)
        return;
    while (!list_empty(&f->all))
        drop(f, container_of(f->all.next, struct flow, all));
    map_free(&f->by_key);
    map_free(&f->guests);
    free(f);
}

void flows_tell(struct flows *f, const struct flow_news *news)
{
    struct flow *flow = find(f, &news->key);

    if (!flow && (news->is_open || f->is_listing))
        flow = add(f, news);
    if (!flow)
        return;
    set_told(f, flow);
    set_open(flow, news->is_open);
    flow->is_new = news->is_new;
    if (!news->is_open && !f->is_listing)
        drop(f, flow);
}

void flows_list_begin(struct flows *f)
{
    f->listing++;
    f->is_listing = true;
}

void flows_list(struct flows *f, const struct flow_news *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct flow *flow = find(f, &v[i].key);

        if ((flow && flow->told == f->listing) || !v[i].is_open)
            continue;
        if (!flow)
            flow = add(f, &v[i]);
        if (!flow)
            continue;
        flow->listed = f->listing;
        set_open(flow, true);
        flow->is_new = v[i].is_new;
    }
}

void flows_list_end(struct flows *f)
{
    struct list *next;

    f->is_listing = false;
    f->is_full = false;
    for (struct list *l = f->all.next; l != &f->all; l = next) {
        struct flow *flow = container_of(l, struct flow, all);

        next = l->next;
        if (!flow->is_open || flow->listed != f->listing)
            drop(f, flow);
    }
}

struct flow_counts flows_of(const struct flows *f, uint32_t guest)
{
    const struct guest *g = find_guest(f, guest);

    return g ? (struct flow_counts){.inbound = g->n_open[TARGET], .outbound = g->n_open[OPENER]}
             : (struct flow_counts){0};
}

size_t flows_untold(const struct flows *f)
{
    return f->n_untold;
}

struct flow_key *flows_keys(const struct flows *f, uint32_t guest, enum flows_which which,
                            size_t *n_out)
{
    struct guest *g = find_guest(f, guest);
    size_t room = g ? g->n_open[OPENER] + g->n_open[TARGET] : 0;
    struct flow_key *v = room ? mem_zalloc(room, sizeof(*v)) : NULL;
    size_t n = 0;

    for (int i = which == FLOWS_ALL ? OPENER : TARGET; v && i <= TARGET; i++) {
        for (struct list *l = g->flows[i].next; l != &g->flows[i]; l = l->next) {
            const struct flow *flow = container_of(l, struct flow, of_guest[i]);

            if (flow->is_open && (which == FLOWS_ALL || flow->is_new))
                v[n++] = flow->key;
        }
    }
    *n_out = n;
    return v;
}
